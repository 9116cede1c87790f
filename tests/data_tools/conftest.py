import numpy as np
import polars as pl
import pytest
from prepare_helpers import picture, run


def written(folder):
    """A log of 400 rows by 10 users on 20 items, "00" to "19", with pictures."""
    folder.mkdir()
    random = np.random.default_rng(7)
    items = [f"{number:02}" for number in range(20)]
    for item in items:
        (folder / f"{item}.png").write_bytes(picture())
    log = pl.DataFrame(
        {
            "user_id": [f"u{number}" for number in random.integers(0, 10, 400)],
            "item_id": random.choice(items, 400),
            "timestamp": np.sort(random.choice(100_000, 400, replace=False)) + 1_600_000_000,
            "click": random.integers(0, 2, 400),
        }
    )
    log.write_csv(folder / "log.csv")
    catalogue = pl.DataFrame({"item_id": items, "image": [f"{item}.png" for item in items], "price": range(20)})
    catalogue.write_csv(folder / "items.csv")
    return folder


@pytest.fixture
def source(tmp_path):
    """Folder of a log of 400 rows by 10 users on 20 items, "00" to "19", with pictures: a test may change it."""
    return written(tmp_path / "in")


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """The dataset of :func:`source` as it is; nobody changes it."""
    return run(written(tmp_path_factory.mktemp("plain") / "in"))
