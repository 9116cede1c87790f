"""Shops as their owners export them: Shopify, WooCommerce, GA4, Segment, ad logs, RecBole; read, or with what to do."""

import json
import re
import subprocess
from pathlib import Path

import duckdb
import polars as pl
import pytest
from prepare_helpers import log, notes, picture, run, stopped

DOCS = Path(__file__).parents[2] / "docs" / "own-data.md"


def catalogue(source):
    return pl.read_csv(source / "items.csv", infer_schema=False)


def commands(said, folder):
    """Run the command for the shell, or of Python, that a message names, in a folder."""
    found = re.search(r"(python -c '.*?'|mkdir .*NEW.csv|sed -E '.*?' OLD.csv > NEW.csv)", said)[1]
    subprocess.run(found, shell=True, check=True, cwd=folder)


@pytest.mark.parametrize("kind", ["text", "parquet", "one part rewritten"])
def test_a_log_of_several_parts_at_relative_paths_is_read_whole(source, monkeypatch, kind):
    whole = run(source, out="whole").impressions
    parts, rows = (
        source / "parts",
        log(source).with_columns(pl.col("timestamp").cast(pl.Float64), click=pl.col("click").cast(pl.Int8)),
    )
    parts.mkdir()
    for number in range(4):
        own = rows.slice(100 * number, 100)
        if kind == "text":
            log(source).slice(100 * number, 100).write_csv(parts / f"{number}.csv")
            continue
        if kind == "one part rewritten" and number == 2:  # the row with NaN is set aside, and its part is copied
            extra = own.head(1).with_columns(timestamp=pl.lit(float("nan")))
            own = pl.concat([own, extra])
        own.write_parquet(parts / f"{number}.parquet")
    monkeypatch.chdir(source.parent)
    log_place = parts.absolute() if kind == "one part rewritten" else Path("in/parts")
    dataset = run(Path("in"), log=str(log_place) if log_place.is_absolute() else "parts", out="relative")
    assert dataset.impressions.equals(whole)
    assert dataset.info["counts"]["rows_set_aside"] == (kind == "one part rewritten")


def test_shopify_leaves_the_further_rows_of_a_product_empty(source):
    rows = [
        {"item_id": item, "image": f"{item}.png", "title": f'a "hand made" {item}', "size": None}
        for item in catalogue(source)["item_id"]
    ]
    for item in ("03", "04"):
        (source / f"{item}-b.png").write_bytes(picture())
        rows += [{"item_id": item, "image": f"{item}-b.png"}, {"item_id": item}]
    pl.DataFrame(rows, schema_overrides={"size": pl.String}).write_csv(source / "shop.csv", line_terminator="\r\n")
    dataset = run(source, items="shop.csv")
    assert not dataset.info["set_aside_items"] and dataset.info["counts"]["pictures"] == 22
    assert "2 rows of the item list repeat an item and add nothing" in notes(dataset)
    assert dataset.items["title"][3] == 'a "hand made" 03'


def test_rows_that_repeat_an_item_beside_columns_of_any_name(source):
    """Among them the names that are used inside, and lists."""
    (source / "03-b.png").write_bytes(picture())
    own = catalogue(source).with_columns(own=pl.lit("a"), first=pl.lit(3), row=pl.concat_list(pl.lit(1), pl.lit(2)))
    further = own.filter(item_id="03").with_columns(image=pl.lit("03-b.png"), row=None)
    pl.concat([own, further], how="vertical_relaxed").write_parquet(source / "items.parquet")
    items = run(source, items="items.parquet").items
    assert items["images"].list.len().to_list() == [1, 1, 1, 2] + [1] * 16
    assert items["row"].to_list() == [[1, 2]] * 20 and set(items["own"]) == {"a"} and set(items["first"]) == {3}


def test_variants_name_the_columns_in_which_they_differ_and_the_command(source):
    titles = [catalogue(source).with_columns(title=pl.lit(size)) for size in "SM"]
    pl.concat(titles).write_csv(source / "OLD.csv")
    assert "these differ in title\n" in stopped(source, items="OLD.csv")
    sizes = [
        catalogue(source).with_columns(size=pl.lit(size), sku=pl.format(f"{{}}{size}", "item_id")) for size in "SM"
    ]
    pl.concat(sizes).write_csv(source / "OLD.csv")
    said = stopped(source, items="OLD.csv")
    assert "these differ in size, sku; without these columns they are one item" in said
    commands(said, source)
    assert len(run(source, items="NEW.csv").items) == 20


@pytest.mark.parametrize("between", ["|", ", ", ";"])
def test_names_of_several_pictures_in_one_cell(source, between):
    (source / "one, two.png").write_bytes(picture())
    named = pl.when(pl.col("item_id") < "02").then(pl.format("{}" + between + "05.png", "image")).otherwise("image")
    catalogue(source).with_columns(named).write_csv(source / "items.csv")
    dataset = run(source)
    assert dataset.info["counts"]["pictures"] == 22 and f"with {between.strip()!r} between them" in notes(dataset)
    catalogue(source).with_columns(image=pl.lit("one, two.png")).write_csv(source / "items.csv")
    single = run(source, out="single")
    assert "pictures" not in single.info["counts"] and single.info["counts"]["items_with_image"] == 20


def test_addresses_name_the_command_that_leaves_them_out(source):
    named = pl.format("https://cdn.example/files/{}?v=1", "image")
    catalogue(source).with_columns(named.alias("image")).write_csv(source / "OLD.csv")
    said = stopped(source, items="OLD.csv")
    assert f"{source / '00.png'} exists: write the names without their addresses" in said
    commands(said, source)
    assert run(source, items="NEW.csv").info["counts"]["items_with_image"] == 20


def test_addresses_of_pictures_that_are_not_there_name_the_download(source):
    web = source / "web"
    web.mkdir()
    for path in source.glob("*.png"):
        path.rename(web / path.name)
    named = pl.format("https://cdn.example/files/{}", "image")
    catalogue(source).with_columns(named.alias("image")).write_csv(source / "OLD.csv")
    said = stopped(source, items="OLD.csv")
    assert "curl -sSfLO" in said and "several end in the same name" not in said
    alike = pl.format("https://cdn.example/{}/main.png", "item_id")
    catalogue(source).with_columns(alike.alias("image")).write_csv(source / "OLD.csv")
    assert "several end in the same name" in stopped(source, items="OLD.csv")


def test_ids_that_stand_in_another_column_of_the_item_list(source):
    other = catalogue(source).drop("price").with_columns(sku="item_id", item_id=pl.format("P{}", "item_id"))
    other.write_csv(source / "items.csv")
    assert "100% of these stand in its column sku: --item-columns item_id=sku" in stopped(source)
    assert run(source, item_columns="item_id=sku").info["counts"]["items_with_image"] == 20


def events(source):
    """The log as GA4 has it: rows of what was shown and of what was clicked, products inside."""
    rows = []
    for row in log(source).to_dicts():
        time = int(row["timestamp"]) * 1_000_000
        user, items = row["user_id"], [{"item_id": row["item_id"], "index": 1}]
        rows.append({"user_pseudo_id": user, "event_timestamp": time, "event_name": "view_item_list", "items": items})
        if row["click"] == "1":
            rows.append(rows[-1] | {"event_timestamp": time + 4_000_000, "event_name": "select_item"})
    return rows


GA4 = {"user_id": "user_pseudo_id", "timestamp": "event_timestamp", "click": "event_name"}


@pytest.mark.parametrize("form", ["lines", "array", "csv", "tsv"])
def test_products_inside_events_are_spread_by_the_command_that_is_named(source, form):
    rows = events(source)
    name = {"lines": "events.jsonl", "array": "events.json"}.get(form, f"events.{form}")
    if form == "lines":
        (source / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "array":
        (source / name).write_text(json.dumps(rows))
    else:
        flat = pl.DataFrame([row | {"items": json.dumps(row["items"])} for row in rows])
        flat.write_csv(source / name, separator="," if form == "csv" else "\t", include_bom=True)
    ours = ",".join(f"{ours}={theirs}" for ours, theirs in GA4.items())
    for columns in (ours, f"{ours},item_id=items"):
        said = stopped(source, log=name, columns=columns, click_values="select_item")
        assert "Its column 'items' holds item_id, index in each row; spread it first" in said
    commands(said, source)
    settings = {"log": f"{name}.flat.parquet", "columns": ours, "click_values": "select_item"}
    dataset = run(source, **settings)
    assert dataset.info["counts"]["impressions"] == len(rows)
    assert "where a click has a row of its own beside that of the impression" in notes(dataset)


def test_events_are_joined_as_the_documentation_says(source, monkeypatch):
    frame = pl.DataFrame(events(source)).explode("items").unnest("items").cast(pl.String)
    frame.write_parquet(source / "events.csv.flat.parquet")
    monkeypatch.chdir(source)
    exec(re.search(r"```python\n(import duckdb.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[1])
    joined = duckdb.sql("SELECT count(*), sum(click) FROM 'log.parquet'").fetchall()[0]
    shown = {
        (row["user_pseudo_id"], row["items"][0]["item_id"], row["event_timestamp"] // 1_800_000_000)
        for row in events(source)
    }
    assert joined[0] == len(shown) and 0 < joined[1] <= log(source)["click"].cast(int).sum()
    dataset = run(source, log="log.parquet", columns="user_id=user_pseudo_id")
    assert dataset.info["counts"]["impressions"] == len(shown) and "rows of their own" not in notes(dataset)


def test_an_ad_log_without_header_users_or_text(source, plain):
    """Names of columns that are hashes, as Avazu's and Criteo's first lines, are said to be no header."""
    hashed = {item: f"{number * 2654435761 % 2**32:08x}" for number, item in enumerate(catalogue(source)["item_id"])}
    rows, items = log(source).with_columns(pl.col("item_id").replace(hashed)), catalogue(source)
    items.with_columns(pl.col("item_id").replace(hashed)).write_csv(
        source / "list.tsv", separator="\t", include_header=False
    )
    for day in range(4):
        folder = source / "hive" / f"dt=2014-10-{21 + day}"
        folder.mkdir(parents=True)
        rows.slice(100 * day, 100).write_csv(
            folder / "part-0.gz", separator="\t", include_header=False, compression="gzip"
        )
    said = stopped(source, log="hive", items="list.tsv")
    assert "if its first line is no header, name its columns: --header a,b,c (--item-header for an item list)" in said
    given = {"log": "hive", "items": "list.tsv", "item_header": "item_id,image,price"}
    assert "No users at all: what is learned" in stopped(source, header="device,item_id,timestamp,click", **given)
    found = run(source, header="user_id,item_id,timestamp,click", **given)
    assert found.impressions["timestamp"].equals(plain.impressions["timestamp"])


def test_atomic_files_of_recbole(source, plain):
    kinds = {"user_id": "token", "item_id": "token", "timestamp": "float", "click": "float"}
    log(source).rename({name: f"{name}:{kind}" for name, kind in kinds.items()}).write_csv(
        source / "shop.inter", separator="\t"
    )
    catalogue(source).rename({"item_id": "item_id:token", "image": "image:token", "price": "price:float"}).write_csv(
        source / "shop.item", separator="\t"
    )
    dataset = run(source, log="shop.inter", items="shop.item")
    assert dataset.impressions.equals(plain.impressions) and dataset.items.columns == plain.items.columns
