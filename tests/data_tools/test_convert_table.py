"""Tables in the layouts of other programs, read back by readers written from those programs' documentation."""

import csv
from dataclasses import replace

import faiss
import h5py
import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file

from data_tools.common.cli import UserError
from data_tools.common.files import read_json, write_json
from data_tools.convert_table import Settings, convert, join
from data_tools.tables.layouts import LAYOUTS
from data_tools.tables.table import EmbeddingTable, read_table, write_table

TEXT, NUMBERS = ["a", "b b", "007", "ü"], [7, 0, 12, 2**62]
VECTORS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def own(folder, ids, vectors=VECTORS, info=None):
    write_table(folder, ids, vectors, info or {"layer": "embedding"})
    return str(folder)


# Layout -> name to write, ids, and how its program reads it: path -> (ids as text, vectors).


def numpy_files(path):
    return np.load(path.with_suffix(".ids.npy")), np.load(path)


def fuxictr_npz(path):
    arrays = np.load(path)
    return arrays["key"].astype(str), arrays["value"]


def fuxictr_h5(path):
    with h5py.File(path, "r") as file:
        return file["key"][:].astype(str), file["value"][:]


def fuxictr_parquet(path):
    frame = pl.read_parquet(path)
    return frame["key"].to_numpy(), frame["value"].to_numpy()


def recbole(path):
    """Header of name:type; fields apart by tabs, a float_seq's numbers by blanks."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows[0] == ["iid:token", "item_emb:float_seq"]
    return [row[0] for row in rows[1:]], np.array([[float(v) for v in row[1].split(" ")] for row in rows[1:]])


def comma_separated(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    assert rows[0] == ["item_id", "e0", "e1", "e2"]
    return [row[0] for row in rows[1:]], np.array([list(map(float, row[1:])) for row in rows[1:]])


def mmrec(path):
    """Row i of image_feat.npy is the item whose itemID is i in the mapping."""
    with open(path / "i_id_mapping.csv", encoding="utf-8", newline="") as file:
        inner = {row["asin"]: int(row["itemID"]) for row in csv.DictReader(file, delimiter="\t")}
    return sorted(inner, key=inner.get), np.load(path / "image_feat.npy")


def faiss_search(path):
    """Each vector finds itself: its id is what the search returns."""
    index = faiss.read_index(str(path))
    directions = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    best = index.search(directions, len(VECTORS))
    found = [
        min(zip(np.abs(s - d @ v), i, strict=True))[1] for s, i, d, v in zip(*best, directions, VECTORS, strict=True)
    ]
    beside = path.with_suffix(".ids.npy")
    return (np.load(beside)[found] if beside.exists() else found), VECTORS


CASES = [
    ("npy", "t.npy", TEXT, numpy_files),
    ("npz", "t.npz", TEXT, lambda path: (np.load(path)["ids"], np.load(path)["vectors"])),
    ("h5", "t.h5", TEXT[:3], fuxictr_h5),
    (
        "parquet",
        "t.parquet",
        TEXT,
        lambda path: tuple(pl.read_parquet(path)[n].to_numpy() for n in ("item_id", "embedding")),
    ),
    ("csv", "t.csv", TEXT, comma_separated),
    ("csv", "t.tsv", NUMBERS, comma_separated),
    ("torch", "t.pt", TEXT, lambda path: (torch.load(path)["ids"], torch.load(path)["vectors"])),
    (
        "safetensors",
        "t.safetensors",
        TEXT,
        lambda path: (np.load(path.with_suffix(".ids.npy")), load_file(path)["vectors"]),
    ),
    ("faiss", "t.faiss", TEXT, faiss_search),
    ("faiss", "t.index", NUMBERS, faiss_search),
    ("fuxictr", "t.npz", TEXT, fuxictr_npz),
    ("fuxictr", "t.h5", TEXT[:3], fuxictr_h5),
    ("fuxictr", "t.h5", NUMBERS, fuxictr_h5),
    ("fuxictr", "t.parquet", TEXT, fuxictr_parquet),
    ("recbole", "shop.itememb", TEXT, recbole),
    ("mmrec", "baby", NUMBERS, mmrec),
]


@pytest.mark.parametrize(
    ("layout", "name", "ids", "read"), CASES, ids=[f"{c[0]}-{c[1]}-{type(c[2][0]).__name__}" for c in CASES]
)
def test_other_programs_read_what_is_written(tmp_path, layout, name, ids, read):
    vectors = VECTORS[: len(ids)]
    out = tmp_path / "made" / name
    convert(Settings(own(tmp_path / "own", ids, vectors), str(out), layout))
    found, found_vectors = read(out)
    assert [str(item) for item in found] == [str(item) for item in ids]
    np.testing.assert_array_equal(np.asarray(found_vectors, dtype=np.float32), vectors)
    back = read_table(out, layout)
    assert [str(item) for item in back.ids] == [str(item) for item in ids]
    np.testing.assert_array_equal(back.vectors, vectors)
    if layout not in ("fuxictr",):
        np.testing.assert_array_equal(read_table(out).vectors, vectors)  # the name alone tells


def test_every_layout_is_tried():
    assert {case[0] for case in CASES} == set(LAYOUTS)


def test_integers_stay_integers(tmp_path):
    for name in ("t.npy", "t.npz", "t.h5", "t.parquet", "t.faiss"):
        convert(Settings(own(tmp_path / f"own-{name}", NUMBERS), str(tmp_path / name)))
        assert read_table(tmp_path / name).ids == NUMBERS


def test_own_to_own_keeps_what_is_known_and_can_halve_the_size(tmp_path):
    convert(Settings(own(tmp_path / "a", TEXT), str(tmp_path / "b"), dtype="float16"))
    table = read_table(tmp_path / "b")
    assert (table.info["layer"], table.info["dtype"]) == ("embedding", "float16")
    np.testing.assert_array_equal(table.vectors, VECTORS.astype(np.float16))


def test_join_lays_tables_side_by_side():
    first = EmbeddingTable(["a", "b", 7], VECTORS[:3])
    second = EmbeddingTable(["7", "c", "a"], VECTORS[1:])
    drop = join([first, second], "drop")
    assert drop.ids == ["a", "7"]
    np.testing.assert_array_equal(drop.vectors, [[*VECTORS[0], *VECTORS[3]], [*VECTORS[2], *VECTORS[1]]])
    zero = join([first, second], "zero")
    assert zero.ids == ["a", "b", "7", "c"]
    np.testing.assert_array_equal(zero.vectors[1], [*VECTORS[1], 0, 0, 0])
    mean = join([first, second], "mean", order=["c"])
    np.testing.assert_allclose(mean.vectors, [[*VECTORS[:3].mean(0), *VECTORS[2]]], rtol=1e-6)
    with pytest.raises(UserError, match=r"of 4 items the tables lack \[1, 1\].*--missing drop"):
        join([first, second])


def test_mmrec_gets_its_own_order(tmp_path):
    (tmp_path / "i_id_mapping.csv").write_text("asin\titemID\nb b\t2\n007\t0\nnew\t1\n")
    settings = Settings(
        own(tmp_path / "own", TEXT), str(tmp_path / "baby"), "mmrec", str(tmp_path / "i_id_mapping.csv")
    )
    with pytest.raises(UserError, match=r"lack \[1\], for example \['new'\]"):
        convert(settings)
    convert(replace(settings, missing="mean"))
    ids, vectors = mmrec(tmp_path / "baby")
    assert ids == ["007", "new", "b b"]
    np.testing.assert_allclose(vectors, [VECTORS[2], VECTORS.mean(0), VECTORS[1]], rtol=1e-6)
    with pytest.raises(UserError, match="a row for every inner id"):
        Settings("t", "o", "mmrec", "i_id_mapping.csv", "drop")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": "t.zip"}, "not written compressed; leave out .zip"),
        ({"out": "t", "layout": "pickle"}, "choose one of npy, npz"),
        ({"out": "t.npy", "layout": "fuxictr"}, "FuxiCTR reads .h5, .npz and .parquet"),
        ({"out": "t.h5", "layout": "fuxictr"}, "only ASCII ids"),
        ({"out": "own"}, "exists already"),
        ({"out": "there.npz"}, "exists already"),
        ({"order": "nothing.csv"}, "cannot be read as a list of items"),
        ({"order": "gap.csv"}, "does not count from 0 to 1"),
        ({"out": "t.npz", "dtype": "float16"}, "do not fit float16"),
    ],
)
def test_mistakes_are_reported_and_leave_nothing(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npz").touch()
    (tmp_path / "gap.csv").write_text("asin\titemID\na\t0\nb\t2\n")
    table = own(tmp_path / "own", TEXT, VECTORS * np.float32(1e6))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        convert(Settings(table, **settings))
    assert sorted(tmp_path.iterdir()) == before


def test_ids_that_no_atomic_file_holds_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds a tab"):
        convert(Settings(own(tmp_path / "own", ["a\tb", "c"], VECTORS[:2]), str(tmp_path / "t.itememb")))
    assert not (tmp_path / "t.itememb").exists()


def faulty(folder, kind):
    file = folder / "t.npz"
    if kind == "text":
        np.savez(file, ids=["a"], vectors=[["x", "y"]])
    elif kind == "overflow":
        np.savez(file, ids=["a"], vectors=np.array([[1e300, 1]]))
    elif kind == "blank id":
        np.savez(file, ids=["a", " "], vectors=VECTORS[:2])
    elif kind == "flat":
        np.savez(file, ids=["a"], vectors=VECTORS[0])
    elif kind == "empty":
        np.savez(file, ids=["a"], vectors=np.zeros((1, 0)))
    elif kind == "names":
        np.savez(file, id=["a"], vector=VECTORS[:1], other=VECTORS[:1])
    elif kind == "null id":
        file = folder / "t.parquet"
        pl.DataFrame({"item_id": ["a", None], "embedding": VECTORS[:2].tolist()}).write_parquet(file)
    elif kind == "sizes":
        file = folder / "t.parquet"
        pl.DataFrame({"item_id": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]}).write_parquet(file)
    elif kind == "cut h5":
        file = folder / "t.h5"
        file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    elif kind == "no index":
        file = folder / "t.faiss"
        file.write_bytes(b"no index")
    elif kind == "no ids":
        file = folder / "t.npy"
        np.save(file, VECTORS)
    elif kind == "ragged":
        file = folder / "t.itememb"
        file.write_text("iid:token\titem_emb:float_seq\na\t1 2\nb\t1\n")
    elif kind == "header":
        file = folder / "t.itememb"
        file.write_text("iid\titem_emb\na\t1 2\n")
    return file


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "must be floating-point numbers"),
        ("overflow", "infinite"),
        ("blank id", "1 rows have no item id, the first is row 1"),
        ("null id", "1 rows have no item id, the first is row 1"),
        ("flat", "1 ids for vectors of shape"),
        ("empty", "1 ids for vectors of shape"),
        ("names", "holds the arrays"),
        ("sizes", "several sizes"),
        ("cut h5", "cannot be read"),
        ("no index", "not a faiss index"),
        ("no ids", "needs its item ids in a file next to it"),
        ("ragged", "several sizes"),
        ("header", "must be token and float_seq"),
    ],
)
def test_faulty_files_are_refused(tmp_path, kind, message):
    with pytest.raises(UserError, match=message):
        read_table(faulty(tmp_path, kind))


def test_parts_of_several_sizes_are_refused(tmp_path):
    write_table(tmp_path / "t", ["a"], VECTORS[:1], {})
    write_table(tmp_path / "u", ["b"], VECTORS[:1, :2], {})
    (tmp_path / "u" / "part-00000.parquet").rename(tmp_path / "t" / "part-00001.parquet")
    described = read_json(tmp_path / "t" / "table.json") | {"count": 2}
    del described["parts"]  # as in tables of earlier versions
    write_json(tmp_path / "t" / "table.json", described)
    with pytest.raises(UserError, match="parts with embeddings of the sizes"):
        read_table(tmp_path / "t")


ODD = {
    "text": ["a,b;c", ' "d"', "e\r\nf\tg", "=1+1", "null", "8.60E+12", "1.0", "\ufeffx", "e\u0301", "\0y", "#"],
    "beyond int64": [2**63, 2**64 - 1, 5],
    "beyond 64 bits": [10**30, 10**30 + 1, -7],
    "of both kinds": [1, "a", "007"],
}


@pytest.mark.parametrize("ids", ODD.values(), ids=ODD)
@pytest.mark.parametrize(
    "ending", [".npz", ".npy", ".h5", ".parquet", ".csv", ".pt", ".safetensors", ".faiss", "", "mmrec"]
)
def test_odd_ids_come_back_from_every_layout(ending, ids, tmp_path):
    vectors = np.random.default_rng(1).normal(size=(len(ids), 3)).astype(np.float32)
    table, layout = own(tmp_path / "own", ids, vectors), ending if ending == "mmrec" else None
    convert(Settings(table=table, out=str(tmp_path / f"t{'' if layout else ending}"), layout=layout))
    found = read_table(tmp_path / f"t{'' if layout else ending}", layout)
    assert list(map(str, found.ids)) == list(map(str, ids))
    np.testing.assert_array_equal(found.vectors, vectors)


@pytest.mark.parametrize("ending", [".npz", ".h5", ".pt"])
def test_an_id_that_numpy_would_cut_is_refused(ending, tmp_path):
    table = own(tmp_path / "own", ["a", "a\0"], VECTORS[:2])
    with pytest.raises(UserError, match=r"the id 'a.x00' ends in a zero byte, .*; write .parquet or .csv"):
        convert(Settings(table=table, out=str(tmp_path / f"t{ending}")))
