"""Public data sets in the format of their owners, a few rows made up for each, become datasets."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from prepare_helpers import picture

from data_tools.common.cli import UserError, parse_settings
from data_tools.common.plugins import summary
from data_tools.convert import Settings, convert
from data_tools.converters import CONVERTERS
from data_tools.converters.criteo import Criteo
from data_tools.converters.hm import HM
from data_tools.dataset.schema import open_dataset
from data_tools.tables.table import read_table


def put(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def made(tmp_path, source, files, **settings):
    put(tmp_path / "files", files)
    out = convert(Settings(source=source, files=tmp_path / "files", out=tmp_path / "dataset", **settings))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    dataset = open_dataset(out)
    assert dataset.info["source"] and dataset.info["licence"]
    return dataset


def pictured(dataset):
    return dict(dataset.items.select("item_id", pl.col("image").is_not_null()).iter_rows())


DAT = "1::10::5::978300760\n1::20::3::978302109\n2::10::4::978301968\n2::20::1::978300275\n"
ML = {
    "1m": {
        "ml-1m/ratings.dat": DAT,
        "ml-1m/movies.dat": "10::Café (1995)::Drama|Romance\n20::Toy: Two (1999)::Comedy\n".encode("latin-1"),
        "posters/10.jpg": picture("JPEG"),
    },
    "latest": {
        "ratings.csv": "userId,movieId,rating,timestamp\n"
        + "\n".join(
            ",".join((*row.split("::")[:2], row.split("::")[2] + ".0", row.split("::")[3])) for row in DAT.split()
        ),
        "movies.csv": 'movieId,title,genres\n10,"Café (1995)",Drama|Romance\n20,"Toy: Two (1999)",Comedy\n',
        "posters/10.jpg": picture("JPEG"),
    },
    "100k": {
        "u.data": DAT.replace("::", "\t"),
        "u.item": (
            "10|Café (1995)|01-Jan-1995||http://x|0|0|0|0|0|0|0|0|1|0|0|0|0|0|1|0|0|0|0\n"
            "20|Toy: Two (1999)|01-Jan-1999||http://y|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
        ).encode("latin-1"),
        "posters/10.jpg": picture("JPEG"),
    },
}


@pytest.mark.parametrize("release", ML)
def test_movielens(tmp_path, release):
    dataset = made(tmp_path, "movielens", ML[release])
    assert dataset.impressions.select("user_id", "item_id", "timestamp", "click").rows() == [
        ("2", "20", 978300275, 0),
        ("1", "10", 978300760, 1),
        ("2", "10", 978301968, 1),
        ("1", "20", 978302109, 0),
    ]
    assert dataset.items.select("title", "category", "genres").rows() == [
        ("Café (1995)", "Drama", "Drama|Romance"),
        ("Toy: Two (1999)", "Comedy", "Comedy"),
    ]
    assert pictured(dataset) == {"10": True, "20": False}
    assert dataset.info["labels"]["rating_threshold"] == 4.0


def test_settings_given_win_over_those_of_the_source(tmp_path):
    dataset = made(tmp_path, "movielens", ML["1m"], rating_threshold=5.0)
    assert dataset.impressions["click"].sum() == 1


def test_amazon_reviews(tmp_path):
    reviews = [
        {"rating": 5.0, "title": "t", "text": "x", "images": [], "asin": "B1", "parent_asin": "P1"},
        {"rating": 3.0, "title": "t", "text": "y", "images": [], "asin": "B2", "parent_asin": "P2"},
    ]
    more = {"helpful_vote": 0, "verified_purchase": True}
    rows = [one | {"user_id": "AE", "timestamp": 1588687728923 + n} | more for n, one in enumerate(reviews)]
    products = [
        {"main_category": "All Beauty", "title": "Brush", "average_rating": 4.8, "rating_number": 10, "features": []},
        {"main_category": "All Beauty", "title": "Soap", "average_rating": 4.5, "rating_number": 3, "features": []},
    ]
    paths = [["Beauty", "Tools", "Brushes"], []]
    rest = {"description": [], "price": None, "images": [{"thumb": "u"}], "videos": [], "store": "S", "details": {}}
    meta = [
        p | rest | {"categories": c, "parent_asin": f"P{n + 1}"}
        for n, (p, c) in enumerate(zip(products, paths, strict=True))
    ]
    dataset = made(
        tmp_path,
        "amazon_reviews",
        {
            "All_Beauty.jsonl.gz": gzip.compress("\n".join(map(json.dumps, rows)).encode()),
            "meta_All_Beauty.jsonl.gz": gzip.compress("\n".join(map(json.dumps, meta)).encode()),
            "images/P1.png": picture(),
        },
    )
    assert dataset.impressions.select("user_id", "item_id", "timestamp", "click").rows() == [
        ("AE", "P1", 1588687728923, 1),
        ("AE", "P2", 1588687728924, 0),
    ]
    assert dataset.info["time_unit"] == "milliseconds" and "All_Beauty" in dataset.info["source"]
    assert dataset.items.select("title", "category").rows() == [("Brush", "Brushes"), ("Soap", "All Beauty")]
    assert pictured(dataset) == {"P1": True, "P2": False}


def test_hm(tmp_path):
    log = "t_dat,customer_id,article_id,price,sales_channel_id\n" + "".join(
        f"2018-09-{20 + n},c{n % 2},0{108775015 + n},0.05,{1 + n % 2}\n" for n in range(4)
    )
    articles = (
        "article_id,product_code,prod_name,product_type_no,product_type_name,section_name,detail_desc\n"
        + "".join(
            f'0{108775015 + n},10877{n // 2},Strap top,253,Vest top,S{n},"Jersey top, narrow"\n' for n in range(4)
        )
    )
    pictures = {f"images/010/0{108775015 + n}.jpg": picture("JPEG") for n in range(4)}
    dataset = made(tmp_path, "hm", {"transactions_train.csv": log, "articles.csv": articles} | pictures)
    clicked = dataset.impressions.filter(click=1)
    assert clicked["item_id"].to_list() == [f"0{108775015 + n}" for n in range(4)]
    assert clicked["timestamp"][0] == 1537401600 and clicked["scene"].to_list() == ["1", "2", "1", "2"]
    assert all(pictured(dataset).values())
    drawn = dataset.info["labels"]["unclicked_drawn"]
    assert (drawn["from"], drawn["unlike"]) == ("category_popularity", "product_code")
    assert set(dataset.items["category"]) == {"Vest top"} and dataset.info["counts"]["sampled"]


def test_hm_orders_the_purchases_of_a_day_at_random_or_not_at_all(tmp_path):
    rows = [f"2018-09-20,c{n % 40},0{n % 3},0.05,2\n" for n in range(120)]
    rows += ["2018-09-20,c0,00,0.05,2\n", "2018-09-21,c0,01,0.05,2\n"]
    articles = "article_id,prod_name,product_type_name,section_name\n" + "".join(f"0{n},A,T,S\n" for n in range(3))
    files = {"transactions_train.csv": "t_dat,customer_id,article_id,price,sales_channel_id\n" + "".join(rows)}
    put(tmp_path / "files", files | {"articles.csv": articles})
    found = made(tmp_path, "hm", {}, hm=HM.Settings(category="product_type_name+section_name"))
    assert found.info["set_aside"] == {"duplicate row": 1} and found.items["category"][0] == "T / S"
    day = found.impressions.filter(pl.col("click") == 1, pl.col("timestamp") < 1537401600 + 86400)
    for (_,), bought in day.group_by("user_id"):
        assert sorted(bought["timestamp"] - 1537401600) == [0, 60, 120]
        assert sorted(bought["clicks_before"]) == [0, 1, 2] and sorted(bought["item_id"]) == ["00", "01", "02"]
    first = day.filter(pl.col("clicks_before") == 0)["item_id"].value_counts()["count"]
    assert first.min() > 4, "each article is the first of a day for some customers"
    shutil.rmtree(tmp_path / "dataset")
    alone = made(tmp_path, "hm", {}, hm=HM.Settings(order="none"))
    assert alone.impressions.filter(click=1)["clicks_before"].to_list() == [0] * 120 + [3]


def test_pixelrec(tmp_path):
    log = "item_id,user_id,timestamp\ni1,u1,1640000000\ni2,u2,1640000100\ni2,u1,1640000200\ni3,u2,1640000300\n"
    info = "item_id,view_number,comment_number,thumbup_number,share_number,coin_number,favorite_number,barrage_number,"
    info += 'title,tag,description\ni1,9,1,2,3,4,5,6,"Turtle, mine",Pets,\ni2,9,1,2,3,4,5,6,B,Food,d\ni3,,,,,,,,C,,\n'
    files = {"interactions/Pixel200K.csv": log, "item_info/Pixel200K.csv": info, "cover/i2.jpg": picture("JPEG")}
    dataset = made(tmp_path, "pixelrec", files)
    assert dataset.impressions.filter(click=1).select("user_id", "item_id").rows() == [
        ("u1", "i1"),
        ("u2", "i2"),
        ("u1", "i2"),
        ("u2", "i3"),
    ]
    assert dataset.items.select("title", "category", "view_number").row(0) == ("Turtle, mine", "Pets", 9)
    assert pictured(dataset) == {"i1": False, "i2": True, "i3": False}


@pytest.mark.parametrize("header", ["item,title\n", ""])
def test_microlens(tmp_path, header):
    log = "user,item,timestamp\n36121,9580,1583378629552\n1,2,1583378629600\n1,9580,1583378629700\n"
    titles = f'{header}9580,"One, two"\n2,Three\n'
    files = {"MicroLens-100k_pairs.csv": log, "MicroLens-100k_title_en.csv": titles}
    dataset = made(tmp_path, "microlens", files | {"MicroLens-100k_covers/2.jpg": picture("JPEG")})
    assert dataset.impressions.filter(click=1)["item_id"].to_list() == ["9580", "2", "9580"]
    assert dataset.info["time_unit"] == "milliseconds"
    assert dataset.items["title"].to_list() == ["One, two", "Three"] and pictured(dataset) == {"9580": False, "2": True}


def test_taobao_mm(tmp_path):
    def shard(users, items, clicks):
        columns = {"label_0": [[1 - c, c] for c in clicks], "129_1": users}
        columns |= {f"130_{n}": [n] * len(users) for n in range(1, 6)}
        columns |= {"150_2_180": [[5, 6]] * len(users), "151_2_180": [[1, 2]] * len(users), "205": items}
        columns |= {"206": [i // 10 for i in items], "213": [7] * len(users), "214": [8] * len(users)}
        return pl.DataFrame(columns, schema_overrides={"label_0": pl.List(pl.Int8)})

    files = tmp_path / "files"
    for part, frame in {
        "train": shard([-58, -58, 4, 4], [10, 20, 10, 30], [1, 0, 0, 1]),
        "test": shard([4], [20], [1]),
    }.items():
        (files / part).mkdir(parents=True)
        frame.write_parquet(files / part / f"{part}-shard-000000.parquet")
    (files / "feature_map").mkdir()
    np.save(files / "feature_map" / "scl_emb_int8_p90_keys.npy", np.array([5, 10, 20, 20, 30]))
    values = np.arange(5 * 128).reshape(5, 128).astype(np.int8)
    np.save(files / "feature_map" / "scl_emb_int8_p90_values.npy", values)
    dataset = made(tmp_path, "taobao_mm", {})
    assert dataset.impressions.select("user_id", "item_id", "click", "timestamp").rows() == [
        (-58, 10, 1, 0),
        (-58, 20, 0, 1),
        (4, 10, 0, 2),
        (4, 30, 1, 3),
        (4, 20, 1, 4),
    ]
    assert dataset.items["category"].to_list() == ["1", "2", "3"] and dataset.info["splits"]["test_start"] == 4
    table = read_table(tmp_path / "dataset_table")
    assert table.ids == [10, 20, 30]
    np.testing.assert_allclose(table.vectors, values[[1, 2, 4]] / 127, atol=1e-3)


def test_alibaba_ads(tmp_path):
    log = "user,time_stamp,adgroup_id,pid,nonclk,clk\n"
    log += "581738,1494137644,1,430548_1007,1,0\n449818,1494638778,3,430548_1007,0,1\n"
    ads = (
        "adgroup_id,cate_id,campaign_id,customer,brand,price\n1,9025,108570,1,95471,170.0\n3,6261,83237,1,NULL,199.0\n"
    )
    dataset = made(tmp_path, "alibaba_ads", {"raw_sample.csv": log, "ad_feature.csv": ads})
    assert dataset.impressions.select("user_id", "item_id", "click", "scene").rows() == [
        ("581738", "1", 0, "430548_1007"),
        ("449818", "3", 1, "430548_1007"),
    ]
    assert dataset.items.select("category", "price").rows() == [("9025", 170.0), ("6261", 199.0)]


def test_criteo_attribution(tmp_path):
    header = (
        "timestamp\tuid\tcampaign\tconversion\tconversion_timestamp\tconversion_id\tattribution\tclick\tclick_pos\t"
    )
    header += "click_nb\tcost\tcpo\ttime_since_last_click\t" + "\t".join(f"cat{n}" for n in range(1, 10))
    rest = "\t".join(["1"] * 9)
    rows = [f"0\t20073966\t22589171\t0\t-1\t-1\t0\t0\t-1\t-1\t1e-05\t0.39\t-1\t{rest}"]
    rows += [f"2\t24607497\t884761\t1\t5\t7\t0\t1\t0\t1\t1e-05\t0.05\t423858\t{rest}"]
    dataset = made(
        tmp_path, "criteo", {"criteo_attribution_dataset.tsv.gz": gzip.compress("\n".join([header, *rows]).encode())}
    )
    assert dataset.impressions.select("user_id", "item_id", "timestamp", "click", "conversion").rows() == [
        ("20073966", "22589171", 0, 0, 0),
        ("24607497", "884761", 2, 1, 1),
    ]


def test_criteo_display_logs_need_their_user_and_item_named(tmp_path):
    def row(label, user, item):
        return "\t".join([label, *["1"] * 12, "", *["68fd1e64"] * 4, user, *[""] * 4, item, *["a"] * 16])

    log = "\n".join([row("0", "u1", "i1"), row("1", "u1", "i2"), row("1", "", "i2")]) + "\n"
    put(tmp_path / "files", {"train.txt": log})
    with pytest.raises(UserError, match=r"set --criteo\.columns"):
        made(tmp_path, "criteo", {})
    dataset = made(tmp_path, "criteo", {}, criteo=Criteo.Settings(columns="user_id=C5,item_id=C10"))
    assert dataset.impressions.select("user_id", "item_id", "timestamp", "click").rows() == [
        ("u1", "i1", 0, 0),
        ("u1", "i2", 1, 1),
    ]
    assert dataset.info["set_aside"] == {"user_id missing": 1}


def test_options_of_another_data_set_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--criteo\.columns is .* but source is 'movielens'.*choose --source criteo"):
        made(tmp_path, "movielens", ML["1m"], criteo=Criteo.Settings(columns="user_id=C5,item_id=C10"))


def test_the_command_lists_the_data_sets_and_hides_their_options(capsys):
    with pytest.raises(SystemExit):
        parse_settings(Settings, "", ["--help"])
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said and summary(plugin) in said for name, plugin in CONVERTERS.items())
    assert "--criteo.columns" not in said and "--criteo.help" in said


def test_missing_files_and_unknown_data_sets_are_named(tmp_path):
    put(tmp_path / "files", {"movies.csv": "movieId,title,genres\n"})
    with pytest.raises(UserError, match=r"has no ratings.csv"):
        made(tmp_path, "movielens", {})
    with pytest.raises(UserError, match="unknown data set 'movie-lens'; choose one of alibaba_ads, amazon_reviews"):
        made(tmp_path, "movie-lens", {})


def test_the_page_has_a_section_for_every_source():
    page = (Path(__file__).parents[2] / "data_tools" / "converters" / "README.md").read_text(encoding="utf-8")
    for name in CONVERTERS.built_in:
        assert f"--source {name} " in page


FILES = {
    "movielens": ("ratings.dat", "movies.dat"),
    "amazon_reviews": ("Books.jsonl", "meta_Books.jsonl"),
    "hm": ("articles.csv", "transactions_train.csv", "images/a.jpg"),
    "pixelrec": ("Pixel.csv", "info.csv"),
    "microlens": ("a_title_en.csv", "a_pairs.csv"),
    "taobao_mm": ("train/train-shard-0.parquet", "test/test-shard-0.parquet"),
    "alibaba_ads": ("raw_sample.csv", "ad_feature.csv"),
    "criteo": ("criteo_attribution_dataset.tsv",),
}
DOWNLOADED = {
    "nothing": "",
    "a web page": "<!doctype html><html>Please log in</html>\n",
    "a pointer": "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 4\n",
    "a cut archive": "PK\3\4broken",
}


@pytest.mark.parametrize("source", FILES)
def test_downloads_that_went_wrong_are_a_message(source, tmp_path):
    for what, text in DOWNLOADED.items():
        folder = tmp_path / what.replace(" ", "-")
        put(folder, dict.fromkeys((f"files/{name}" for name in FILES[source]), text))
        with pytest.raises(UserError) as error:
            convert(Settings(source=source, files=folder / "files", out=folder / "out"))
        assert "SELECT" not in str(error.value) and not (folder / "out").exists(), what
        if source == "movielens" and what in ("a web page", "a pointer"):
            assert f"movies.dat is {what}" in str(error.value)
