"""Exported tables in the real FuxiCTR, RecBole and faiss, and MMRec's contract; slow: their packages are installed."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data_tools.convert_table import Settings, convert
from data_tools.tables.table import write_table
from tests.side_environment import side_environment

IDS = ["shirt 1", "007", "7", "a,b", "Z"]
NUMBERS = [7, 1000, 12, 999_999, 3]
VECTORS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

# A dataset of user_id and item_id, fitted; prints the rows that the embedding layer has for each item.
FUXICTR = """
import json, sys
import polars as pl
from fuxictr.features import FeatureMap
from fuxictr.preprocess import FeatureProcessor
from fuxictr.pytorch.layers import FeatureEmbeddingDict
import torch
log, table, root = sys.argv[1:]
columns = [{"name": "user_id", "active": True, "dtype": "str", "type": "categorical"},
           {"name": "item_id", "active": True, "dtype": "str", "type": "categorical", "pretrained_emb": table,
            "pretrain_dim": 3, "freeze_emb": True, "pretrain_usage": "init"}]
processor = FeatureProcessor(columns, {"name": "click", "dtype": "float"}, dataset_id="shop", data_root=root)
rows = processor.preprocess(pl.scan_parquet(log))
processor.fit(rows, min_categr_count=1)
features = FeatureMap("shop", processor.data_dir)
features.load(processor.json_file, {})
features.data_dir = processor.data_dir
layer = FeatureEmbeddingDict(features, embedding_dim=3).embedding_layers["item_id"]
items = pl.read_parquet(log)["item_id"]
codes = torch.as_tensor(processor.processor_dict["item_id::tokenizer"].encode_category(items.to_pandas()))
print(json.dumps({"vectors": layer(codes.long()).tolist(), "items": items.to_list(), "class": type(layer).__name__}))
"""

RECBOLE = """
import json, sys
from recbole.config import Config
from recbole.data import create_dataset
settings = {"data_path": sys.argv[1], "additional_feat_suffix": ["itememb"], "alias_of_item_id": ["iid"],
            "load_col": {"inter": ["user_id", "item_id"], "itememb": ["iid", "item_emb"]},
            "preload_weight": {"iid": "item_emb"}}
dataset = create_dataset(Config(model="BPR", dataset="shop", config_dict=settings))
weights = dataset.get_preload_weight("iid")
print(json.dumps({"items": list(dataset.field2id_token["item_id"]), "vectors": weights.tolist()}))
"""

FAISS = """
import json, sys
import faiss, numpy as np
index = faiss.read_index(sys.argv[1])
vectors = np.array(json.loads(sys.argv[2]), np.float32)
print(json.dumps({"nearest": index.search(vectors, 1)[1][:, 0].tolist(), "count": index.ntotal}))
"""


def exported(folder, ids, name, layout):
    """The table of these ids and the vectors, in another's layout."""
    write_table(folder / f"own-{name}", ids, VECTORS, {})
    convert(Settings(str(folder / f"own-{name}"), str(folder / name), layout))
    return folder / name


@pytest.fixture(scope="module")
def fuxictr(tmp_path_factory):
    return side_environment(tmp_path_factory.mktemp("fuxictr") / "env", "fuxictr==2.3.10")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ids"), [("t.npz", IDS), ("t.h5", IDS), ("t.parquet", IDS), ("n.npz", NUMBERS), ("n.h5", NUMBERS)]
)
def test_fuxictr_embeds_items_with_the_exported_vectors(fuxictr, tmp_path, name, ids):
    # The feature is text: with one of the type int and a pretrained_emb, 2.3.10 cannot write its own vocabulary.
    table = exported(tmp_path, ids, name, "fuxictr")
    shown = [str(item) for item in ids[:4]]  # the last is in the table alone
    log = pl.DataFrame({"user_id": ["u"] * 4, "item_id": shown, "click": [0.0, 1.0] * 2})
    log.write_parquet(tmp_path / "log.parquet")
    found = fuxictr(FUXICTR, tmp_path / "log.parquet", table, tmp_path)
    assert found["class"] == "PretrainedEmbedding" and found["items"] == shown
    np.testing.assert_allclose(found["vectors"], VECTORS[:4], rtol=1e-6)


@pytest.mark.slow
def test_recbole_preloads_the_exported_vectors(tmp_path):
    # RecBole 1.2.1 was written for the first versions of these.
    older = ("numpy<2", "pandas<2.3", "scipy<1.14", "scikit-learn<1.6")
    recbole = side_environment(tmp_path / "env", "recbole==1.2.1", *older)
    (tmp_path / "shop").mkdir()
    exported(tmp_path / "shop", IDS, "shop.itememb", "recbole")
    rows = "".join(f"u\t{item}\n" for item in IDS)
    (tmp_path / "shop" / "shop.inter").write_text(f"user_id:token\titem_id:token\n{rows}")
    found = recbole(RECBOLE, tmp_path)
    assert found["items"] == ["[PAD]", *found["items"][1:]] and sorted(found["items"][1:]) == sorted(IDS)
    order = [IDS.index(item) for item in found["items"][1:]]
    np.testing.assert_array_equal(np.array(found["vectors"][1:], np.float32), VECTORS[order])
    assert found["vectors"][0] == [0, 0, 0]


@pytest.mark.slow
def test_faiss_alone_finds_each_item(tmp_path):
    faiss = side_environment(tmp_path / "env", f"faiss-cpu=={version('faiss-cpu')}")
    found = faiss(FAISS, exported(tmp_path, NUMBERS, "t.faiss", "faiss"), json.dumps(VECTORS.tolist()))
    nearest = (VECTORS @ VECTORS.T).argmax(axis=1)  # by the scalar product
    assert found == {"nearest": [NUMBERS[row] for row in nearest], "count": 5}


def as_mmrec_loads(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Features and ids by inner item, by the contract of MMRec's sources, which no package registry has.

    ``image_feat.npy`` is an array of numbers whose row i is of inner item i (GeneralRecommender in
    ``src/common/abstract_recommender.py``); ``i_id_mapping.csv``, apart by tabs, gives an item's ``asin`` its inner
    number ``itemID`` (``preprocessing/0rating2inter.ipynb``).
    """
    rows = [line.split("\t") for line in (folder / "i_id_mapping.csv").read_text().splitlines()]
    assert rows[0] == ["asin", "itemID"]
    inner = {int(number): item for item, number in rows[1:]}
    return np.load(folder / "image_feat.npy"), [inner[number] for number in range(len(inner))]


def test_mmrec_finds_its_inner_items(tmp_path):
    features, items = as_mmrec_loads(exported(tmp_path, [f"B{number}" for number in NUMBERS], "baby", "mmrec"))
    assert features.dtype == np.float32 and items == [f"B{number}" for number in NUMBERS]
    np.testing.assert_array_equal(features, VECTORS)
    (tmp_path / "mapping.csv").write_text("asin\titemID\nB12\t0\nB7\t1\nB3\t2\n")
    settings = {"layout": "mmrec", "order": str(tmp_path / "mapping.csv")}
    convert(Settings(str(tmp_path / "own-baby"), str(tmp_path / "ordered"), **settings))
    features, items = as_mmrec_loads(tmp_path / "ordered")
    assert items == ["B12", "B7", "B3"]
    np.testing.assert_array_equal(features, VECTORS[[2, 0, 4]])
