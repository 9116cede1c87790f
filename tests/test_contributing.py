"""The worked example of CONTRIBUTING.md, word for word: a package with an aggregator, and its commands."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools.common.files import read_json
from tests.installed import install, run

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(language: str, first: str) -> str:
    """The code block that begins with a line."""
    found = [text for kind, text in re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL) if kind == language]
    return next(text for text in found if text.startswith(first))


@pytest.fixture
def shop(tmp_path):
    """Folder with the example installed."""
    install(tmp_path, {"my_shop.py": block("python", "# my_shop.py")}, block("toml", "# pyproject.toml"))
    return tmp_path


def example(tiny_world, folder, name="decay"):
    """The example's training, on a dataset and a table that are there."""
    places = {"my/dataset": tiny_world / "dataset", "my/table": tiny_world / "planted", "runs/decay": folder / name}
    words = shlex.split(block("sh", "python -m downstream.train --dataset").splitlines()[0])
    return [str(places.get(word, word)) for word in words[1:]]


def test_the_example_trains_with_its_option(shop, tiny_world):
    done = run(shop, *example(tiny_world, shop))
    assert done.returncode == 0, done.stderr
    settings = read_json(shop / "decay" / "summary.json")["settings"]
    assert settings["image"]["aggregator"] == "decay" and settings["image"]["decay"] == {"half_life": 5.0}


def test_its_option_alone_is_an_error(shop, tiny_world):
    flags = example(tiny_world, shop)
    place = flags.index("--image.aggregator")
    done = run(shop, *flags[:place], *flags[place + 2 :])
    assert done.returncode == 1 and "--image.aggregator decay" in done.stderr and "Traceback" not in done.stderr


def test_its_help_shows_the_option(shop):
    done = run(shop, *shlex.split(block("sh", "python -m downstream.train --dataset").splitlines()[1])[1:])
    assert (
        done.returncode == 0 and "half_life" in done.stdout and "Clicks after which a click counts half" in done.stdout
    )


def test_the_example_sums_as_it_says(shop, monkeypatch):
    monkeypatch.syspath_prepend(str(shop))
    import my_shop

    pool = my_shop.Decay(3, my_shop.Decay.Settings(half_life=2.0), slots=4, query_size=1)
    rng = np.random.default_rng(0)
    clicked, mask = rng.normal(size=(2, 4, 3)), np.array([[True, True, False, True], [False] * 4])
    expected = [sum((0.5 ** (h / 2) * clicked[b, h] for h in range(4) if mask[b, h]), np.zeros(3)) for b in range(2)]
    found = pool(torch.tensor(clicked, dtype=torch.float32), torch.tensor(mask), torch.zeros(2, 3), torch.zeros(2, 1))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
