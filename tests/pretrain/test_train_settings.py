"""The settings of a run: what is wrong, out of range or contradictory is refused by name."""

import pytest
import torch

from data_tools.common.cli import UserError, parse_settings
from pretrain.settings import Settings
from pretrain.training.optim import schedule
from pretrain.training.step import one_picture_named
from tests.pretrain.run_helpers import run, settings


def test_unknown_objective_is_refused(tiny_world, tmp_path):
    with pytest.raises(UserError, match="courier"):
        run(settings(tiny_world / "shards", tmp_path / "u", "--objective.name", "curier"))


def test_schedule_warms_up_and_falls_to_zero():
    made = parse_settings(Settings, "", ["--optim.steps", "100", "--optim.warmup", "10", "--optim.lr", "1.0"])
    assert schedule(0, made.optim) == pytest.approx(0.1)
    assert schedule(9, made.optim) == pytest.approx(1.0)
    assert schedule(55, made.optim) == pytest.approx(0.5)
    assert schedule(99, made.optim) < 0.001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.stepz", "6"], "optim.steps"),
        (["--optim.step", "6"], "optim.steps"),  # no abbreviations either
        (["--optimm.steps", "6"], "the nearest is optim"),
        (["--optim.steps", "many"], "optim.steps"),
    ],
)
def test_a_wrong_setting_names_the_right_one(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse_settings(Settings, "", arguments)
    assert message in capsys.readouterr().err


def test_a_wrong_key_in_a_file_names_the_right_one(tmp_path, capsys):
    for text, nearest in (("optim: {step: 6}", "optim.steps"), ("optm: {steps: 6}", "optim"), ("sed: 1", "seed")):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(SystemExit):
            parse_settings(Settings, "", ["--config", str(tmp_path / "c.yaml")])
        assert f"the nearest is {nearest}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--optim.steps", "0"],
        ["--batch.crop_scale", "1.5"],
        ["--optim.precision", "fp8"],
        ["--objective.courier.reconstruction", "self"],
        ["--objective.guards.koleo", "-1"],
        ["--optim.micro_batch", "-4"],
        ["--objective.scl.momentum", "2"],
        ["--evaluation.choose_on", "unseen"],
        ["--objective.temperature", "0.1"],  # each objective with a temperature has its own
        ["--objective.simsiam.temperature", "0.1"],
    ],
)
def test_values_out_of_range_are_refused_at_once(arguments, capsys):
    with pytest.raises(SystemExit):
        parse_settings(Settings, "", arguments)
    assert arguments[0][2:] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective.courier.learn_temperature", "--objective.courier.contrast", "false"], "no temperature is used"),
        (["--objective.name", "simclr", "--objective.courier.pv_weight", "3"], "choose --objective.name courier"),
        (["--objective.scl.queue", "3"], "choose --objective.name scl"),
        (["--encoder.open_clip.tag", "t"], "choose --encoder.family open_clip"),
        (["--encoder.weights", "w", "--encoder.timm.pretrained"], "give one of them"),
    ],
)
def test_contradictions_are_refused_at_once(arguments, message):
    with pytest.raises(UserError, match=message):
        parse_settings(Settings, "", arguments)


def test_no_arguments_are_the_embedded_default():
    assert parse_settings(Settings, "", []) == Settings()


def test_a_switch_needs_no_value():
    assert parse_settings(Settings, "", ["--resume", "--optim.steps", "6"]).resume
    assert parse_settings(Settings, "", ["--optim.steps", "6", "--resume"]).resume
    assert not parse_settings(Settings, "", ["--resume", "false"]).resume


def test_one_picture_is_too_few_for_batch_normalisation():
    said = r"step 3 has 1 different picture.*--batch.rows.*--encoder.freeze_norm"
    with pytest.raises(UserError, match=said), one_picture_named(3, 1):
        torch.nn.BatchNorm1d(2)(torch.ones(1, 2))
