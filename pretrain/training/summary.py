"""The summary of a finished run: the test time range, scored with the best and with the initial weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from data_tools.common.files import write_json
from data_tools.common.system import peak_memory
from data_tools.common.tensors import read_tensors
from data_tools.measures.effective_rank import effective_rank
from data_tools.sharding.files import read_index
from pretrain.evaluation.page_auc import SLICES, embed, encoder_page_auc, oracle_page_auc, requests_of
from pretrain.settings import Settings
from pretrain.training.journal import console
from pretrain.training.runs import read_log

# What the shards' index says of near-duplicates; the last are warm, not cold, below.
NEAR = ("items", "pictures", "seen_by_near_duplicate")


def summarise(settings: Settings, encoder: torch.nn.Module, **about: Any) -> dict[str, Any]:
    """Score the test time range; write and return ``summary.json``.

    Parameters
    ----------
    settings : Settings
    encoder : nn.Module
        Any weights: those of the run's files replace them.
    **about
        What else the summary says of the training, such as its steps and seconds.

    Returns
    -------
    dict
        ``page_auc`` by slice ("warm", "cold"): trained, untrained, trained_standard_error, pages and, where known,
        oracle; ``effective_rank``, ``dimensions``, ``validation`` (page AUC by step) and what ``about`` holds; of
        shards that know near-duplicates, how many there are (``near_duplicates``).
    """
    run = Path(settings.out)
    test = requests_of(settings, "test")
    page_auc: dict[str, dict[str, Any]] = {name: {} for name in SLICES}
    for name, file in (("untrained", "initial"), ("trained", "best")):
        encoder.load_state_dict(read_tensors(run / f"{file}.safetensors"))
        for slice_name, figures in encoder_page_auc(encoder, test).items():
            page_auc[slice_name] |= {name: figures["auc"], f"{name}_standard_error": figures["standard_error"]}
            page_auc[slice_name]["pages"] = figures["pages"]
    for slice_name, figures in (oracle_page_auc(test) or {}).items():
        page_auc[slice_name]["oracle"] = figures["auc"]
    near = read_index(settings.data).get("near_duplicates")
    summary = {
        "page_auc": page_auc,
        "effective_rank": effective_rank(embed(encoder, test.images[:2048])),
        "dimensions": encoder.dimensions,
        **about,
        **({"near_duplicates": {name: near[name] for name in NEAR}} if near else {}),
        "validation": validation_curve(run),
        "peak_memory_mib": peak_memory(),
        "objective": settings.objective.name,
        "seed": settings.seed,
    }
    write_json(run / "summary.json", summary)
    return summary


def validation_curve(run: Path) -> list[dict[str, float]]:
    """Within-page AUC on the validation time range, warm and cold items side by side, step by step."""
    return [
        {"step": line["step"], **{name: line[f"valid_page_auc_{name}"] for name in SLICES}}
        for line in read_log(run)
        if "valid_page_auc_warm" in line
    ]


def print_summary(settings: Settings, summary: dict[str, Any]) -> None:
    """The table of page AUCs, and what the training took."""
    table = Table(title="Within-page-view AUC of SimScore, held-out time range", title_justify="left")
    for column in ("items", "page views", "before training", "trained", "oracle"):
        table.add_column(column, justify="left" if column == "items" else "right")
    for name, words in SLICES.items():
        figures = summary["page_auc"][name]
        if not figures["pages"]:
            table.add_row(f"{name}: {words}", "0", "none", "none", "none")
            continue
        cells = [f"{figures[key]:.4f}" if key in figures else "unknown" for key in ("untrained", "trained", "oracle")]
        cells[1] += f" ± {figures['trained_standard_error']:.4f}"
        table.add_row(f"{name}: {words}", f"{figures['pages']:,}", *cells)
    console.print(table)
    if near := summary.get("near_duplicates"):
        console.print(f"{near['seen_by_near_duplicate']:,} items count as warm for a near-duplicate in training")
    early = f", stopped early after {settings.evaluation.patience} validations without improvement"
    console.print(
        f"{summary['steps']} steps in {summary['seconds']:.0f} s{early * summary['stopped_early']}; best on validation "
        f"at step {summary['best_step']}; effective rank {summary['effective_rank']:.1f} of {summary['dimensions']}"
    )
