"""Run folders of ``downstream.train``, read back: a trained model with its data and settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data_tools.common.cli import settings_from
from data_tools.common.errors import UserError
from data_tools.common.files import read_json, refuse_url
from data_tools.common.parquet import read_parquet
from data_tools.common.tensors import read_tensors
from downstream.ams.joining import ServedImages
from downstream.data.arrays import VOCABULARY
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.images.features import TunedTable
from downstream.images.joined import ItemImages, check_space, search_histories
from downstream.images.reading import join, read_features
from downstream.models.base import CTRModel
from downstream.models.build import build_model
from downstream.training.run import RunSettings
from downstream.training.warm_up import kept_vocabulary


def run_settings(folder: str | Path) -> RunSettings:
    """The settings that a run was made with.

    Raises
    ------
    UserError
        If the folder is not a run of ``downstream.train``.
    """
    refuse_url(folder, "a run")
    path = Path(folder) / "summary.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no run of downstream.train (no summary.json); name the folder of one")
    summary: dict[str, Any] = read_json(path)
    if "dataset" not in summary.get("settings", {}):
        raise UserError(f"{path} is not the summary of a run of downstream.train; name the folder of one")
    try:
        return settings_from(RunSettings, summary["settings"], "settings")
    except UserError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} was made by another version ({reason}): train again with python -m downstream.train"
        ) from None


def check_dataset(folder: str | Path, data: CTRData, settings: RunSettings) -> None:
    """Raise a UserError unless the data, and the codes of their ids, are those that a run was trained on."""
    made_of, found = read_json(Path(folder) / "summary.json")["dataset_fingerprint"], data.dataset.info["fingerprint"]
    if made_of != found:
        raise UserError(f"{folder} was trained on the dataset {made_of}, but {settings.dataset} is now {found}")
    kept = (Path(folder) / VOCABULARY).exists()
    if kept and not kept_vocabulary(Path(folder)).equals(read_parquet(data.vocabulary)):
        raise UserError(
            f"{folder} was trained with other codes of users and items than this version makes of {settings.dataset}; "
            "train it again with python -m downstream.train"
        )


def run_images(folder: str | Path, data: CTRData, settings: RunSettings) -> ItemImages | ServedImages | None:
    """The images that a run was trained with, joined to its data; None for IDs only.

    Raises
    ------
    UserError
        If the table is missing, or another one is in its place.
    """
    if not settings.table:
        return None
    table = read_features(settings.table)
    check_space(table.info, read_json(Path(folder) / "summary.json").get("table") or {}, settings.table)
    return join(table, data, settings.server)


def restore(
    folder: str | Path, data: CTRData, images: ItemImages | ServedImages | None, settings: RunSettings
) -> CTRModel:
    """A run's model with its trained weights, in evaluation mode.

    Parameters
    ----------
    folder : path
        The run.
    data, images
        What the run was trained on; either may have further items behind its own. In a tuned table these keep the
        vectors that they come with.
    settings : RunSettings
        Of the run.

    Raises
    ------
    UserError
        If the weights do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # which cluster codes the form "cluster_id" computes depends on it
        # The L2 has no effect on scores, and its counts would cost a pass over the training split.
        model = build_model(data, images, replace(settings.model, l2=0.0), settings.image)
    weights, own = read_tensors(Path(folder) / "model.safetensors"), model.state_dict()
    if wrong := sorted(weights.keys() ^ own.keys()):
        raise UserError(f"{folder} has the weights of a different model: one of the two lacks {wrong[:4]}")
    tuned = {f"{prefix}.weight" for prefix, part in model.named_modules() if isinstance(part, TunedTable)}
    for name, weight in weights.items():
        grown = name in tuned and weight.shape[1:] == own[name].shape[1:] and len(weight) < len(own[name])
        if weight.shape != own[name].shape and not grown:
            sizes = f"{name} is {tuple(weight.shape)} there and {tuple(own[name].shape)} here"
            raise UserError(f"{folder} was trained with a table or codes of other sizes: {sizes}")
        (own[name][: len(weight)] if grown else own[name]).copy_(weight)
    return model.eval()


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
        If the run, its dataset or its table is missing, or one of the latter has changed since.
    """
    settings = run_settings(folder)
    data = data or load_ctr_data(settings.dataset, settings.data)
    check_dataset(folder, data, settings)
    images = run_images(folder, data, settings)
    return restore(folder, data, images, settings), search_histories(data, images), settings
