"""A table of users beside the log: what it says of each user of the log, in the order of the log's users."""

import polars as pl
import pytest
from prepare_helpers import run, stopped

from data_tools.dataset.show import show

AGES = {f"u{number}": 20 + number for number in range(10)}


@pytest.fixture
def table(source):
    """Users of the log but for u3, and two others, in no order."""
    rows = [f"{user},{age},{'x' if age % 2 else ''}" for user, age in reversed(AGES.items()) if user != "u3"]
    (source / "users.csv").write_text("\n".join(["player,age,country", "z1,90,x", *rows, "z2,91,"]) + "\n")
    return {"user_table": str(source / "users.csv"), "user_columns": "user_id=player"}


def test_each_user_of_the_log_gets_its_row(source, table, plain, capsys):
    dataset = run(source, **table)
    users = pl.read_parquet(dataset.folder / "users.parquet")
    assert users.columns == ["user", "user_id", "age", "country"]
    assert users["user_id"].to_list() == dataset.clicks["user_id"].to_list()
    for row in users.to_dicts():
        age = None if row["user_id"] == "u3" else AGES[row["user_id"]]
        assert row["age"] == age and (row["country"] == "x") == bool(age and age % 2)
    assert dataset.info["counts"]["users_described"] == 9
    assert plain.info["fingerprint"] != dataset.info["fingerprint"]
    assert not (plain.folder / "users.parquet").exists() and "users_described" not in plain.info["counts"]
    show(dataset.folder)


def test_parquet_and_json_lines_say_the_same(source, table):
    wanted = pl.read_parquet(run(source, **table).folder / "users.parquet")
    frame = pl.read_csv(source / "users.csv").with_columns(pl.col("country").replace("", None))
    frame.write_parquet(source / "users.parquet")
    frame.write_ndjson(source / "users.jsonl")
    for name in ("users.parquet", "users.jsonl"):
        dataset = run(source, out=name, **table | {"user_table": str(source / name)})
        found = pl.read_parquet(dataset.folder / "users.parquet")
        assert found["age"].to_list() == wanted["age"].to_list()
        assert (found["country"] == "x").sum() == (wanted["country"] == "x").sum()


def test_columns_may_have_any_name(source):
    """Also those of which the code itself could think."""
    names = ["known", "key", "Known", "user", "item", "place", "reason", "row"]
    users = pl.DataFrame({"user_id": list(AGES), **{name: [f"{name} {user}" for user in AGES] for name in names}})
    users.write_csv(source / "users.csv")
    dataset = run(source, user_table=str(source / "users.csv"))
    found = pl.read_parquet(dataset.folder / "users.parquet")
    assert found.columns == ["user", "user_id", *(name + "_" * (name == "user") for name in names)]
    for row in found.drop("user").rename({"user_": "user"}).to_dicts():
        assert row == {"user_id": row["user_id"], **{name: f"{name} {row['user_id']}" for name in names}}
    assert dataset.info["counts"]["users_described"] == len(AGES)


def test_decimal_commas_are_said_to_make_categories(source):
    rows = [f'{user};{age},5;"{age},x"' for user, age in AGES.items()]
    (source / "users.csv").write_text("\n".join(["user_id;height;note", *rows]) + "\n")
    notes = run(source, user_table=str(source / "users.csv")).info["understood"]
    (said,) = [note for note in notes if "categories" in note]
    assert said.startswith("height is read as categories, such as '20,5'") and "a point" in said


def test_rows_that_repeat_a_user_or_have_no_id_are_set_aside(source, table):
    with (source / "users.csv").open("a") as file:
        file.write("u5,99,x\n,30,x\n")
    assert "user_id repeated: 1" in stopped(source, **table)
    dataset = run(source, max_bad_share=0.2, **table)
    aside = pl.read_parquet(dataset.folder / "set_aside_users.parquet")
    assert sorted(aside["reason"]) == ["user_id missing", "user_id repeated"]
    assert pl.read_parquet(dataset.folder / "users.parquet").filter(user_id="u5")["age"].item() == AGES["u5"]


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        ("player,age\nu1,3\n", "", "has no column 'user_id'"),
        ("player,age\nu1,3\n", "user_id=gamer", "has no column 'gamer' (named for user_id)"),
        ("player\nu1\n", "user_id=player", "has no column but the ids of users"),
        ("player,age\n900,3\n", "user_id=player", "has no user of the log: its ids are such as ['900']"),
        ("player,age\nu1,3\n", "id=player", "unknown name 'id'"),
    ],
)
def test_tables_that_say_nothing_are_refused(source, text, columns, said):
    (source / "users.csv").write_text(text)
    assert said in stopped(source, user_table=str(source / "users.csv"), user_columns=columns)


def test_lists_are_refused(source):
    pl.DataFrame({"user_id": ["u1"], "tags": [["a", "b"]]}).write_parquet(source / "users.parquet")
    said = stopped(source, user_table=str(source / "users.parquet"))
    assert "column 'tags' is List(String); must be one number or text a user" in said


def test_columns_without_a_table_are_refused(source):
    assert "there is no --user-table: remove it" in stopped(source, user_columns="user_id=player")


def described(source, **settings):
    return pl.read_parquet(run(source, **settings).folder / "users.parquet")


def test_keys_of_folders_are_columns_of_users_and_of_items(source):
    items = pl.read_csv(source / "items.csv", infer_schema=False)
    for country, even in (("at", True), ("be", False)):
        users = [f"{user},{age}" for user, age in AGES.items() if (age % 2 == 0) == even]
        for folder in (source / "users" / f"country={country}", source / "list" / f"country={country}"):
            folder.mkdir(parents=True)
        (source / "users" / f"country={country}" / "a.csv").write_text("\n".join(["user_id,age", *users]) + "\n")
        items[int(not even) :: 2].write_parquet(source / "list" / f"country={country}" / "a.parquet")
    dataset = run(source, user_table=str(source / "users"), items="list")
    users = pl.read_parquet(dataset.folder / "users.parquet")
    assert users["country"].to_list() == ["at" if age % 2 == 0 else "be" for age in users["age"]]
    assert dataset.items["country"].to_list() == [
        "at" if int(item) % 2 == 0 else "be" for item in dataset.items["item_id"]
    ]
    assert any("country is taken from the folders" in note for note in dataset.info["understood"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ids_of_users_that_were_stored_as_floats(source, kind):
    log = pl.read_csv(source / "log.csv", infer_schema=False).with_columns(pl.col("user_id").str.slice(1))
    log.write_csv(source / "log.csv")
    users = pl.DataFrame({"user_id": [float(user[1:]) for user in AGES], "age": AGES.values()})
    getattr(users, f"write_{kind}")(source / f"users.{kind}")
    found = described(source, user_table=str(source / f"users.{kind}"))
    assert found["age"].to_list() == [AGES[f"u{user}"] for user in found["user_id"]]


def test_the_form_of_the_table_can_be_said(source):
    (source / "users.csv").write_bytes("\n".join(f"{user}|Z\xfcrich" for user in AGES).encode("latin-1"))
    form = {"user_encoding": "latin-1", "user_delimiter": "|", "user_header": "user_id,st\xe4dt"}
    table = {"user_table": str(source / "users.csv")}
    assert "--user-encoding" in stopped(source, **table)
    assert "there is no --user-table" in stopped(source, user_encoding="latin-1")
    assert set(described(source, **table, **form)["städt"]) == {"Zürich"}


def test_what_is_wrong_with_ids_of_users_is_said(source):
    table = {"user_table": str(source / "users.csv")}
    (source / "users.csv").write_text("\n".join(["user_id,age", *(f" {user} ,{age}" for user, age in AGES.items())]))
    assert "without blanks round them: --match-ids stripped; ' u0 ' and 'u" in stopped(source, **table)
    (source / "users.csv").write_text("user_id,age\n")
    assert "users.csv has no users: it has no rows" in stopped(source, **table)
    (source / "users.csv").write_text("user_id,age\n" + "u1,5\n" * 9)
    assert "user_id repeated: 8\n    user_id 'u1', age 5" in stopped(source, **table)
