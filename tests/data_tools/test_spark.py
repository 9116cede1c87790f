"""The same expressions on Spark: the same tables, row for row."""

import shutil

import ibis
import numpy as np
import polars as pl
import pytest
from prepare_helpers import run, write_log

from data_tools.log import histories, labels
from data_tools.log import values as behaviour_log

UNCLICKED = ("uniform", "popularity", "category", "category_popularity")


def log_table():
    columns = {"user_id": "string", "item_id": "string", "timestamp": "string", "click": "string", "__row__": "int64"}
    return ibis.table(columns, name="log")


def test_every_expression_compiles_for_spark():
    pytest.importorskip("pyspark", reason="Spark is not installed: pip install -e '.[spark]'")
    assert ibis.pyspark.name == "pyspark"  # which registers the compiler's options, too
    catalogue = ibis.table({"item": "int32", "key": "string", "category": "string"}, name="catalogue")
    names = {name: name for name in ("user_id", "item_id", "timestamp", "click")}
    rated = {**names, "rating": "click"}
    judged = behaviour_log.judge(log_table(), names, catalogue.drop("category"), "auto", "log")
    rows = {"row": "int64", "user": "int32", "item": "int32", "timestamp": "int64", "click": "int8"}
    good, users = ibis.table(rows, name="good"), ibis.table({"user": "int32", "user_id": "string"}, name="users")
    timeline = histories.timelines(good, 1800, 10)
    views = histories.page_views(timeline)
    bad = ibis.table({"row": "int64", "reason": "string"}, name="bad")
    for expression in (
        judged,
        behaviour_log.judge(log_table(), rated, catalogue.drop("category"), "milliseconds", "log"),
        behaviour_log.repeated(judged),
        behaviour_log.set_aside(log_table(), bad),
        behaviour_log.count_reasons(bad),
        histories.numbered_users(judged),
        histories.splits(timeline.join(views, histories.page_key(timeline)), 1, 2),
        histories.user_clicks(good, users),
        labels.from_ratings(good.mutate(rating=good.timestamp), "own_mean"),
    ):
        assert ibis.to_sql(expression, dialect="pyspark").lstrip().startswith(("SELECT", "WITH"))


def write_case(source, case):
    """A log that asks for one of the ways that prepare can go; the settings that go with it."""
    random = np.random.default_rng(3)
    n = 500
    users, items = random.integers(0, 9, n), random.integers(0, 20, n)
    times, clicks = random.integers(0, 3000, n) + 1_600_000_000, random.integers(0, 2, n)
    frame = pl.DataFrame({"user_id": users * 7, "item_id": items, "timestamp": times, "click": clicks})
    (source / "items.csv").write_text("item_id,image,category\n" + "".join(f"{i},00.png,c{i % 3}\n" for i in range(20)))
    match case:
        case "text":
            write_log(
                source, ["a,0,2024-01-05T10:00:00+01:30,1", "007,1,1704448800.7,0", "b,x,nan,2", "b,,12:30,1", "c,1"]
            )
            return {"max_bad_share": 0.9}
        case "parquet parts":
            (source / "log").mkdir()
            for part in range(3):
                frame[part::3].write_parquet(source / "log" / f"{part}.parquet")
            return {"log": "log", "max_bad_share": 0.5, "new_item_share": 0.2}
        case "requests":
            frame = frame.with_columns(
                pl.col("item_id").cast(pl.UInt64),
                request_id=pl.Series([f"r{t // 60}" for t in times]),
                position=pl.Series(random.integers(0, 9, n)),
                conversion=pl.Series(clicks).replace(0, None),
                timestamp=pl.from_epoch("timestamp", "s"),
            )
        case "own mean":
            frame = frame.rename({"click": "rating"}).with_columns(rating=pl.Series(random.integers(1, 11, n) / 10))
            frame.write_parquet(source / "log.parquet")
            return {"log": "log.parquet", "max_bad_share": 0.5, "rating_threshold": "own_mean"}
        case "uniform" | "popularity" | "category" | "category_popularity":
            frame.filter(pl.col("click") == 1).drop("click").write_parquet(source / "log.parquet")
            return {"log": "log.parquet", "max_bad_share": 0.5, "unclicked": 2, "unclicked_from": case, "seed": 5}
    frame.write_parquet(source / "log.parquet")
    return {"log": "log.parquet", "max_bad_share": 0.5}


@pytest.fixture(scope="module")
def session():
    pytest.importorskip("pyspark", reason="Spark is not installed: pip install -e '.[spark]'")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java 17 or newer; there is no java on the path")
    from pyspark.sql import SparkSession

    settings = {"spark.ui.enabled": "false", "spark.sql.session.timeZone": "UTC", "spark.sql.shuffle.partitions": "3"}
    builder = SparkSession.builder.master("local[2]")
    for key, value in settings.items():
        builder = builder.config(key, value)
    running = builder.getOrCreate()
    yield running
    running.stop()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["text", "parquet parts", "requests", "own mean", *UNCLICKED])
def test_spark_gives_the_same_tables(source, session, case):
    settings = write_case(source, case)
    duck, spark = (run(source, out=engine, engine=engine, **settings) for engine in ("duckdb", "spark"))
    for name in ("items", "impressions", "clicks"):
        one, other = getattr(duck, name), getattr(spark, name)
        assert one.schema == other.schema and one.equals(other), name
    for name in ("set_aside", "set_aside_lines", "set_aside_items"):
        assert pl.read_parquet(duck.folder / f"{name}.parquet").equals(
            pl.read_parquet(spark.folder / f"{name}.parquet")
        )
    assert {k: v for k, v in duck.info.items() if k != "fingerprint"} == {
        k: v for k, v in spark.info.items() if k != "fingerprint"
    }
