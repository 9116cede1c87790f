"""What a run records while it trains: log lines with chance and collapse figures, and validations."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from rich.console import Console
from torch import Tensor

from data_tools.common.files import write_json
from data_tools.sharding.files import read_index
from pretrain.encoder.image_encoder import ImageEncoder
from pretrain.evaluation.collapse import CollapsedError, CollapseWatch, alignment, collapse_figures, unhealthy
from pretrain.evaluation.page_auc import encoder_page_auc, requests_of
from pretrain.objectives.parts.losses import Term
from pretrain.runtime.distributed import total
from pretrain.runtime.precision import precision_note
from pretrain.settings import Settings
from pretrain.training import runs
from pretrain.training.best import Best

console = Console(highlight=False, soft_wrap=True)


class Journal:
    """Keeps a run's record; every process holds one, and only the first writes and prints."""

    def __init__(self, settings: Settings, accelerator: Accelerator, step: int) -> None:
        self.settings = settings
        self.run, self.accelerator, self.main = Path(settings.out), accelerator, accelerator.is_main_process
        self.window: dict[str, list[Tensor]] = defaultdict(list)
        self.images, self.waited, self.started = 0, 0.0, time.time()
        self.watch = CollapseWatch(settings)
        if self.main:
            runs.trim_log(self.run, step or -1)  # a run that starts over writes its step 0 again
            self.validation = requests_of(settings, "valid")
            self.best = Best(self.run, settings.evaluation.choose_on)

    def add(self, terms: dict[str, Term], batch: dict[str, Tensor], waited: float) -> None:
        """Note one step; ``waited`` is the time spent waiting for its data, in seconds."""
        for name, term in terms.items():
            self.window[name].append(term.loss.detach())
            self.window[f"{name}_chance"].append(term.chance)
        self.images += len(batch["images"])
        self.waited += waited

    def log_step(self, step: int, lr: float, embeddings: Tensor, batch: dict[str, Tensor]) -> None:
        """Write a log line: losses since the last one, and collapse figures of this step's pictures.

        Both are means over the processes, so that every process comes to the same verdict on a collapse.

        Raises
        ------
        CollapsedError
            If the encoder has collapsed; the run folder then says so, too.
        """
        figures = self._figures(lr, embeddings, batch)
        if self.main:
            self._print(step, figures)
            self._record(step, figures)
        try:
            self.watch.check(figures)
        except CollapsedError as error:
            if self.main:
                write_json(self.run / runs.STOPPED, {"step": step, "reason": str(error)})
            raise

    def _figures(self, lr: float, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, float]:
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
        return figures

    @staticmethod
    def _print(step: int, figures: dict[str, float]) -> None:
        names = [name.removesuffix("_chance") for name in figures if name.endswith("_chance")]
        losses = ", ".join(f"{name} {figures[name]:.3f}/{figures[f'{name}_chance']:.3f}" for name in names)
        console.print(
            f"step {step:5d}  loss {figures['loss']:.3f} (chance {figures['chance']:.3f}: {losses})  "
            f"rank {figures['effective_rank']:.1f}  spread {figures['spread']:.2f}  "
            f"cosine {figures['mean_cosine']:.2f}  lr {figures['lr']:.1e}  {figures['images_per_second']:.0f} images/s"
        )
        if beyond := unhealthy(figures):
            listed = ", ".join(f"{name.replace('_', ' ')} {words}" for name, words in beyond.items())
            console.print(f"step {step:5d}  outside the healthy range: {listed}")

    def validate(self, step: int, encoder: ImageEncoder) -> None:
        """Within-page AUC on the validation time range: recorded, and the best weights kept."""
        figures = encoder_page_auc(encoder, self.validation)
        self.best.offer(encoder, step, figures)
        self._record(step, {f"valid_page_auc_{name}": part["auc"] for name, part in figures.items()})
        listed = ", ".join(
            f"{name} items {part['auc']:.4f} ({part['pages']} page views)" if part["pages"] else f"{name} items: none"
            for name, part in figures.items()
        )
        console.print(f"step {step:5d}  within-page AUC, validation: {listed}")

    def out_of_patience(self, step: int) -> bool:
        """Whether the last ``evaluation.patience`` validations were no better than the best; all processes agree."""
        wanted = self.settings.evaluation
        over = self.main and wanted.patience and step - self.best.choice.step >= wanted.patience * wanted.every
        return bool(broadcast_object_list([over])[0])

    def _record(self, step: int, figures: dict[str, float]) -> None:
        runs.append_log(self.run, {"step": step, **figures})
        self.accelerator.log(figures, step=step)


def print_start(
    settings: Settings, accelerator: Accelerator, encoder: ImageEncoder, *, precision: str, step: int
) -> None:
    """One line on what is trained and how, and notes on what may surprise."""
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    named = settings.encoder
    size = f" at {named.image_size} px" if encoder.family.takes == "pictures" else ""
    console.print(
        f"{settings.objective.name}: {named.name} ({parameters / 1e6:.2f} M parameters) from "
        f"{named.weights or encoder.family.hub_weights or 'random weights'}{size}, "
        f"{accelerator.num_processes} process(es) on {accelerator.device}, {precision}, "
        f"{settings.batch.rows} rows a step, steps {step} to {settings.optim.steps}, run folder {settings.out}"
    )
    if note := precision_note(precision):
        console.print(note)
    split = accelerator.num_processes > 1 or settings.optim.micro_batch
    if split and encoder.takes_batch_statistics:
        console.print(
            "note: this encoder's batch norm takes its statistics from each process's own pictures, or from each "
            "micro-batch, so results depend on how many there are; with --encoder.freeze_norm true, or an encoder with "
            "layer norm, they do not"
        )
    kept = read_index(settings.data)["history"]
    for section in ("batch", "evaluation"):
        if (wanted := getattr(settings, section).history) > kept:
            console.print(
                f"note: --{section}.history is {wanted}, but the shards keep the last {kept} clicks of a request: "
                f"{kept} are used. For more, write the shards with data_tools.shards --history {wanted}"
            )
