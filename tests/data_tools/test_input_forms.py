"""Files of a log in the forms that people have them in, read as Parquet; and which form a file has."""

import bz2
import gzip
import json
import lzma
import zipfile

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.common.errors import UserError
from data_tools.log.engines import ROW, engine
from data_tools.reading.form import Given
from data_tools.reading.inputs import as_parquet
from data_tools.reading.opened import below
from data_tools.reading.page_rows import unfolded

NAMES = ["user_id", "item_id", "timestamp", "click"]
ROWS = [("u1", "p 1", "5", "1"), ("u2", "p2", "6", "0"), ("Zoë", "007", "7", "1")]


def text(between=",", names=NAMES, rows=ROWS):
    return "\n".join(between.join(row) for row in [names, *rows]) + "\n"


def read(tmp_path, place, expected=NAMES, named=None, **given):
    """Columns and rows as DuckDB sees them, in the order of the log; what was found."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    found = as_parquet(place, work, "log", expected=set(expected), given=Given(**given))
    found = unfolded(found, named or {}, set(expected), work, "1GB")
    with engine("duckdb", work, "1GB") as run:
        table = run.rows(run.read(found.parts, found.columns.values()).order_by(ROW))
    assert table[ROW].to_list() == list(range(len(table)))
    return table.select(**found.columns), found


def plain(tmp_path, name, data, **given):
    file = tmp_path / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read(tmp_path, file, **given)


def zipped(data, *names):
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return buffer.getvalue()


DATA = text().encode()
PACKED = {
    "log.CSV.GZ": gzip.compress(DATA, mtime=0),
    "gzip called.csv": gzip.compress(DATA, mtime=0),
    "plain called.csv.gz": DATA,
    "log.csv.bz2": bz2.compress(DATA),
    "log.csv.xz": lzma.compress(DATA),
    "log.csv.zip": zipped(DATA, "log.csv", "__MACOSX/._log.csv"),
    "log.csv.zst": pa.compress(DATA, "zstd", asbytes=True),
    "log": DATA,
    "log.txt": DATA,
}


@pytest.mark.parametrize("name", PACKED)
def test_compressed_or_not_whatever_the_name(tmp_path, name):
    table, found = plain(tmp_path, name, PACKED[name])
    assert table.columns == NAMES and table.rows() == ROWS and not len(found.broken)


FORMS = {
    "semicolons in .csv": (text(";"), "a semicolon"),
    "tabs in .csv": (text("\t"), "a tab"),
    "pipes in .csv": (text("|"), "a pipe"),
    "blanks in the header": (text(names=[" user_id", " item_id ", "timestamp", " click"]), ""),
    "sep= above": ("sep=;\n" + text(";"), "passed over"),
    "comments above": ("# made by us\n\n" + text(), "passed over"),
    "a header after a #": ("#" + text(), ""),
    "a header again": (text() + text(rows=[]), "1 lines that repeat the header"),
    "UTF-16": (text().encode("utf-16"), "read as utf-16"),
    "UTF-16 without a mark": (text().encode("utf-16-le"), "read as utf-16-le"),
    "UTF-8 with a mark": (text().encode("utf-8-sig"), ""),
    "a title above": ("Report of May\n\n" + text(), "the first 2 lines are passed over (what stands above its header)"),
    "empty lines of Excel": (text() + ",,,\n" * 3, "3 lines without any value"),
    "lines of blanks": (text().replace("\n", "\n   \n"), ""),
    "two marks": ("\ufeff\ufeff" + text(), ""),
    "put together, each with a mark": (
        "\ufeff" + text(rows=ROWS[:1]) + "\ufeff" + text(rows=ROWS[1:]),
        "repeat the header",
    ),
    "line ends of Windows": (text().replace("\n", "\r\n"), ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_text(tmp_path, form):
    data, said = FORMS[form]
    table, found = plain(tmp_path, "log.csv", data)
    assert table.columns == NAMES and table.rows() == ROWS and not len(found.broken)
    assert said in " ".join(found.notes) and bool(said) == bool(found.notes)


def test_names_of_columns_that_stand_twice_or_over_two_lines(tmp_path):
    names = ["user_id", "x", "item_id", "x", "timestamp", '"in\nall"', "click", "x_2"]
    rows = [["u", "1", "p", "2", "5", "3", "1", "4"]]
    table, _ = plain(tmp_path, "log.csv", text(names=names, rows=rows))
    assert table.to_dicts() == [
        {
            "user_id": "u",
            "x": "1",
            "item_id": "p",
            "x_3": "2",
            "timestamp": "5",
            "in\nall": "3",
            "click": "1",
            "x_2": "4",
        }
    ]


def test_a_delimiter_is_found_whatever_the_names(tmp_path):
    table, found = plain(tmp_path, "log.csv", text(";", names=["PLAYER", "GAME", "TIME", "LIKED"]))
    assert table.columns == ["PLAYER", "GAME", "TIME", "LIKED"] and table.rows() == ROWS
    assert "read with a semicolon" in found.notes[0]


def test_what_a_user_says_of_text(tmp_path):
    assert plain(tmp_path, "a.csv", text().encode("latin-1"), encoding="latin-1")[0].rows() == ROWS
    assert plain(tmp_path, "b.csv", text("^"), delimiter="^")[0].rows() == ROWS
    bare = text("::").partition("\n")[2]
    assert plain(tmp_path, "c.dat", bare, names=tuple(NAMES))[0].rows() == ROWS
    table, found = plain(tmp_path, "d.csv", text().encode("latin-1"))
    assert table.rows() == ROWS[:2] and found.broken["line"].to_list() == [4]
    with pytest.raises(UserError, match="unknown encoding 'klingon'"):
        plain(tmp_path, "e.csv", text(), encoding="klingon")


def test_backslashes_and_stray_quotes_are_taken_only_where_nothing_else_fits(tmp_path):
    header = "user_id,item_id,timestamp,click\n"
    table, found = plain(tmp_path, "a.csv", header + '"a \\"big\\", thing",p,5,1\n')
    assert table.row(0)[0] == 'a "big", thing' and "backslashes" in found.notes[0]
    table, found = plain(tmp_path, "b.tsv", header.replace(",", "\t") + '"so" he\tp\t5\t1\n')
    assert table.row(0)[0] == '"so" he' and "plain text" in found.notes[0]
    table, found = plain(tmp_path, "c.csv", header + 'a,"p" q,5,1\n"b",r,6,1\n')
    assert table.rows() == [("b", "r", "6", "1")] and found.broken["line"].to_list() == [2], "b is quoted: quotes count"


OBJECTS = [dict(zip(NAMES, row, strict=True)) for row in ROWS]


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(OBJECTS),
        json.dumps(OBJECTS, indent=2),
        "\n".join(json.dumps(one, indent=2) for one in OBJECTS),
        "\ufeff" + "\n".join(map(json.dumps, OBJECTS)),
    ],
    ids=["array", "pretty array", "pretty objects", "lines with a mark"],
)
def test_forms_of_json(tmp_path, data):
    for name in ("log.json", "log.csv"):
        table, found = plain(tmp_path, name, data)
        assert table.select(NAMES).rows() == ROWS and not len(found.broken)


def test_keys_count_whatever_line_they_first_stand_in(tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.reading.lines.BLOCK", 700)
    rows = [json.dumps({"user_id": str(n)} | ({"scene": "s"} if n >= 1500 else {})) for n in range(2000)]
    table, _ = plain(tmp_path, "log.jsonl", "\n".join(rows))
    assert table["user_id"].to_list() == [str(n) for n in range(2000)]
    assert table["scene"].to_list() == [None] * 1500 + ["s"] * 500


@pytest.mark.parametrize("name", ["log[1]", "log{1,2}", "a*b", "a=b", "what?"])
def test_a_path_is_a_path(tmp_path, name):
    folder = tmp_path / "in [v2] user_id=me"
    folder.mkdir()
    (folder / f"{name}.csv").write_text(text())
    (folder / "log1.csv").write_text(text(rows=ROWS[:1]))
    assert read(tmp_path, folder / f"{name}.csv")[0].rows() == ROWS
    pl.DataFrame(ROWS, NAMES, orient="row").write_parquet(folder / f"{name}.parquet")
    assert read(tmp_path, folder / f"{name}.parquet")[0].rows() == ROWS


def test_keys_of_folders_count_only_below_the_place_and_where_the_files_lack_them(tmp_path):
    logs = tmp_path / "click=1" / "logs"
    for day, row in (("2024-01-01", ROWS[0]), ("2024%2D01%2D02", ROWS[1])):
        folder = logs / f"timestamp={day}" / "user_id=me" / "x=y"
        folder.mkdir(parents=True)
        frame = pl.DataFrame([row], NAMES, orient="row").drop("timestamp")
        frame.write_parquet(folder / "part-0.parquet")
    for place in (logs, logs / "timestamp=*" / "**" / "*.parquet"):
        table, found = read(tmp_path, place)
        assert sorted(table.select(NAMES).rows()) == [("u1", "p 1", "2024-01-01", "1"), ("u2", "p2", "2024-01-02", "0")]
        assert found.notes == ["timestamp is taken from the folders timestamp=..., as the files in them lack it"]
    for file in logs.rglob("*.parquet"):
        pl.read_parquet(file, hive_partitioning=False).write_csv(file.with_suffix(".csv"))
        file.unlink()
    assert sorted(read(tmp_path, logs)[0]["timestamp"]) == ["2024-01-01", "2024-01-02"]


def test_parts_are_united_by_name_and_widened(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    (folder / ".part.crc").write_bytes(b"x")
    pl.DataFrame(
        {"user_id": [1], "item_id": ["a"], "x": [[1]]},
        {"user_id": pl.Int32, "item_id": pl.String, "x": pl.List(pl.Int8)},
    ).write_parquet(folder / "0.parquet")
    pl.DataFrame({"scene": ["s"], "item_id": [7], "user_id": [2**40], "x": [5]}).write_parquet(folder / "1.parquet")
    table, found = read(tmp_path, folder, [*NAMES, "scene"])
    assert table.sort("user_id").select("user_id", "item_id", "scene").rows() == [(1, "a", None), (2**40, "7", "s")]
    assert "x" not in found.columns, "what cannot be united is of no use here"
    with pytest.raises(UserError, match=r"column 'x' holds lists or structs in .*0.parquet, numbers in"):
        read(tmp_path, folder, [*NAMES, "x"])
    csv = tmp_path / "texts"
    csv.mkdir()
    (csv / "a.csv").write_text("user_id,item_id\nu,p\n")
    (csv / "b.csv").write_text("item_id,scene,user_id\nq,s,v\n")
    assert read(tmp_path, csv)[0].select("user_id", "item_id", "scene").rows() == [("u", "p", None), ("v", "q", "s")]


def test_columns_named_as_engines_name_theirs(tmp_path):
    names = ["file_row_number", "filename", "__file__", "__row__", "Click", "click", "item_id"]
    frame = pl.DataFrame({name: [number, number + 10] for number, name in enumerate(names)})
    frame.write_parquet(tmp_path / "log.parquet")
    table, _ = read(tmp_path, tmp_path / "log.parquet", names)
    assert table.select(names).rows() == frame.rows()
    frame.cast(pl.String).write_csv(tmp_path / "log.csv")
    assert read(tmp_path, tmp_path / "log.csv", names)[0].select(names).rows() == frame.cast(pl.String).rows()


def test_typed_columns_of_other_programs(tmp_path):
    """Dictionaries, categories, bytes without a type, and nanoseconds with a zone, which ibis does not know."""
    table = pa.table(
        {
            "user_id": pa.array(["u", "v"]).dictionary_encode(),
            "item_id": pa.array([b"a", "ö".encode()]),
            "timestamp": pa.array([10**18 + 5, 2 * 10**18], pa.timestamp("ns", "Asia/Tokyo")),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    found = read(tmp_path, tmp_path / "log.parquet")[0]
    assert found.select("user_id", "item_id").rows() == [("u", "a"), ("v", "ö")]
    assert found["timestamp"].dt.epoch("s").to_list() == [10**9, 2 * 10**9]


PAGES = {
    "MIND": ({"item_id": ["N1-1 N2-0", "N3-0"]}, ["1", "0", "0"]),
    "blanks": ({"item_id": ["N1 N2", "N3"], "click": ["1 0", "0"]}, ["1", "0", "0"]),
    "commas": ({"item_id": ["N1,N2", "N3"], "click": ["1, 0", "0"]}, ["1", "0", "0"]),
    "JSON": ({"item_id": ['["N1", "N2"]', '["N3"]'], "click": ["[1, 0]", "[0]"]}, ["1", "0", "0"]),
    "Python": ({"item_id": ["['N1', 'N2']", "['N3']"], "click": ["[1, 0]", "[0]"]}, ["1", "0", "0"]),
    "lists": ({"item_id": [["N1", "N2"], ["N3"]], "click": [[1, 0], [0]]}, [1, 0, 0]),
}


@pytest.mark.parametrize("form", PAGES)
def test_one_row_a_page_view(tmp_path, form):
    columns, clicks = PAGES[form]
    pl.DataFrame({"user_id": ["u", "v"], "note": ["x", "y"], **columns}).write_parquet(tmp_path / "log.parquet")
    table, found = read(tmp_path, tmp_path / "log.parquet", [*NAMES, "request_id"])
    assert table.select("user_id", "item_id", "click", "request_id").rows() == list(
        zip(["u", "u", "v"], ["N1", "N2", "N3"], clicks, [0, 0, 1], strict=True)
    )
    assert "one row a page view" in found.notes[-1]


def test_page_views_whose_lists_do_not_fit_are_kept_apart(tmp_path):
    frame = pl.DataFrame(
        {"user_id": ["u", "v", "w"], "items": [["a"], ["b", "c"], []], "click": [[1], [1], []], "request_id": [7, 8, 9]}
    )
    frame.write_parquet(tmp_path / "log.parquet")
    table, found = read(tmp_path, tmp_path / "log.parquet", [*NAMES, "items", "request_id"], {"item_id": "items"})
    assert table.rows() == [("u", "a", 1, 7)] and found.broken["line"].to_list() == [2, 3] and found.rows == 3
    frame.with_columns(click=1).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(UserError, match="'items' holds lists, 'click' does not"):
        read(tmp_path, tmp_path / "log.parquet", [*NAMES, "items"], {"item_id": "items"})


def test_a_usual_log_is_no_log_of_page_views(tmp_path):
    for items, clicks in ((["a-1", "b-0"], None), (["a b", "c d e"], ["1", "0"]), (["a b", "c"], ["1 0", "0 1"])):
        columns = {"user_id": ["u", "v"], "item_id": items} | ({"click": clicks} if clicks else {})
        pl.DataFrame(columns).write_parquet(tmp_path / "log.parquet")
        assert read(tmp_path, tmp_path / "log.parquet")[0]["item_id"].to_list() == items


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("log.csv", zipped(DATA, "a.csv", "b.csv"), "zip of 2 files"),
        ("log.xlsx", zipped(DATA, "[Content_Types].xml", "xl/a.xml"), "Excel workbook.*save it as CSV"),
        ("log.csv", b"ARROW1\0\0", r"Arrow \(Feather\) file.*read_ipc"),
        ("log.csv", b"version https://git-lfs.github.com/spec/v1\n", "pointer of git-LFS"),
        ("log.csv", gzip.compress(DATA, mtime=0)[:20], "log.csv cannot be read"),
        ("log.csv", b"", "is empty"),
    ],
)
def test_the_real_cause_is_named(tmp_path, name, data, words):
    with pytest.raises(UserError, match=words):
        plain(tmp_path, name, data)


def test_files_of_a_download(tmp_path):
    """As converters find them: not what an archiver left, and not an archive beside what was unpacked from it."""
    for name in ("a.csv", "a.csv.zip", "b.csv.zip", "__MACOSX/._a.csv", ".hidden/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in below(tmp_path, "*.csv*")] == ["a.csv", "b.csv.zip"]


def test_linked_folders_are_read_once(tmp_path):
    """One that lies elsewhere; one that names a day of the log again, before it; and a circle."""
    for day in ("in/day=1", "elsewhere/x"):
        (tmp_path / day).mkdir(parents=True)
        (tmp_path / day / "log.csv").write_text(text())
    (tmp_path / "in" / "day=2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "all").symlink_to("day=1")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "in")
    table, _ = read(tmp_path, tmp_path / "in", [*NAMES, "day"])
    assert table["day"].to_list() == ["1"] * 3 + ["2"] * 3
    assert [p.relative_to(tmp_path).as_posix() for p in below(tmp_path / "in", "*.csv")] == [
        "in/day=1/log.csv",
        "in/day=2/x/log.csv",
    ]
