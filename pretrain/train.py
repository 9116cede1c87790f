"""Pre-train an image encoder from click behaviour.

accelerate launch pretrain/train.py                                     # the simulated world, about five minutes
accelerate launch pretrain/train.py --data SHARDS --out runs/my-run     # your own shards
accelerate launch pretrain/train.py --optim.steps 60 --resume           # any setting as --section.key value
accelerate launch --multi_gpu --num_processes 2 pretrain/train.py ...   # several processes, on GPUs or on CPUs
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from data_tools.cli import UserError, parse_settings, run_command
from data_tools.files import read_json, write_json
from data_tools.world import World, make_world
from pretrain import runs
from pretrain.batches import loader, mixed_seed, read_index
from pretrain.collapse import CollapsedError, CollapseWatch, alignment, collapse_figures, effective_rank
from pretrain.distributed import total
from pretrain.encoder import ImageEncoder, build_encoder
from pretrain.evaluate import Requests, embed, encoder_page_auc, load_requests, oracle_page_auc
from pretrain.losses import Term
from pretrain.objectives import OBJECTIVES
from pretrain.settings import Settings

WORLD = Path("runs/world")
console = Console()


def schedule(step: int, settings: Settings) -> float:
    """Learning rate of step 0, 1, ...: linear warm-up, then cosine to zero."""
    optim = settings.optim
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    done = (step - optim.warmup) / max(1, optim.steps - optim.warmup)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * done))


def build_optimizer(encoder: ImageEncoder, settings: Settings) -> torch.optim.AdamW:
    """AdamW; vectors (norms and biases) have no weight decay."""
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.optim.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.optim.lr)


def use_all_cores() -> None:
    """On a CPU, share the cores among the machine's processes: accelerate's launcher leaves one thread to each."""
    if not torch.cuda.is_available() and hasattr(os, "sched_getaffinity"):
        local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))


def choose_precision(settings: Settings, encoder: ImageEncoder) -> str:
    """accelerate's name of the precision; "auto" times one step of the bare encoder in fp32 and in bf16."""
    wanted = settings.optim.precision
    if wanted == "auto" and torch.cuda.is_available():
        wanted = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if wanted == "auto":
        images = torch.zeros(64, 3, settings.encoder.image_size, settings.encoder.image_size, dtype=torch.uint8)
        seconds = {False: math.inf, True: math.inf}
        for half in (False, True) * 3:
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = encoder(images).float().square().mean()
            loss.backward()
            seconds[half] = min(seconds[half], time.perf_counter() - started)
        encoder.zero_grad()
        wanted = "bf16" if seconds[True] < seconds[False] else "fp32"
    return {"fp32": "no"}.get(wanted, wanted)


def step_losses(model: torch.nn.Module, batch: dict[str, Tensor], settings: Settings) -> tuple[dict[str, Term], Tensor]:
    """Encode the batch's distinct pictures once and compute the objective's terms from them.

    Returns
    -------
    terms : by name; the objective is the sum of their losses
    embeddings : float tensor (N, D)
    """
    embeddings = model(batch["images"]).float()
    with torch.autocast(embeddings.device.type, enabled=False):
        return OBJECTIVES[settings.objective.name].terms(embeddings, batch, settings.objective), embeddings


class Best:
    """The best weights so far, by the within-page AUC on the validation time range."""

    def __init__(self, run: Path, slice_name: str) -> None:
        self.run, self.slice_name = run, slice_name
        self.found = read_json(run / "best.json") if (run / "best.json").exists() else {"auc": -math.inf, "step": -1}

    def offer(self, encoder: ImageEncoder, step: int, figures: dict[str, dict[str, float]]) -> None:
        """Keep the encoder if it beats the best; the other slice stands in where the wanted one has no pages."""
        auc = figures[self.slice_name]["auc"]
        if math.isnan(auc):
            auc = max((slot["auc"] for slot in figures.values() if not math.isnan(slot["auc"])), default=float(step))
        if auc > self.found["auc"]:
            self.found = {"auc": auc, "step": step}
            runs.save_tensors(self.run / "best.safetensors", encoder.state_dict())
            write_json(self.run / "best.json", self.found)


def open_run(settings: Settings, state: PartialState) -> Path | None:
    """Make the run folder, or find the checkpoint to resume from.

    Raises
    ------
    UserError
        If the folder holds another run and ``resume`` is off, or was made with settings that cannot go on.
    """
    run = Path(settings.out)
    made = (run / "run.json").exists()
    found = runs.checkpoints(run)
    state.wait_for_everyone()
    if made and not settings.resume:
        raise UserError(f"{run} holds a run already; go on with --resume, or name another folder with --out")
    if made:
        before = read_json(run / "run.json")["settings"]
        for section in ("encoder", "objective", "batch", "seed"):
            now = asdict(settings)[section]
            if before[section] != now:
                raise UserError(f"{run} was trained with {section} {before[section]}, not {now}; resume with the same")
    state.wait_for_everyone()
    return found[-1] if found else None


def train(settings: Settings) -> dict[str, Any]:
    """Train as the settings say and return what ``summary.json`` holds."""
    # Set-up: data, run folder, encoder
    started = time.time()
    use_all_cores()
    state = PartialState(cpu=not torch.cuda.is_available())
    settings = replace(settings, data=settings.data or str(default_world(settings.world, state)))
    if settings.objective.name not in OBJECTIVES:
        raise UserError(f"--objective.name {settings.objective.name!r} is none of {', '.join(OBJECTIVES)}")
    read_index(settings.data)
    run = Path(settings.out)
    checkpoint = open_run(settings, state)
    torch.manual_seed(settings.seed)
    encoder = build_encoder(settings.encoder)
    optimizer = build_optimizer(encoder, settings)
    resumed = runs.load_checkpoint(checkpoint, encoder, optimizer) if checkpoint else {"step": 0, "seconds": 0.0}
    precision = broadcast_object_list([resumed.get("precision") or choose_precision(settings, encoder)])[0]
    accelerator = Accelerator(mixed_precision=precision, log_with="tensorboard", project_dir=run)
    main = accelerator.is_main_process
    if main and not checkpoint:
        write_json(run / "run.json", {"settings": asdict(settings), **runs.provenance()})
        runs.save_tensors(run / "initial.safetensors", encoder.state_dict())
        (run / "best.json").unlink(missing_ok=True)
    accelerator.init_trackers("tensorboard")
    model, optimizer = accelerator.prepare(encoder, optimizer)
    warn_of_local_statistics(encoder, accelerator)

    # Data: the loader is not prepared by accelerate, since each process reads its own shards
    step = resumed["step"]
    kind = OBJECTIVES[settings.objective.name].batches
    batches = loader(
        settings.data, kind, settings.batch, settings.encoder.image_size, settings.seed,
        accelerator.process_index, accelerator.num_processes, start=step,
    )  # fmt: skip
    validation = requests_of(settings, "valid") if main else None
    best = Best(run, settings.evaluation.choose_on) if main else None
    if main:
        runs.trim_log(run, step)
        say_start(settings, accelerator, encoder, precision, step)
        if step == 0:
            validate(encoder, validation, best, run, 0, accelerator)

    # Loop
    watch = CollapseWatch()
    earlier_seconds, loop_started = resumed["seconds"], time.time()
    images, waited, asked = 0, 0.0, time.time()
    with progress_bar(main) as progress:
        bar = progress.add_task("training", total=settings.optim.steps, completed=step)
        model.train()
        for batch in islice(batches, settings.optim.steps - step):
            batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            waited += time.time() - asked
            torch.manual_seed(mixed_seed(settings.seed, 1 + accelerator.process_index, step))
            for group in optimizer.param_groups:
                group["lr"] = schedule(step, settings)
            terms, embeddings = step_losses(model, batch, settings)
            loss = sum(term.loss for term in terms.values())
            if not torch.isfinite(total(loss)):
                raise UserError(stop_at_nan(run, batch, terms, step))
            accelerator.backward(loss)
            if settings.optim.clip:
                accelerator.clip_grad_norm_(model.parameters(), settings.optim.clip)
            optimizer.step()
            optimizer.zero_grad()
            step, images = step + 1, images + len(batch["images"])
            last = step == settings.optim.steps
            if step % settings.log_every == 0 or last:
                figures = log_figures(terms, embeddings, batch, accelerator)
                speed = {"images_per_second": images / (time.time() - loop_started), "seconds_waiting_for_data": waited}
                if main:
                    log(
                        run,
                        step,
                        {**figures, "lr": schedule(step - 1, settings), **speed},
                        terms,
                        accelerator,
                        progress,
                    )
                watch.look(figures)
            if main and (step % settings.evaluation.every == 0 or last):
                validate(encoder, validation, best, run, step, accelerator, progress)
            if main and (step % settings.checkpoint_every == 0 or last):
                seconds = earlier_seconds + time.time() - loop_started
                runs.save_checkpoint(run, step, encoder, optimizer, {"seconds": seconds, "precision": precision})
            progress.update(bar, completed=step)
            asked = time.time()
    accelerator.wait_for_everyone()

    # The end: test time range, once, with the weights chosen on validation
    summary: dict[str, Any] = {}
    if main:
        seconds = earlier_seconds + time.time() - loop_started
        summary = summarise(settings, run, encoder, best.found, step, seconds, time.time() - started)
    accelerator.end_training()
    return summary


def default_world(world: World, state: PartialState) -> Path:
    """Shards of the simulated world, made once by the first process and cached below ``runs/``."""
    folder = WORLD
    if world != World():
        import hashlib

        folder = Path(f"{WORLD}-{hashlib.blake2b(repr(world).encode(), digest_size=4).hexdigest()}")
    with state.main_process_first():
        make_world(world, folder)
    return folder / "shards"


def requests_of(settings: Settings, split: str) -> Requests:
    """The requests of a split that are scored."""
    evaluation = settings.evaluation
    return load_requests(
        settings.data, split, settings.encoder.image_size, evaluation.history, evaluation.requests, settings.seed
    )


def progress_bar(main: bool) -> Progress:
    """Progress with elapsed and remaining time, on the first process only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console, disable=not main)


def say_start(settings: Settings, accelerator: Accelerator, encoder: ImageEncoder, precision: str, step: int) -> None:
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    named = settings.encoder
    console.print(
        f"{settings.objective.name}: {named.name} ({parameters / 1e6:.2f} M parameters) from "
        f"{named.weights or named.pretrained or 'random weights'} at {named.image_size} px, "
        f"{accelerator.num_processes} process(es) on {accelerator.device}, {precision.replace('no', 'fp32')}, "
        f"{settings.batch.rows} rows a step, steps {step} to {settings.optim.steps}, run folder {settings.out}",
        highlight=False,
    )


def warn_of_local_statistics(encoder: ImageEncoder, accelerator: Accelerator) -> None:
    """Batch norm sees only its own process's pictures: say so once, where it matters."""
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    if accelerator.num_processes > 1 and accelerator.is_main_process and any(module.training for module in norms):
        console.print(
            "note: this encoder's batch norm takes its statistics from each process's own pictures, so results depend "
            "on the number of processes; --encoder.freeze_norm true, or an encoder with layer norm, does not"
        )


def log_figures(
    terms: dict[str, Term], embeddings: Tensor, batch: dict[str, Tensor], accelerator: Accelerator
) -> dict[str, float]:
    """Losses (mean over processes) with their chance lines, and the collapse figures of the process's pictures."""
    size = accelerator.num_processes
    named = {name: float(total(term.loss)) / size for name, term in terms.items()}
    chance = {f"{name}_chance": float(total(term.chance)) / size for name, term in terms.items()}
    figures = {"loss": sum(named.values()), "chance": sum(chance.values()), **named, **chance}
    shape = collapse_figures(embeddings)
    if "history" in batch:
        shape["alignment"] = alignment(embeddings, batch["history"])
    # Every process must come to the same verdict on a collapse, or those that go on would wait for ever.
    device = embeddings.device
    return figures | {name: float(total(torch.tensor(value, device=device))) / size for name, value in shape.items()}


def log(
    run: Path,
    step: int,
    figures: dict[str, float],
    terms: dict[str, Term],
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    losses = ", ".join(f"{name} {figures[name]:.3f}/{figures[f'{name}_chance']:.3f}" for name in terms)
    progress.console.print(
        f"step {step:5d}  loss {figures['loss']:.3f} (chance {figures['chance']:.3f}: {losses})  "
        f"rank {figures['effective_rank']:.1f}  spread {figures['spread']:.2f}  cosine {figures['mean_cosine']:.2f}  "
        f"lr {figures['lr']:.1e}  {figures['images_per_second']:.0f} images/s",
        highlight=False,
        soft_wrap=True,
    )
    runs.append_log(run, {"step": step, **figures})
    accelerator.log(figures, step=step)


def validate(
    encoder: ImageEncoder,
    validation: Requests,
    best: Best,
    run: Path,
    step: int,
    accelerator: Accelerator,
    progress: Progress | None = None,
) -> None:
    """Within-page AUC on the validation time range: logged, and the best weights kept."""
    figures = encoder_page_auc(encoder, validation)
    best.offer(encoder, step, figures)
    flat = {f"valid_page_auc_{name}": slot["auc"] for name, slot in figures.items()}
    runs.append_log(run, {"step": step, **flat})
    accelerator.log(flat, step=step)
    said = ", ".join(f"{name} items {slot['auc']:.4f} ({slot['pages']} page views)" for name, slot in figures.items())
    (progress.console if progress else console).print(
        f"step {step:5d}  within-page AUC, validation: {said}", highlight=False
    )


def stop_at_nan(run: Path, batch: dict[str, Tensor], terms: dict[str, Term], step: int) -> str:
    """Save the batch's items and say what happened."""
    path = run / f"not-finite-step-{step}.json"
    values = {name: float(term.loss) for name, term in terms.items()}
    write_json(path, {"step": step, "losses": values, "items": batch["image_item"].tolist()})
    return (
        f"the loss is not finite at step {step}: {values}. The batch's items are in {path}. Lower optim.lr, or use fp32"
    )


def summarise(
    settings: Settings, run: Path, encoder: ImageEncoder, best: dict[str, Any], step: int, trained: float, whole: float
) -> dict[str, Any]:
    """Score the test time range with the best and with the initial weights, write ``summary.json`` and say it."""
    test = requests_of(settings, "test")
    known = oracle_page_auc(test)
    page_auc: dict[str, dict[str, Any]] = {"seen": {}, "unseen": {}}
    for name, file in (("trained", "best"), ("untrained", "initial")):
        encoder.load_state_dict(safetensors.torch.load_file(run / f"{file}.safetensors"))
        for slice_name, figures in encoder_page_auc(encoder, test).items():
            page_auc[slice_name] |= {name: figures["auc"], f"{name}_standard_error": figures["standard_error"]}
            page_auc[slice_name]["pages"] = figures["pages"]
            if known:
                page_auc[slice_name]["oracle"] = known[slice_name]["auc"]
        if name == "trained":
            rank = effective_rank(embed(encoder, test.images[:2048]))
    summary = {
        "page_auc": page_auc,
        "effective_rank": rank,
        "steps": step,
        "best_step": best["step"],
        "seconds": trained,
        "seconds_in_all": whole,
        "objective": settings.objective.name,
        "seed": settings.seed,
    }
    write_json(run / "summary.json", summary)
    say_summary(settings, run, summary)
    return summary


def say_summary(settings: Settings, run: Path, summary: dict[str, Any]) -> None:
    table = Table(title="Within-page-view AUC of SimScore, held-out time range", title_justify="left")
    for column in ("items", "page views", "before training", "trained", "oracle"):
        table.add_column(column, justify="left" if column == "items" else "right")
    for name, words in (("seen", "seen in training"), ("unseen", "never seen in training")):
        figures = summary["page_auc"][name]
        cells = [f"{figures[key]:.4f}" if key in figures else "unknown" for key in ("untrained", "trained", "oracle")]
        cells[1] += f" ± {figures['trained_standard_error']:.4f}"
        table.add_row(words, f"{figures['pages']:,}", *cells)
    console.print(table)
    console.print(
        f"{summary['steps']} steps in {summary['seconds']:.0f} s; best on validation at step {summary['best_step']}; "
        f"effective rank {summary['effective_rank']:.1f} of {settings.encoder.dimensions}",
        highlight=False,
    )
    config = "configs/compare/world.yaml" if settings == replace(Settings(), data=settings.data) else "YOUR.yaml"
    say = [
        f"checkpoint: {runs.checkpoints(run)[-1]} (best weights: {run / 'best.safetensors'})",
        "next, export and compare:",
        f"  accelerate launch pretrain/export.py --run {run} --data {settings.data} --out {run / 'tables' / 'trained'}",
        f"  python -m downstream.compare --config {config} --out results/{run.name}",
    ]
    console.print("\n".join(say), highlight=False, soft_wrap=True)


def main() -> None:
    try:
        train(parse_settings(Settings, __doc__))
    except CollapsedError as error:
        raise UserError(str(error)) from None


if __name__ == "__main__":
    run_command(main)
