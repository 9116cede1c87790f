"""Run folders of ``downstream.train``, read back: a trained model with the data and the table it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from safetensors.torch import load_file

from data_tools.common.cli import UserError
from data_tools.common.files import read_json
from downstream.ams.joining import read_features
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.images.joined import join
from downstream.models import CTRModel, build_model
from downstream.train import Settings


def run_settings(folder: str | Path) -> Settings:
    """The settings that a run was made with.

    Raises
    ------
    UserError
        If the folder is no run of ``downstream.train``.
    """
    summary: dict[str, Any] = read_json(Path(folder) / "summary.json")
    if "settings" not in summary or "dataset" not in summary["settings"]:
        raise UserError(f"{folder}/summary.json is not that of a run of downstream.train")
    parser = ArgumentParser()
    parser.add_class_arguments(Settings)
    return Settings(**parser.instantiate(parser.parse_object(summary["settings"])).as_dict())


def load_run(folder: str | Path, data: CTRData | None = None) -> tuple[CTRModel, CTRData, Settings]:
    """A run's model with its trained weights, in evaluation mode; its data, read unless given; and its settings.

    Raises
    ------
    UserError
        If the run, its dataset or its table is missing, or the dataset is another than it was.
    """
    settings = run_settings(folder)
    data = data or load_ctr_data(settings.dataset, settings.data)
    made_of, found = read_json(Path(folder) / "summary.json")["dataset_fingerprint"], data.dataset.info["fingerprint"]
    if made_of != found:
        raise UserError(f"{folder} was trained on the dataset {made_of}, {settings.dataset} now holds {found}")
    form, server = settings.image.form, settings.server
    images = join(read_features(settings.table), data, form, server) if settings.table else None
    model = build_model(data, images, settings.model, settings.image)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval(), data, settings
