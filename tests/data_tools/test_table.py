import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.common.cli import UserError
from data_tools.common.files import read_json, write_json
from data_tools.tables.table import read_table, write_part, write_table

IDS = ["a", "b", "007"]
VECTORS = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read(tmp_path, dtype):
    write_table(tmp_path / "t", IDS, VECTORS.astype(dtype), {"layer": "embedding"})
    table = read_table(tmp_path / "t")
    assert table.ids == IDS
    np.testing.assert_array_equal(table.vectors, VECTORS)
    assert table.vectors.dtype == np.float32
    assert table.info["layer"] == "embedding"
    assert (table.info["count"], table.info["size"], table.info["dtype"]) == (3, 2, dtype)


@pytest.mark.parametrize("ids", [["a", "bé", ""], [3, 2**40, 5], np.array(["x", "y", "z"])])
def test_ids_are_the_column_that_arrow_makes_of_them(tmp_path, ids):
    write_part(tmp_path / "part.parquet", ids, np.zeros((3, 2), np.float16))
    column = pq.read_table(tmp_path / "part.parquet")["item_id"]
    assert column.combine_chunks() == pa.array(ids)


def test_lookup_keeps_the_order_asked_for_and_says_what_is_missing(tmp_path):
    write_table(tmp_path / "t", [7, 8], VECTORS[:2], {})
    vectors, found = read_table(tmp_path / "t").lookup(["8", "9", 7])
    np.testing.assert_array_equal(vectors, [[3, 4], [0, 0], [1, 2]])
    assert found.tolist() == [True, False, True]


def elsewhere(folder, form):
    """The same table as other programs write it."""
    if form == "npz":
        np.savez(folder / "t.npz", ids=np.array(IDS), vectors=VECTORS)
    elif form == "npy":
        np.save(folder / "t.npy", VECTORS)
        (folder / "t.ids.txt").write_text("\n".join(IDS))
    else:
        pl.DataFrame({"item_id": IDS, "embedding": VECTORS.tolist()}).write_parquet(folder / "t.parquet")
    return folder / f"t.{form}"


@pytest.mark.parametrize("form", ["npz", "npy", "parquet"])
def test_tables_made_elsewhere_load(tmp_path, form):
    table = read_table(elsewhere(tmp_path, form))
    assert table.ids == IDS
    np.testing.assert_array_equal(table.vectors, VECTORS)


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a", "a"], [[1, 2], [3, 4]], "more than once"),
        (["a", "b"], [[1, 2], [3, np.nan]], "NaN"),
        (["a"], [[1, 2], [3, 4]], "1 ids for vectors"),
    ],
)
def test_faulty_tables_are_refused(tmp_path, ids, vectors, message):
    np.savez(tmp_path / "t.npz", ids=np.array(ids), vectors=np.array(vectors, dtype=np.float32))
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "t.npz")


def test_a_pickle_is_never_loaded(tmp_path):
    np.savez(tmp_path / "t.npz", ids=np.array([{"code": print}], dtype=object), vectors=VECTORS[:1])
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "t.npz")


@pytest.mark.parametrize(("promised", "value"), [("count", 4), ("size", 9)])
def test_a_table_short_of_a_part_or_of_another_size_is_refused(tmp_path, promised, value):
    write_table(tmp_path / "t", IDS, VECTORS, {})
    described = read_json(tmp_path / "t" / "table.json") | {promised: value}
    write_json(tmp_path / "t" / "table.json", described)
    with pytest.raises(UserError, match=f"promises .*'{promised}': {value}"):
        read_table(tmp_path / "t")


def test_no_table_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match=r"table.json"):
        read_table(tmp_path / "nothing")


@pytest.mark.parametrize("number", [0xD800, 0x110000, 0x7FFFFFFF])
def test_ids_that_are_no_text_are_refused(tmp_path, number):
    codes = np.array(["a", "b", "c"]).view(np.uint32).copy()
    codes[1] = number
    np.savez(tmp_path / "damaged.npz", ids=codes.view("<U1"), vectors=np.ones((3, 2), np.float32))
    with pytest.raises(UserError, match=r"row 1 is not text; the file is damaged|invalid maximum character"):
        read_table(tmp_path / "damaged.npz")
