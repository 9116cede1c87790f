"""A run as one HTML page: loss against chance, collapse curves, validation, neighbours, and what attention looked at.

python -m pretrain.run_page --run runs/my-run        # writes runs/my-run/run.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from data_tools.common.charts import BETTER, INK, MUTED, STYLE, WORSE, inline_svg
from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import read_json, read_json_lines, whole_file
from data_tools.common.pages import jpeg_uri, render
from pretrain.encoder.image_encoder import build_encoder
from pretrain.evaluation.collapse import HEALTHY
from pretrain.evaluation.page_auc import Requests, embed, load_requests
from pretrain.objectives.parts.reconstruction import reconstruct
from pretrain.settings import Encoder, Evaluation
from pretrain.training import runs

DASHES = ((0, ()), (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
FIGURES = {
    "effective_rank": "Effective rank",
    "spread": "Spread",
    "mean_cosine": "Mean cosine of pairs",
    "uniformity": "Uniformity",
    "alignment": "Alignment of consecutive clicks",
    "dead_share": "Share of dead dimensions",
}


@dataclass
class Settings:
    """Write a run's page.

    Attributes:
        run: Finished or running pre-training run.
        data: Shards; null takes those the run was trained on.
        examples: Rows of neighbours, and of attention.
        seed: Of the sample of pictures and histories.
    """

    run: str
    data: str | None = None
    examples: int = 6
    seed: int = 0


def curves(
    lines: dict[str, tuple[list[float], list[float]]], described: str, limits: tuple[float, ...] = (), mark: float = -1
) -> str:
    """Lines over steps, told apart by dashes as well, as an ``<svg>`` element.

    Parameters
    ----------
    lines : name -> steps, values
    limits : heights of thin lines, such as the ends of a healthy range
    mark : step of a vertical line; below 0 for none
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.2, 2.2))
        for (name, (steps, values)), dashes in zip(lines.items(), DASHES * 3, strict=False):
            colour = BETTER if dashes == DASHES[0] else INK
            axes.plot(steps, values, color=colour, linestyle=dashes, linewidth=1.6, label=name)
        if len(lines) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(lines), frameon=False, borderpad=0)
        for limit in limits:
            axes.axhline(limit, color=WORSE, linewidth=1, linestyle=(0, (1, 2)))
        if mark >= 0:
            axes.axvline(mark, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlabel("step")
        axes.locator_params(nbins=4)
        axes.spines[["right", "top"]].set_visible(False)
        figure.tight_layout(pad=0.4)
        return inline_svg(figure, described)


def as_image(picture: Tensor) -> str:
    """A picture, uint8 (3, S, S), as the address of an inline image."""
    return jpeg_uri(to_pil_image(picture))


def loss_charts(log: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(name, chart) of the whole loss and of each term, against its chance."""
    logged = [line for line in log if "loss" in line]
    names = [name for name in (logged[-1] if logged else {}) if name.endswith("_loss")]
    charts = []
    for name, chance in (("loss", "chance"), *((name, f"{name}_chance") for name in names)):
        if len(names) == 1 and name != "loss":
            continue  # the only term is the loss
        steps = [line["step"] for line in logged]
        lines = {
            "trained": (steps, [line[name] for line in logged]),
            "chance": (steps, [line[chance] for line in logged]),
        }
        charts.append((name.replace("_", " "), curves(lines, f"{name} and its chance over steps")))
    return charts


def collapse_charts(log: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(name with its healthy range, chart) of each figure of the collapse watch that was logged."""
    charts = []
    for name, words in FIGURES.items():
        found = [(line["step"], line[name]) for line in log if name in line]
        if not found:
            continue
        low, high, _ = HEALTHY[name]
        limits = [(limit, side) for limit, side in ((low, "at least"), (high, "at most")) if abs(limit) < 1e9]
        shown = [(limit, side) for limit, side in limits if limit not in (-1.0, 0.0)]
        healthy = ", ".join(f"{side} {limit:g}" for limit, side in shown)
        steps, values = zip(*found, strict=True)
        svg = curves({name: (list(steps), list(values))}, words, tuple(limit for limit, _ in shown))
        charts.append((f"{words} (healthy: {healthy})", svg))
    return charts


def neighbour_rows(units: dict[str, Tensor], images: Tensor, chosen: list[int], count: int = 6) -> list[dict[str, Any]]:
    """For each chosen picture, itself and its nearest neighbours under each embedding."""
    rows = []
    for query in chosen:
        strips = {}
        for name, unit in units.items():
            cosine = unit @ unit[query]
            cosine[query] = -2
            strips[name] = [as_image(images[place]) for place in cosine.topk(min(count, len(images) - 1)).indices]
        rows.append({"query": as_image(images[query]), "strips": strips})
    return rows


def attention_rows(
    unit: Tensor, requests: Requests, chosen: list[int], temperature: float, count: int = 10
) -> list[dict[str, Any]]:
    """For each chosen page view, a clicked target and the latest clicks with the weights they got."""
    rows = []
    for row in chosen:
        target = int(requests.page[row][requests.click[row]][0])
        history = requests.history[row][requests.history[row] >= 0]
        present = torch.ones(1, len(history), dtype=torch.bool)
        weights = reconstruct(unit[target][None, None], unit[history][None], present, temperature)[1][0, 0]
        latest = list(zip(history.tolist(), weights.tolist(), strict=True))[-count:]
        clicks = [{"image": as_image(requests.images[k]), "weight": w * len(history)} for k, w in latest]
        rows.append({"target": as_image(requests.images[target]), "clicks": clicks})
    return rows


def write_page(settings: Settings) -> Path:
    """Write ``run.html`` into the run folder and return its path.

    Raises
    ------
    UserError
        If the folder holds no run that has been validated yet.
    """
    run = Path(settings.run)
    made = read_json(run / "run.json")
    if not (run / "best.safetensors").exists():
        raise UserError(f"{run} holds no weights yet (no best.safetensors); let it train to its first validation")
    trained_with = made["settings"]
    named, evaluation = Encoder(**trained_with["encoder"]), Evaluation(**trained_with["evaluation"])
    data = settings.data or trained_with["data"]
    requests = load_requests(data, "valid", named.image_size, evaluation.history, 500, settings.seed)
    encoder = build_encoder(Encoder(**{**trained_with["encoder"], "weights": None, "pretrained": False}))
    units = {}
    for name, file in (("before training", "initial"), ("trained", "best")):
        encoder.load_state_dict(safetensors.torch.load_file(run / f"{file}.safetensors"))
        units[name] = embed(encoder, requests.images)
    generator = torch.Generator().manual_seed(settings.seed)
    pictures = torch.randperm(len(requests.images), generator=generator)[: settings.examples].tolist()
    full = ((requests.click.any(1)) & ((requests.history >= 0).sum(1) > 1)).nonzero().flatten()
    views = full[torch.randperm(len(full), generator=generator)[: settings.examples]].tolist()
    objective = trained_with["objective"]
    attends = objective["name"] == "courier" and objective.get("reconstruction", "attention") == "attention"
    log = read_json_lines(run / "log.jsonl")
    best = read_json(run / "best.json")
    validation = {
        f"{name} items": (
            [line["step"] for line in log if f"valid_page_auc_{name}" in line],
            [line[f"valid_page_auc_{name}"] for line in log if f"valid_page_auc_{name}" in line],
        )
        for name in ("unseen", "seen")
    }
    context = {
        "title": f"Run {run.name}",
        "settings": trained_with,
        "made": {name: made[name] for name in ("commit", "versions", "machine")},
        "summary": read_json(run / "summary.json") if (run / "summary.json").exists() else None,
        "stopped": read_json(run / runs.STOPPED) if (run / runs.STOPPED).exists() else None,
        "best": best,
        "validation": curves(validation, "within-page AUC of seen and unseen items over steps", mark=best["step"]),
        "losses": loss_charts(log),
        "collapse": collapse_charts(log),
        "neighbours": neighbour_rows(units, requests.images, pictures),
        "temperature": objective["attention_temperature"],
        "attention": attention_rows(units["trained"], requests, views, objective["attention_temperature"])
        if attends
        else [],
    }
    html = render("run.html.j2", context, Path(__file__).parent / "evaluation" / "templates")
    path = run / "run.html"
    with whole_file(path) as scratch:
        scratch.write_text(html, encoding="utf-8")
    return path


def main() -> None:
    Console().print(f"wrote {write_page(parse_settings(Settings, __doc__))}", highlight=False)


if __name__ == "__main__":
    run_command(main)
