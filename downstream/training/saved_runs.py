"""Run folders of ``downstream.train``, read back: a trained model with its data and settings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from data_tools.common.cli import settings_from
from data_tools.common.errors import UserError
from data_tools.common.files import read_json
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.images.reading import join, read_features
from downstream.models.base import CTRModel
from downstream.models.build import build_model
from downstream.training.run import RunSettings
from downstream.training.settings import TrainingDefaults

# Options that stood in the section itself before plug-ins had sections of their own.
MOVED = {
    "model": {
        "attention": ("din", "attention"),
        "softmax": ("din", "softmax"),
        "l1": ("mlr", "l1"),
        "l21": ("mlr", "l21"),
    },
    "image": {
        "bins": ("simtier", "bins"),
        "clusters": ("cluster_id", "clusters"),
        "levels": ("cluster_id", "levels"),
        "make_hidden": ("make", "hidden"),
        "make_epochs": ("make", "epochs"),
    },
}


def _upgraded(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that a run recorded, with today's keys.

    Earlier runs recorded options that had no effect, too; these are back at their defaults, as today they are errors.
    """
    if "bins" not in settings["image"]:
        return settings
    sections = {}
    for where, moved in MOVED.items():
        sections[where] = {name: value for name, value in settings[where].items() if name not in moved}
        for old, (plugin, name) in moved.items():
            sections[where].setdefault(plugin, {})[name] = settings[where][old]
    if settings["image"]["tune"] == "frozen":
        sections["image"]["lr"] = None
    shared = {"data": settings["data"], "optim": settings["optim"], **sections}
    server = settings["server"]
    if server["strategy"] == "local":
        server = {name: server[name] for name in ("strategy", "shard_ids", "timeout")}
    upgraded = {
        **settings,
        **asdict(settings_from(TrainingDefaults, shared, "summary.json").chosen()),
        "server": server,
    }
    if upgraded["warm_up"] is None or upgraded["warm_up_part"] == "none":
        upgraded |= {"warm_up": None, "warm_up_part": "partial"}
    return upgraded


def run_settings(folder: str | Path) -> RunSettings:
    """The settings that a run was made with.

    Raises
    ------
    UserError
        If the folder is not a run of ``downstream.train``.
    """
    path = Path(folder) / "summary.json"
    summary: dict[str, Any] = read_json(path)
    if "dataset" not in summary.get("settings", {}):
        raise UserError(f"{path} is not the summary of a run of downstream.train")
    try:
        return settings_from(RunSettings, _upgraded(summary["settings"]), f"{folder}/summary.json")
    except (UserError, KeyError) as error:
        raise UserError(
            f"{path} has settings that this version cannot read: {error}; make the run anew with "
            "python -m downstream.train"
        ) from error


def load_run(folder: str | Path, data: CTRData | None = None) -> tuple[CTRModel, CTRData, RunSettings]:
    """A run's model with its trained weights, in evaluation mode, its data and its settings.

    Parameters
    ----------
    folder : path
        The run.
    data : CTRData
        Its dataset; read unless given.

    Raises
    ------
    UserError
        If the run, its dataset or its table is missing, or the dataset has changed since.
    """
    settings = run_settings(folder)
    data = data or load_ctr_data(settings.dataset, settings.data)
    made_of, found = read_json(Path(folder) / "summary.json")["dataset_fingerprint"], data.dataset.info["fingerprint"]
    if made_of != found:
        raise UserError(f"{folder} was trained on the dataset {made_of}, but {settings.dataset} is now {found}")
    images = join(read_features(settings.table), data, settings.server) if settings.table else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # which cluster codes the form "cluster_id" computes depends on it
        model = build_model(data, images, settings.model, settings.image)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval(), data, settings
