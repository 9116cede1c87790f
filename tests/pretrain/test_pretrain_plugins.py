"""Another package's objective and encoder family, each with one option, through the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = '''
from dataclasses import dataclass

from torch import nn

from data_tools.common.checks import Checked
from pretrain.encoder.families.base import EncoderFamily, Tower
from pretrain.objectives.base import Objective
from pretrain.objectives.parts.losses import Term, global_mean


class Pull(Objective):
    """Embeddings are pulled to a given length."""

    batches, views = "items", 1

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of pull.

        Attributes
        ----------
        length : float
            Of the embeddings.
        """

        length: float = 1.0

    def terms(self, embeddings, batch):
        values = (embeddings.norm(dim=1) - self.options.length).square()
        return {"pull_loss": Term(global_mean(values, batch["image_item"] >= 0), values.detach().mean())}


class Pixels(EncoderFamily):
    """Means of a grid of the picture, and one convolution."""

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of pixels.

        Attributes
        ----------
        width : int
            Of the convolution.
        """

        width: int = 4

    def build(self, name, image_size):
        width = self.options.width
        layers = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(int(name)), nn.Flatten()]
        return Tower(nn.Sequential(*layers), [0.5] * 3, [0.5] * 3)
'''
ENTRY_POINTS = """
[visual_interest.objectives]
pull = my_company:Pull
[visual_interest.encoder_families]
pixels = my_company:Pixels
"""


# One process for both commands: importing torch takes longer than they do.
SCRIPT = """
import sys
from data_tools.common.cli import UserError, parse_settings
from pretrain.export import Settings as Export, export
from pretrain.settings import Settings
from pretrain.train import train

shards, out, *arguments = sys.argv[1:]
train(parse_settings(Settings, None, ["--data", shards, "--out", out, *arguments]))
export(parse_settings(Export, None, ["--run", out, "--data", shards, "--out", out + "/table"]))
try:
    parse_settings(Settings, None, ["--objective.pull.length", "3"])
except UserError as error:
    print(error)
"""


@pytest.fixture
def environment(tmp_path):
    """Of processes in which the package is installed."""
    (tmp_path / "my_company.py").write_text(PACKAGE)
    info = tmp_path / "my_company-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-company\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_they_are_trained_and_exported_with_their_options(environment, tiny_world, tmp_path):
    shards, out = tiny_world / "shards", tmp_path / "run"
    chosen = "--objective.name pull --objective.pull.length 3 --encoder.family pixels --encoder.pixels.width 6"
    small = "--encoder.name 2 --encoder.dimensions 0 --encoder.image_size 16 --batch.rows 16 --batch.workers 0"
    quick = "--optim.steps 20 --optim.lr 0.1 --optim.warmup 0 --optim.precision fp32 --log_every 1"
    arguments = [str(shards), str(out), *f"{chosen} {small} {quick} --evaluation.every 20".split()]
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "or choose --objective.name pull" in process.stdout
    logged = [line["pull_loss"] for line in map(json.loads, (out / "log.jsonl").open()) if "loss" in line]
    assert logged[-1] < logged[0] / 2
    made = json.loads((out / "run.json").read_text())["settings"]
    assert made["objective"]["pull"] == {"length": 3.0} and made["encoder"]["pixels"] == {"width": 6}
    table = json.loads((out / "table" / "table.json").read_text())
    assert table["size"] == 6 * 2 * 2 and table["encoder"]["family"] == "pixels"
