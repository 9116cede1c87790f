"""Options of forms, aggregators and models: those without effect are refused, and old runs still load."""

import pickle
import sys
from dataclasses import asdict, dataclass

import numpy as np
import pytest
import yaml
from accelerate import Accelerator

from data_tools.common.checks import Checked, FromTwo
from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import read_json, write_json
from data_tools.common.plugins import Registry, with_plugins
from data_tools.tables.table import write_table
from downstream import train
from downstream.compare import Settings as CompareSettings
from downstream.forms.aggregators import AGGREGATORS, Sum, make_aggregator
from downstream.forms.registry import FORMS
from downstream.forms.simtier import SimTier
from downstream.models.din import DIN
from downstream.models.registry import MODELS
from downstream.settings import DataSettings, OptimSettings
from downstream.settings import ImageSettings as SharedImageSettings
from downstream.studies.cascade import CascadeSettings
from downstream.studies.transfer import TransferSettings
from downstream.training.saved_runs import load_run, run_settings
from downstream.training.scoring import score
from downstream.training.settings import ImageSettings, ModelSettings, TrainingDefaults, TrainingSettings

BINS, SOFTMAX = SimTier.Settings(bins=7), DIN.Settings(softmax=True)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"image": ImageSettings(simtier=BINS)}, r"--image\.simtier\.bins is 7, but image\.form is 'vector'"),
        ({"model": ModelSettings(din=SOFTMAX)}, r"--model\.din\.softmax is True, but model\.name is 'dicm'"),
        ({"model": ModelSettings("mlr", hidden=(9,))}, r"--model\.hidden is .* model 'mlr' does not use"),
        ({"model": ModelSettings("dqm", activation="dice")}, r"--model\.activation .* model 'dqm' does not use"),
        ({"image": ImageSettings("simtier", aggregator="max")}, r"--image\.aggregator .* form 'simtier' does not use"),
        ({"image": ImageSettings("cluster_id", hidden=(9,))}, r"--image\.hidden .* form 'cluster_id' does not use"),
        (
            {"image": ImageSettings(behaviour_images=False, aggregator="max")},
            r"--image\.aggregator .* does not use",
        ),
        (
            {"model": ModelSettings("dqm"), "image": ImageSettings(ad_image=False)},
            r"--image\.ad_image .* model 'dqm' does not use",
        ),
    ],
)
def test_an_option_without_effect_is_refused(sections, said):
    with pytest.raises(UserError, match=said):
        TrainingSettings(**sections)


def test_a_shared_option_without_effect_is_refused():
    with pytest.raises(UserError, match="lr_decay_steps is 10, but lr_decay is 1"):
        OptimSettings(lr_decay_steps=10)
    with pytest.raises(UserError, match="title_words is 3, but words is 0"):
        DataSettings(words=0, title_words=3)


def test_a_form_made_of_others_uses_their_options():
    assert TrainingSettings(image=ImageSettings("simtier_make", simtier=BINS)).image.simtier.bins == 7


def test_a_training_takes_of_shared_options_what_it_uses():
    shared = TrainingDefaults(
        model=ModelSettings(din=SOFTMAX, hidden=(9,)), image=ImageSettings(simtier=BINS, aggregator="max", gate=True)
    )
    assert shared.chosen({"name": "din"}).model == ModelSettings("din", din=SOFTMAX, hidden=(9,))
    assert shared.chosen({"name": "mlr"}).model == ModelSettings("mlr")
    assert shared.chosen(image={"form": "simtier"}).image == ImageSettings("simtier", simtier=BINS, gate=True)
    assert shared.chosen({"name": "dqm"}).image == ImageSettings()
    changes = {"form": "simtier", "simtier": {"bins": 3}}
    assert shared.chosen(image=changes).image.simtier.bins == 3
    with pytest.raises(UserError, match=r"image\.simtier\.bins is 3"):
        shared.chosen(image={**changes, "form": "vector"})
    with pytest.raises(UserError, match=r"unknown setting simtier\.bin; the nearest is simtier\.bins"):
        shared.chosen(image={"form": "simtier", "simtier": {"bin": 3}})
    with pytest.raises(UserError, match="bins"):
        shared.chosen(image={"form": "simtier", "simtier": {"bins": 1}})
    chosen = shared.chosen({"name": "din"})
    assert pickle.loads(pickle.dumps(chosen)) == chosen  # cells go to other processes


COMPARED = {"dataset": "d", "sources": {"ids": {}, "courier": {"table": "t"}}, "out": "o"}
COMMANDS = [
    (CompareSettings, COMPARED),
    (CascadeSettings, {"out": "o", "dataset": "d", "tables": {"IDs only": None}}),
    (TransferSettings, {"out": "o", "dataset": "d"}),
]


@pytest.mark.parametrize(("settings", "given"), COMMANDS)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--training.image.simtier.bins", "7"), r"training\.image\.simtier\.bins is 7, but no training here uses it"),
        (("--training.model.mlr.l1", "1"), r"training\.model\.mlr\.l1 is 1\.0, but no training here uses it"),
        (("--training.model.name", "din"), r"training\.model\.name is 'din', but .* decides? it"),
    ],
)
def test_every_command_refuses_options_that_no_training_uses(settings, given, flags, said, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(given))
    parse_settings(settings, None, ["--config", str(tmp_path / "c.yaml")])
    with pytest.raises(UserError, match=said):
        parse_settings(settings, None, ["--config", str(tmp_path / "c.yaml"), *flags])


@pytest.mark.parametrize(("settings", "given"), COMMANDS)
def test_commands_of_one_process_have_no_server(settings, given, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(SystemExit):
        parse_settings(settings, None, ["--config", str(tmp_path / "c.yaml"), "--training.server.strategy", "ams"])
    assert "training.server.strategy" in capsys.readouterr().err


def test_variants_of_a_comparison_set_options(tmp_path):
    forms = {"three bins": {"form": "simtier", "simtier": {"bins": 3}}, "simtier": {}}
    models = {"dicm": {}, "soft": {"name": "din", "din": {"softmax": True}}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**COMPARED, "forms": forms, "models": models}))
    parsed = parse_settings(
        CompareSettings, None, ["--config", str(tmp_path / "c.yaml"), "--training.image.simtier.bins", "5"]
    )
    found = parsed.trainings()
    assert found["soft"]["three bins"].model.din.softmax and found["soft"]["three bins"].image.simtier.bins == 3
    assert found["dicm"]["simtier"].image.simtier.bins == 5 and found["dicm"]["none"].image == ImageSettings()


class Powers(Sum):
    """Sum of powers."""

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of the sum.

        Attributes
        ----------
        power : int
            Exponent.
        """

        power: FromTwo = 2

    def __init__(self, size, options, *, slots, query_size):
        super().__init__(size, slots=slots, query_size=query_size)
        self.power = options.power

    def forward(self, behaviours, mask, ad, ad_ids):
        return super().forward(behaviours**self.power, mask, ad, ad_ids)


def test_an_aggregator_gets_its_options(monkeypatch):
    aggregators = Registry("aggregator", "none", {**AGGREGATORS.built_in, "powers": Powers})
    section = with_plugins(SharedImageSettings, __name__, form=FORMS, aggregator=aggregators)
    monkeypatch.setattr("downstream.forms.aggregators.AGGREGATORS", aggregators)
    settings = section(aggregator="powers", powers=Powers.Settings(power=3))
    assert make_aggregator(4, settings, slots=5, query_size=6).power == 3


@pytest.mark.parametrize("registry", [FORMS, AGGREGATORS, MODELS])
def test_every_plug_in_says_what_it_is(registry):
    assert all(plugin.__doc__ for plugin in registry.values())
    for plugin in registry.values():
        if hasattr(plugin, "Settings"):
            assert plugin.Settings().__doc__.count(" : ") == len(asdict(plugin.Settings()))


def command(*given):
    sys.argv = ["downstream.train", *map(str, given)]
    run_command(train.main)


@pytest.fixture
def run(small_world, tmp_path, monkeypatch):
    """A run whose form draws cluster codes; called with further flags."""
    monkeypatch.setattr(sys, "argv", [])
    write_table(tmp_path / "table", small_world.table.ids, small_world.table.vectors, {})

    def make(*flags):
        command("--dataset", small_world.folder, "--table", tmp_path / "table", "--out", tmp_path / "run", *flags)
        return tmp_path / "run"

    return make


def test_a_run_loads_with_the_scores_it_had(run):
    folder = run("--image.form", "cluster_id", "--image.cluster_id.clusters", "[5,3]", "--seed", "4")
    assert run_settings(folder).image.cluster_id.clusters == (5, 3)
    model, data, _ = load_run(folder)
    scores = score(model, data, data.rows["test"], 512, Accelerator(cpu=True))["click"]
    np.testing.assert_array_equal(scores, np.load(folder / "test_scores.npy"))


def test_a_run_that_cannot_be_read_names_the_command(run):
    folder = run()
    summary = read_json(folder / "summary.json")
    summary["settings"]["image"]["form"] = "gone"
    write_json(folder / "summary.json", summary)
    with pytest.raises(UserError, match=r"unknown form 'gone'.*python -m downstream\.train"):
        run_settings(folder)


@pytest.mark.parametrize(("section", "older"), [("image", {"bins": 7}), ("model", {"l21": 0.1}), ("server", {"x": 1})])
def test_a_run_of_another_version_ends_in_one_message(section, older, run):
    folder = run()
    summary = read_json(folder / "summary.json")
    summary["settings"][section] |= older
    write_json(folder / "summary.json", summary)
    with pytest.raises(UserError, match=rf"summary.json was made by another version .*{section}.*: train again with"):
        run_settings(folder)
