"""Embedding sources of a comparison: from a few words in YAML to the tables on disk, made where they are missing.

=================================================  ===================================================================
``{}`` or nothing                                  IDs only
``{table: PATH}``                                  a table as it is, of our own form or made elsewhere
``{run: RUN, weights: trained}``                   the encoder of a pre-training run, or with ``initial`` as it was
                                                   before training, or with ``last`` of the latest
                                                   checkpoint; exported to RUN/tables/<weights>
``{train: CONFIG, run: RUN}``                      the same, trained first where RUN has no summary.json
``{encoder: {name: ..., ...}, table: PATH}``       an encoder as it comes; its keys are those of ``encoder`` in a
                                                   pre-training configuration; exported to PATH
=================================================  ===================================================================

``run`` and ``table`` may be lists, one entry a pre-training seed (0, 1, ...); ``encoder_seeds`` and ``design`` of the
comparison say which of them are used with which CTR seed. Training and export run in separate processes: only
tables pass from there to here.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.common.cli import UserError
from data_tools.common.launch import launch
from data_tools.common.storage import taken

WEIGHTS = ("trained", "last", "initial")


@dataclass(frozen=True)
class Source:
    """Where an embedding table comes from (see the module's head); all empty means IDs only.

    Attributes
    ----------
    table : str, list of str or null
        A table (one for each pre-training seed), or where the table of encoder goes.
    run : str, list of str or null
        Pre-training run folder, one for each seed.
    weights : str
        "trained", "last" or "initial", of run.
    train : str or null
        Configuration that run is made from where it is missing.
    encoder : dict or null
        Settings of an encoder that is exported as it comes, without training.
    data : str or null
        Shards to train on and to export from; null takes those of the comparison.
    """

    table: str | list[str] | None = None
    run: str | list[str] | None = None
    weights: str = "trained"
    train: str | None = None
    encoder: dict[str, Any] | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise UserError(f"unknown weights {self.weights!r} of a source; choose one of {', '.join(WEIGHTS)}")
        if self.run and (self.table or self.encoder):
            raise UserError(f"a source is a run, or an encoder with its table, or a table, not several: {self}")
        if self.encoder and not isinstance(self.table, str):
            raise UserError("a source with an encoder needs 'table', the folder its table is written to")
        if self.train and not self.run:
            raise UserError("a source with 'train' needs 'run', the folder the run goes to")

    @property
    def ids_only(self) -> bool:
        """Whether the source has no embeddings."""
        return not (self.table or self.run)

    @property
    def runs(self) -> list[Path]:
        """Its run folders, one of each pre-training seed; none of a source without."""
        return [Path(run) for run in _listed(self.run)] if self.run else []


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _flags(prefix: str, settings: dict[str, Any]) -> list[str]:
    flags = []
    for key, value in settings.items():
        flags += [f"--{prefix}.{key}", value if isinstance(value, str) else json.dumps(value)]
    return flags


def run_module(module: str, *arguments: str) -> None:
    """Run a module of the project in another process.

    Raises
    ------
    UserError
        If it fails; its own message is above.
    """
    command = ["-m", module, *arguments]
    if subprocess.run([sys.executable, *command], check=False).returncode:
        raise UserError(f"this command failed: python {shlex.join(command)}")


def _export(table: Path, *given: str) -> None:
    """Export a table, unless another comparison does so meanwhile: tables appear whole."""
    try:
        run_module("pretrain.export", *given, "--out", str(table))
    except UserError:
        if not taken(table):
            raise


def _trained(run: Path, seed: int, source: Source, shards: str | None) -> None:
    """Make sure that ``run`` holds a finished run."""
    if (run / "summary.json").exists():
        return
    if not source.train:
        data = f" --data {shards}" if shards else ""
        raise UserError(
            f"{run} holds no finished pre-training run; make one with:\n  {launch('pretrain.train')}{data} --out {run}"
        )
    resume = ["--resume", "true"] if run.exists() else []
    given = ["--data", _shards(shards), "--out", str(run), "--seed", str(seed), *resume]
    run_module("pretrain.train", "--config", source.train, *given)


def _shards(shards: str | None) -> str:
    if not shards:
        raise UserError(
            "'data' is missing, the shards that embeddings are made from: set it for the source or for all sources"
        )
    if not taken(shards):
        raise UserError(
            f"the shards {shards} do not exist; make them with:\n"
            f"  python -m data_tools.shards --dataset DATASET --out {shards}"
        )
    return shards


def _exported(run: Path, source: Source, shards: str | None) -> Path:
    """The table of a finished run, exported where it is missing."""
    table = run / "tables" / source.weights
    if not table.exists():
        _export(table, "--run", str(run), "--data", _shards(shards), "--weights", source.weights)
    elif (table / "table.json").stat().st_mtime < (run / "summary.json").stat().st_mtime:
        raise UserError(f"{table} is older than the run it was exported from; remove it, and it will be exported again")
    return table


def _chosen(kind: str, paths: list[Path], encoders: list[int] | None) -> dict[int, Path]:
    """Pre-training seed -> path of those wanted; of a single path, itself."""
    if encoders is None or len(paths) == 1:
        return dict(enumerate(paths))
    if missing := [seed for seed in encoders if not 0 <= seed < len(paths)]:
        raise UserError(
            f"encoder_seeds names {missing}, but a source has {len(paths)} {kind}s ({paths[0]} ...): "
            f"give seeds from 0 to {len(paths) - 1}, or add {kind}s"
        )
    return {seed: paths[seed] for seed in encoders}


def make_tables(source: Source, shards: str | None, encoders: list[int] | None = None) -> dict[int, Path]:
    """Pre-training seed -> table of a source, made where it is missing; none for IDs only.

    Parameters
    ----------
    source : Source
    shards : str or None
        Shards to train on and to export from, where the source names none.
    encoders : list of int or None
        Places in the source's list of runs or tables to use; None for all.

    Raises
    ------
    UserError
        If something is missing that no command named in the source makes; the message names the command.
    """
    shards = source.data or shards
    if source.ids_only:
        return {}
    if source.run:
        runs = _chosen("run", source.runs, encoders)
        for seed, run in runs.items():
            _trained(run, seed, source, shards)
        return {seed: _exported(run, source, shards) for seed, run in runs.items()}
    tables = _chosen("table", [Path(table) for table in _listed(source.table)], encoders)
    if source.encoder and not taken(tables[0]):
        _export(tables[0], *_flags("encoder", source.encoder), "--data", _shards(shards))
    for table in tables.values():
        if not taken(table):
            raise UserError(
                f"the table {table} does not exist; a pre-training run's is made with:\n"
                f"  {launch('pretrain.export')} --run RUN --data SHARDS --out {table}"
            )
    return tables
