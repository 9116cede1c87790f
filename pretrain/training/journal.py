"""What a run says and records: log lines with chance lines and collapse figures, validation, the summary at the end."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from data_tools.common.files import read_json, read_json_lines, whole_file, write_json
from data_tools.common.provenance import peak_memory
from data_tools.sharding.files import read_index
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.evaluation.collapse import (
    CollapsedError,
    CollapseWatch,
    alignment,
    collapse_figures,
    effective_rank,
    unhealthy,
)
from pretrain.evaluation.page_auc import Requests, embed, encoder_page_auc, judged, load_requests, oracle_page_auc
from pretrain.objectives.parts.losses import Term
from pretrain.runtime.distributed import total
from pretrain.settings import Settings
from pretrain.training import runs

console = Console(highlight=False, soft_wrap=True)


def requests_of(settings: Settings, split: str) -> Requests:
    """The requests of a split that are scored."""
    evaluation = settings.evaluation
    return load_requests(
        settings.data, split, settings.encoder.image_size, evaluation.history, evaluation.requests, settings.seed
    )


class Best:
    """The best weights so far, by the within-page AUC on the validation time range."""

    def __init__(self, run: Path, slice_name: str) -> None:
        self.run, self.slice_name = run, slice_name
        self.found = read_json(run / "best.json") if (run / "best.json").exists() else {"auc": -math.inf, "step": -1}

    def offer(self, encoder: ImageEncoder, step: int, figures: dict[str, dict[str, float]]) -> None:
        """Keep the encoder if it beats the best; the other slice stands in where the wanted one has no page views.

        Without any page view to judge by, the latest weights are kept.
        """
        auc = judged(figures, self.slice_name, otherwise=float(step))
        if auc > self.found["auc"]:
            self.found = {"auc": auc, "step": step}
            runs.save_tensors(self.run / "best.safetensors", encoder.state_dict())
            write_json(self.run / "best.json", self.found)


class Journal:
    """Keeps a run's record; every process holds one, and the first alone writes and speaks."""

    def __init__(self, settings: Settings, accelerator: Accelerator, step: int) -> None:
        self.settings = settings
        self.run, self.accelerator, self.main = Path(settings.out), accelerator, accelerator.is_main_process
        self.window: dict[str, list[Tensor]] = defaultdict(list)
        self.images, self.waited, self.started = 0, 0.0, time.time()
        self.watch = CollapseWatch(settings)
        if self.main:
            runs.trim_log(self.run, step or -1)  # a run that starts anew writes its step 0 again
            self.validation = requests_of(settings, "valid")
            self.best = Best(self.run, settings.evaluation.choose_on)

    def add(self, terms: dict[str, Term], batch: dict[str, Tensor], waited: float) -> None:
        """Take note of one step; ``waited`` is the time spent waiting for its data, in seconds."""
        for name, term in terms.items():
            self.window[name].append(term.loss.detach())
            self.window[f"{name}_chance"].append(term.chance)
        self.images += len(batch["images"])
        self.waited += waited

    def line(self, step: int, lr: float, embeddings: Tensor, batch: dict[str, Tensor], progress: Progress) -> None:
        """Write a log line: losses since the last one, and collapse figures of this step's pictures.

        Both are means over the processes, so that every process comes to the same verdict on a collapse.

        Raises
        ------
        CollapsedError
            If the watch finds that the encoder has collapsed; the run folder then says so, too.
        """
        shape = collapse_figures(embeddings)
        if "history" in batch:
            shape["alignment"] = alignment(embeddings, batch["history"])
        means = {name: torch.stack(values).mean() for name, values in self.window.items()}
        names = [name for name in means if not name.endswith("_chance")]
        means |= {name: torch.tensor(value, device=embeddings.device) for name, value in shape.items()}
        size = self.accelerator.num_processes
        figures = {name: float(total(value)) / size for name, value in means.items()}
        figures["loss"] = sum(figures[name] for name in names)
        figures["chance"] = sum(figures[f"{name}_chance"] for name in names)
        figures |= {"lr": lr, "images_per_second": size * self.images / (time.time() - self.started)}
        figures["seconds_waiting_for_data"] = self.waited
        self.window.clear()
        if self.main:
            losses = ", ".join(f"{name} {figures[name]:.3f}/{figures[f'{name}_chance']:.3f}" for name in names)
            progress.console.print(
                f"step {step:5d}  loss {figures['loss']:.3f} (chance {figures['chance']:.3f}: {losses})  "
                f"rank {figures['effective_rank']:.1f}  spread {figures['spread']:.2f}  "
                f"cosine {figures['mean_cosine']:.2f}  lr {lr:.1e}  {figures['images_per_second']:.0f} images/s"
            )
            if beyond := unhealthy(figures):
                said = ", ".join(f"{name.replace('_', ' ')} {words}" for name, words in beyond.items())
                progress.console.print(f"step {step:5d}  beyond the healthy range: {said}")
            self._record(step, figures)
        try:
            self.watch.look(figures)
        except CollapsedError as error:
            if self.main:
                write_json(self.run / runs.STOPPED, {"step": step, "reason": str(error)})
            raise

    def validate(self, step: int, encoder: ImageEncoder) -> None:
        """Within-page AUC on the validation time range: recorded, and the best weights kept."""
        figures = encoder_page_auc(encoder, self.validation)
        self.best.offer(encoder, step, figures)
        self._record(step, {f"valid_page_auc_{name}": slot["auc"] for name, slot in figures.items()})
        said = ", ".join(
            f"{name} items {slot['auc']:.4f} ({slot['pages']} page views)" for name, slot in figures.items()
        )
        console.print(f"step {step:5d}  within-page AUC, validation: {said}")

    def stale(self, step: int) -> bool:
        """Whether the last ``evaluation.patience`` validations were no better than the best; all processes agree."""
        wanted = self.settings.evaluation
        found = self.main and wanted.patience and step - self.best.found["step"] >= wanted.patience * wanted.every
        return bool(broadcast_object_list([found])[0])

    def _record(self, step: int, figures: dict[str, float]) -> None:
        runs.append_log(self.run, {"step": step, **figures})
        self.accelerator.log(figures, step=step)


def say_start(settings: Settings, accelerator: Accelerator, encoder: ImageEncoder, precision: str, step: int) -> None:
    """One line on what is trained and how, and a warning where batch norm depends on how a batch is split."""
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    named = settings.encoder
    console.print(
        f"{settings.objective.name}: {named.name} ({parameters / 1e6:.2f} M parameters) from "
        f"{named.weights or named.pretrained or 'random weights'} at {named.image_size} px, "
        f"{accelerator.num_processes} process(es) on {accelerator.device}, {precision}, "
        f"{settings.batch.rows} rows a step, steps {step} to {settings.optim.steps}, run folder {settings.out}"
    )
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    split = accelerator.num_processes > 1 or settings.optim.micro_batch
    if split and any(module.training for module in norms):
        console.print(
            "note: this encoder's batch norm takes its statistics from each process's own pictures, or from each "
            "micro-batch, so results depend on how many there are; with --encoder.freeze_norm true, or an encoder with "
            "layer norm, they do not"
        )


def summarise(
    settings: Settings, encoder: ImageEncoder, best: dict[str, Any], step: int, seconds: float, precision: str
) -> dict[str, Any]:
    """Score the test time range with the best and with the initial weights; write and return ``summary.json``."""
    run = Path(settings.out)
    test = requests_of(settings, "test")
    page_auc: dict[str, dict[str, Any]] = {"seen": {}, "unseen": {}}
    for name, file in (("untrained", "initial"), ("trained", "best")):
        encoder.load_state_dict(safetensors.torch.load_file(run / f"{file}.safetensors"))
        for slice_name, figures in encoder_page_auc(encoder, test).items():
            page_auc[slice_name] |= {name: figures["auc"], f"{name}_standard_error": figures["standard_error"]}
            page_auc[slice_name]["pages"] = figures["pages"]
    for slice_name, figures in (oracle_page_auc(test) or {}).items():
        page_auc[slice_name]["oracle"] = figures["auc"]
    summary = {
        "page_auc": page_auc,
        "effective_rank": effective_rank(embed(encoder, test.images[:2048])),
        "dimensions": encoder.dimensions,
        "steps": step,
        "best_step": best["step"],
        "stopped_early": step < settings.optim.steps,
        "validation": validation_curve(run),
        "seconds": seconds,
        "peak_memory_mib": peak_memory(),
        "precision": precision,
        "objective": settings.objective.name,
        "seed": settings.seed,
    }
    write_json(run / "summary.json", summary)
    return summary


def validation_curve(run: Path) -> list[dict[str, float]]:
    """Within-page AUC on the validation time range, ``seen`` and ``unseen`` items side by side, step by step."""
    lines = read_json_lines(run / "log.jsonl")
    return [
        {"step": line["step"], **{name: line[f"valid_page_auc_{name}"] for name in ("seen", "unseen")}}
        for line in lines
        if "valid_page_auc_seen" in line
    ]


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


def say_summary(settings: Settings, summary: dict[str, Any], next_config: Path, next_out: str) -> None:
    """The table of page AUCs, where the weights are, and the next two commands."""
    run = Path(settings.out)
    table = Table(title="Within-page-view AUC of SimScore, held-out time range", title_justify="left")
    for column in ("items", "page views", "before training", "trained", "oracle"):
        table.add_column(column, justify="left" if column == "items" else "right")
    for name, words in (("seen", "seen in training"), ("unseen", "never seen in training")):
        figures = summary["page_auc"][name]
        cells = [f"{figures[key]:.4f}" if key in figures else "unknown" for key in ("untrained", "trained", "oracle")]
        cells[1] += f" ± {figures['trained_standard_error']:.4f}"
        table.add_row(words, f"{figures['pages']:,}", *cells)
    console.print(table)
    early = summary["stopped_early"]
    lines = [
        f"{summary['steps']} steps in {summary['seconds']:.0f} s"
        + (f", stopped early after {settings.evaluation.patience} validations without a better one" * early)
        + f"; best on validation at step {summary['best_step']}; "
        f"effective rank {summary['effective_rank']:.1f} of {summary['dimensions']}",
        f"checkpoint: {runs.checkpoints(run)[-1]}, best weights: {run / 'best.safetensors'}",
        f"the run as a page: python -m pretrain.run_page --run {run}",
        "next, export and compare:",
        f"  accelerate launch pretrain/export.py --run {run} --data {settings.data} --out {run / 'tables' / 'trained'}",
        f"  python -m downstream.compare --config {next_config} --out {next_out}",
    ]
    console.print("\n".join(lines))
