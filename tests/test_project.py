"""What the front page and the configurations promise."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from data_tools.common.cli import parse_settings
from pretrain.settings import Settings as Pretrain

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*/*.yaml"))


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_front_page_has_exactly_two_set_up_commands():
    assert [command for command in commands() if "pip install" in command] == [
        "pip install -e . && accelerate launch pretrain/train.py",
        "pip install -e '.[test]' && pytest",
    ]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_configuration_is_accepted(config):
    header = config.read_text(encoding="utf-8").splitlines()[0]
    program = re.search(r"python -m ([\w.]+)", header)
    settings = importlib.import_module(program[1]).Settings if program else Pretrain
    needed = [name for name in ("dataset", "out") if f"--{name} " in header]
    flags = [word for name in needed for word in (f"--{name}", name)]
    assert isinstance(parse_settings(settings, "", ["--config", str(config), *flags]), settings)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_configuration_starts_with_its_command(config):
    header = config.read_text(encoding="utf-8").splitlines()[0]
    assert header.startswith(("# accelerate launch pretrain/train.py", "# python -m downstream."))


def test_the_default_configuration_is_the_default():
    written = yaml.safe_load((ROOT / "configs" / "pretrain" / "default.yaml").read_text(encoding="utf-8"))
    assert written == dataclasses.asdict(Pretrain())


def test_the_front_pages_training_flags_exist():
    for command in commands():
        if command.startswith("accelerate launch pretrain/train.py"):
            parse_settings(Pretrain, "", shlex.split(command.removesuffix("..."))[3:])


def test_flags_win_over_the_configuration_wherever_they_stand(tmp_path):
    (tmp_path / "run.yaml").write_text("seed: 3\nout: elsewhere\n")
    given = ["--out", "mine", "--config", str(tmp_path / "run.yaml"), "--optim.steps=7"]
    settings = parse_settings(Pretrain, None, given)
    assert (settings.out, settings.seed, settings.optim.steps) == ("mine", 3, 7)
