"""What the tests of prepare share."""

import io

import polars as pl
import pytest
from PIL import Image

from data_tools.common.cli import UserError
from data_tools.dataset.schema import open_dataset
from data_tools.prepare import Settings, prepare


def picture(kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, kind)
    return file.getvalue()


def run(folder, /, log="log.csv", items="items.csv", out="dataset", **settings):
    out = folder.parent / out
    places = {"impressions": str(folder / log), "items": str(folder / items), "out": out}
    prepare(Settings(**places, **({"images": str(folder)} | settings)))
    return open_dataset(out)


def write_log(source, rows, header="user_id,item_id,timestamp,click", name="log.csv"):
    (source / name).write_text("\n".join([header, *rows]) + "\n")


def stopped(folder, /, **settings):
    with pytest.raises(UserError) as caught:
        run(folder, **settings)
    left = {path.name for path in folder.parent.iterdir()} - {"in", f"{settings.get('out', 'dataset')}.set_aside"}
    assert not left, "something was left behind"
    return str(caught.value)


def log(source):
    return pl.read_csv(source / "log.csv", infer_schema=False)


def typed(source):
    return log(source).with_columns(pl.col("timestamp", "click").cast(pl.Int64))


def parquet(source, frame, **settings):
    """What stops a log of Parquet."""
    frame.write_parquet(source / "log.parquet")
    return stopped(source, log="log.parquet", **settings)


def notes(dataset):
    return " ".join(dataset.info["understood"])
