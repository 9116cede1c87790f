"""What to do with a finished run: where its weights are, and the commands that come next."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml

from data_tools.common.files import whole_file
from data_tools.common.launch import launch
from data_tools.sharding.files import read_index
from pretrain.settings import Settings
from pretrain.training.journal import console
from pretrain.training.runs import checkpoints


def write_compare_config(settings: Settings) -> Path:
    """Write the configuration of the run's comparison, ready for ``downstream.compare``, into the run folder."""
    run, objective = Path(settings.out), settings.objective.name
    config = {
        "title": f"{run.name}: does its embedding help the CTR model?",
        "dataset": read_index(settings.data).get("dataset", "DATASET"),
        "data": settings.data,
        "sources": {
            "ids": {},
            "untrained": {"run": str(run), "weights": "initial"},
            objective: {"run": str(run)},
        },
        "main": objective,
        "forms": ["vector", "simscore"],
    }
    path = run / "compare.yaml"
    with whole_file(path) as scratch:
        scratch.write_text(
            f"# python -m downstream.compare --config {path} --out results/{run.name}\n"
            "# Generic embeddings to compare with are further sources: see downstream/comparison/sources.py\n"
            + yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
            encoding="utf-8",
        )
    return path


def _quoted(path: str | Path | None) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def print_next_steps(settings: Settings, config: Path, out: str) -> None:
    """Where the weights are, and how to look at the run, export it and compare it.

    Parameters
    ----------
    settings : Settings
    config : path
        Configuration of the comparison.
    out : str
        Folder of its results.
    """
    run = Path(settings.out)
    lines = [
        f"checkpoint: {checkpoints(run)[-1]}, best weights: {run / 'best.safetensors'}",
        f"the run as a page: python -m pretrain.run_page --run {_quoted(run)}",
        "next, export and compare:",
        f"  {launch('pretrain.export')} --run {_quoted(run)} --data {_quoted(settings.data)} "
        f"--out {_quoted(run / 'tables' / 'trained')}",
        f"  python -m downstream.compare --config {_quoted(config)} --out {_quoted(out)}",
    ]
    console.print("\n".join(lines))
