"""The settings of a comparison, and the cells that they make."""

from dataclasses import replace

import pytest

from data_tools.common.cli import UserError
from downstream.compare import Settings, compare, plan
from downstream.comparison.sources import Source
from downstream.comparison.spec import Primary
from downstream.training.settings import ModelSettings

MINIMAL = {"sources": {"ids": None, "courier": Source(table="t")}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"main": "scl"}, "main is 'scl'"),
        ({"ceiling": "planted"}, "ceiling is 'planted'"),
        ({"baseline": "courier"}, "one source cannot have two roles"),
        ({"ceiling": "courier"}, "one source cannot have two roles"),
        ({"forms": ["tensor"]}, "forms: unknown name 'tensor'; choose one of"),
        ({"forms": {"vector": {"sise": 3}}}, "sise"),
        ({"forms": {"ad alone": {"behaviour_images": False}}}, "give it 'form'"),
        ({"models": {"wide": {"name": "din2"}}}, "unknown model 'din2'"),
        ({"models": []}, "models is empty"),
        ({"workers": 0}, "workers is 0"),
        ({"ctr_seeds": []}, "ctr_seeds is empty"),
        ({"ctr_seeds": [1, 1]}, "ctr_seeds names one twice"),
        ({"encoder_seeds": [1, 1]}, "encoder_seeds names one twice"),
        ({"forms": ["vector", "vector"]}, "forms names one twice"),
        ({"models": ["din", "dicm", "din"]}, "models names one twice"),
        ({"sources": {"ids": None, "": Source(table="t")}}, "one without a name"),
        ({"sources": {"ids": None, 1: Source(table="t")}}, "main is 'courier'; choose one of the sources ids, 1"),
        ({"sources": {}}, "sources is empty; name at least two"),
        ({"sources": {"ids": None, "none": Source()}}, "the sources 'ids' and 'none' are the same"),
        (
            {"sources": {"ids": None, "courier": Source(run="r"), "again": Source(run="r")}},
            r"the sources 'courier' and 'again' are the same \(run: r, weights: trained\); remove one",
        ),
        ({"primary": Primary("scl")}, "primary.against is 'scl'"),
        ({"primary": Primary("ids", model="din")}, "primary.model is 'din'"),
        ({"out": ""}, "out is empty; give it a value"),
    ],
)
def test_wrong_settings_are_named(changed, message):
    with pytest.raises(UserError, match=message):
        Settings(**{"out": "o", "dataset": "d", **MINIMAL, **changed})


def test_a_missing_table_names_the_command(world, tmp_path):
    settings = Settings(
        out=str(tmp_path / "out"),
        dataset=str(world.folder),
        sources={"ids": None, "courier": Source(table=str(tmp_path / "none"))},
    )
    with pytest.raises(UserError, match=r"accelerate launch pretrain/export\.py"):
        compare(settings, "")


def test_named_forms_and_models_change_the_settings_of_their_cells(tmp_path):
    settings = Settings(
        **MINIMAL,
        out="o",
        dataset="d",
        forms={"vector": None, "ad image alone": {"form": "vector", "behaviour_images": False, "hidden": [8]}},
        models={"wide": {"name": "dicm", "hidden": [400, 80]}},
        ctr_seeds=[3],
    )
    ids, joint, alone = plan(settings, {"ids": {}, "courier": {0: tmp_path}})
    assert {cell.model for cell in (ids, joint, alone)} == {"wide"} and ids.form == "none"
    assert ids.training.model == ModelSettings("dicm", hidden=(400, 80))
    assert joint.training.image == settings.training.image
    assert alone.training.image == replace(settings.training.image, behaviour_images=False, hidden=(8,))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [(0, 4), (2, 5), (0, 6)]),
        ({"design": "crossed"}, [(0, 4), (2, 4), (0, 5), (2, 5), (0, 6), (2, 6)]),
    ],
)
def test_each_design_runs_its_cells(tmp_path, changes, expected):
    settings = Settings(**MINIMAL, out="o", dataset="d", ctr_seeds=[4, 5, 6], **changes)
    cells = plan(settings, {"ids": {}, "courier": {0: tmp_path / "0", 2: tmp_path / "2"}})
    assert [(cell.encoder, cell.seed) for cell in cells if cell.source == "courier"] == expected
    assert [(cell.encoder, cell.seed) for cell in cells if cell.source == "ids"] == [(0, 4), (0, 5), (0, 6)]
    assert all(cell.table == tmp_path / str(cell.encoder) for cell in cells if cell.source == "courier")
