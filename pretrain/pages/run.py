"""A run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from data_tools.common import pages
from data_tools.common.errors import UserError
from data_tools.common.files import read_json, whole_file
from data_tools.common.plugins import in_use
from pretrain.encoder.image_encoder import build_encoder, family_of
from pretrain.evaluation.page_auc import SLICES, Requests, embed, requests_of
from pretrain.evaluation.saved_encoder import load_weights_of
from pretrain.objectives import OBJECTIVES
from pretrain.pages.charts import collapse_charts, loss_charts, validation_chart
from pretrain.pages.pictures import attention_rows, choose_pictures, neighbour_rows
from pretrain.settings import Settings
from pretrain.training import runs

REQUESTS = 500  # of the validation split that pictures are chosen from


def write_page(run: Path, data: str | None = None, examples: int = 6, seed: int = 0) -> Path:
    """Write ``run.html`` into the run folder and return its path.

    Parameters
    ----------
    run : path
        Run folder.
    data : str, optional
        Shards; by default those the run was trained on.
    examples : int
        Rows of neighbours, and of attention.
    seed : int
        Of the sample of pictures and page views.

    Raises
    ------
    UserError
        If the folder holds no run that has been validated yet.
    """
    settings, made = runs.read_settings(run), read_json(run / "run.json")
    if not (run / "best.safetensors").exists():
        raise UserError(f"{run} holds no weights yet (no best.safetensors); let it train to its first validation")
    requests = requests_of(settings, "valid", shards=data or settings.data, limit=REQUESTS, seed=seed)
    pictures, views = choose_pictures(requests, examples, seed)
    units = _embedded(run, settings, data or settings.data, requests)
    temperature = _attention_temperature(settings)
    log, best = runs.read_log(run), read_json(run / "best.json")
    context = {
        "title": f"Run {run.name}",
        "settings": settings,
        "start": settings.encoder.weights or family_of(settings.encoder).hub_weights or "random weights",
        "sections": _sections(settings),
        "made": made,
        "slices": SLICES,
        "summary": runs.read_summary(run) if (run / "summary.json").exists() else None,
        "stopped": read_json(run / runs.STOPPED) if (run / runs.STOPPED).exists() else None,
        "best": best,
        "validation": validation_chart(log, best["step"]),
        "losses": loss_charts(log),
        "collapse": collapse_charts(log),
        "neighbours": neighbour_rows(units, requests.images, pictures),
        "temperature": temperature,
        "attention": attention_rows(units["trained"], requests, views, temperature) if temperature else [],
    }
    html = pages.render("run.html.j2", context, Path(__file__).parent / "templates")
    path = run / "run.html"
    with whole_file(path) as scratch:
        scratch.write_text(html, encoding="utf-8")
    return path


def _embedded(run: Path, settings: Settings, data: str, requests: Requests) -> dict[str, Tensor]:
    """Unit embeddings (N, D) of the requests' pictures before and after training."""
    encoder = build_encoder(settings.encoder, data, initial_weights=False)
    units = {}
    for name, weights in (("before training", "initial"), ("trained", "trained")):
        load_weights_of(encoder, run, weights)
        units[name] = embed(encoder, requests.images)
    return units


def _sections(settings: Settings) -> dict[str, dict[str, Any]]:
    """Sections of the settings by name, with the options of what was chosen."""
    names = ("encoder", "batch", "optim", "evaluation")
    chosen = {"objective": in_use(settings.objective, settings.objective.parts)}
    return chosen | {name: in_use(getattr(settings, name)) for name in names}


def _attention_temperature(settings: Settings) -> float | None:
    parts = settings.objective.parts.items()
    found = [OBJECTIVES[name].attention_temperature(options) for name, options in parts]
    return next((temperature for temperature in found if temperature is not None), None)
