"""Pre-train an image encoder from click behaviour.

accelerate launch pretrain/train.py                                     # the simulated world, about two minutes
accelerate launch pretrain/train.py --data SHARDS --out runs/my-run     # your own shards
accelerate launch pretrain/train.py --optim.steps 60 --resume           # any setting as --section.key value
accelerate launch --multi_gpu --num_processes 2 pretrain/train.py ...   # several processes, on GPUs or on CPUs
python -m pretrain.train --print_config                                 # all settings as YAML (configs/pretrain/)
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.utils.data import DataLoader

from data_tools.common.cli import UserError, parse_settings, progress_bar, run_command
from data_tools.common.launch import as_launched
from data_tools.common.memory import give_back_where_scarce
from data_tools.sharding.files import read_index
from data_tools.sharding.read import open_shards
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from pretrain.data.stream import Both, loader, mixed_seed
from pretrain.encoder.image_encoder import build_encoder
from pretrain.encoder.item_dropout import picture_seeds
from pretrain.evaluation.collapse import CollapsedError
from pretrain.objectives.base import catalogue_from
from pretrain.objectives.parts.losses import Term
from pretrain.runtime.cpu import prepare_cpu
from pretrain.runtime.distributed import in_processes, total
from pretrain.runtime.precision import choose_precision
from pretrain.settings import Batch, Settings
from pretrain.training import runs
from pretrain.training.journal import Journal, console, print_start
from pretrain.training.next_steps import print_next_steps, write_compare_config
from pretrain.training.optim import build_optimizer, schedule
from pretrain.training.plan import plan_training
from pretrain.training.state import TrainingState, build_objective
from pretrain.training.step import EncoderPass, Step, one_picture_named
from pretrain.training.summary import print_summary, summarise

WORLD = Path("runs/world")
ALWAYS_ALLOWED = 1024  # rows of a step, however few the data


def train(settings: Settings) -> dict[str, Any]:
    """Train as the settings say and return what ``summary.json`` holds (on the first process; elsewhere nothing).

    With ``dry_run``, nothing is trained, and ``plan`` is returned: lines on what the run will take.
    """
    prepare_cpu()
    with as_launched():
        processes = PartialState(cpu=not torch.cuda.is_available())
    embedded = is_embedded_default(settings)
    settings = replace(settings, data=settings.data or str(default_world(settings.world, processes)))
    read_index(settings.data, digests=settings.verify and processes.is_main_process)
    if settings.dry_run:
        return {"plan": plan_training(settings, processes)}
    state = build(settings, processes)
    batches = training_batches(state)
    journal = Journal(state.settings, state.accelerator, state.step)
    loop(state, batches, journal)
    return finish(state, journal, embedded=embedded)


def is_embedded_default(settings: Settings) -> bool:
    """Whether the run is that of the simulated world as it comes, for which there is a ready comparison."""
    return settings.data is None and settings.out == Settings().out and settings.world == World()


def build(settings: Settings, processes: PartialState) -> TrainingState:
    """Run folder, encoder, objective and optimiser, new or from the newest checkpoint."""
    checkpoint = runs.open_run(settings, processes.wait_for_everyone)
    torch.manual_seed(settings.seed)
    encoder = build_encoder(settings.encoder, settings.data)
    objective = build_objective(settings, encoder)
    optimizer = build_optimizer(encoder, settings.optim, objective)
    resumed: dict[str, Any] = {"step": 0, "seconds": 0.0}
    if checkpoint:
        resumed = runs.load_checkpoint(checkpoint, encoder, optimizer, objective)
        _refuse_fewer_steps(settings, resumed["step"])
    wanted = settings.optim.precision
    precision = resumed.get("precision") or choose_precision(encoder, wanted, settings.encoder.image_size)
    precision = broadcast_object_list([precision])[0]
    with as_launched():
        accelerator = Accelerator(
            mixed_precision="no" if precision == "fp32" else precision, log_with="tensorboard", project_dir=settings.out
        )
    if accelerator.is_main_process:
        (Path(settings.out) / runs.STOPPED).unlink(missing_ok=True)
        runs.continue_run(settings) if checkpoint else runs.start_run(settings, encoder, processes.num_processes)
    accelerator.init_trackers("tensorboard")
    model, optimizer = accelerator.prepare(EncoderPass(encoder), optimizer)
    if "scaler" in resumed:
        accelerator.scaler.load_state_dict(resumed["scaler"])
    passes = Step(model, in_processes(objective.to(accelerator.device)), settings.optim.micro_batch, accelerator)
    return TrainingState(
        settings=settings,
        accelerator=accelerator,
        encoder=encoder,
        objective=objective,
        passes=passes,
        optimizer=optimizer,
        precision=precision,
        step=resumed["step"],
        seconds=resumed["seconds"],
    )


def _refuse_fewer_steps(settings: Settings, done: int) -> None:
    """Raise a UserError if a run has done more steps than it is asked for."""
    if done > settings.optim.steps:
        raise UserError(
            f"{settings.out} has done {done} steps already, more than --optim.steps {settings.optim.steps}; give at "
            f"least {done}, or name another folder with --out"
        )


def default_world(world: World, processes: PartialState) -> Path:
    """Shards of the simulated world, made once by the first process and cached below ``runs/``."""
    folder = WORLD
    if world != World():
        folder = Path(f"{WORLD}-{hashlib.blake2b(repr(world).encode(), digest_size=4).hexdigest()}")
    with processes.main_process_first():
        make_world(world, folder)
    return folder / "shards"


def training_batches(state: TrainingState) -> DataLoader | Both:
    """Endless batches of this process, from the next step on.

    accelerate does not prepare the loader: each process reads different shards.
    """
    wanted, rows = state.objective.batches, state.settings.batch
    if wanted != "both":
        return one_kind(state, wanted, rows)
    catalogue = replace(rows, rows=state.objective.catalogue or rows.rows, categories=1)
    return Both(one_kind(state, "requests", rows), one_kind(state, "items", catalogue))


def one_kind(state: TrainingState, kind: str, rows: Batch) -> DataLoader:
    """Endless batches of requests or of catalogue pictures."""
    settings, accelerator, objective = state.settings, state.accelerator, state.objective
    check_rows(settings.data, kind, rows.rows)
    return loader(
        settings.data,
        kind,
        rows,
        settings.encoder.image_size,
        settings.seed,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        start=state.step,
        views=objective.views,
        annotate=objective.annotate,
        pictures=state.encoder.family.takes == "pictures",
    )


def check_rows(data: str, kind: str, rows: int) -> None:
    """Refuse steps of many more rows than there are: each would be shown many times.

    Raises
    ------
    UserError
        If that is so.
    """
    held = sum(group[kind] for group in open_shards(data).listed("train" if kind == "requests" else kind))
    if rows > max(held, ALWAYS_ALLOWED):
        what = "requests to train on" if kind == "requests" else "items with pictures"
        raise UserError(f"--batch.rows is {rows:,}, but {data} holds {held:,} {what}; give at most as many")


def loop(state: TrainingState, batches: DataLoader | Both, journal: Journal) -> None:
    """Train to the last step, or until validation has not improved for long enough."""
    settings, accelerator, steps = state.settings, state.accelerator, state.settings.optim.steps
    main = accelerator.is_main_process
    if main:
        print_start(settings, accelerator, state.encoder, precision=state.precision, step=state.step)
        readers = f"{batches.num_workers} loader processes read and decode for each training process"
        console.print(readers if batches.num_workers else "each training process reads and decodes its pictures itself")
        if state.step == 0:
            journal.validate(0, state.encoder)
    state.started = asked = time.time()
    with progress_bar(main, console) as progress:
        bar = progress.add_task("training", total=steps, completed=state.step)
        state.passes.model.train()
        for batch in islice(batches, 0 if journal.out_of_patience(state.step) else steps - state.step):
            batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            waited = time.time() - asked
            lr = schedule(state.step, settings.optim)
            terms, embeddings = optimise(state, batch, lr)
            state.step += 1
            journal.add(terms, batch, waited)
            last = state.step == steps
            if state.step % settings.log_every == 0 or last:
                journal.log_step(state.step, lr, embeddings, batch)
            if state.step % settings.evaluation.every == 0 or last:
                if main:
                    journal.validate(state.step, state.encoder)
                last = last or journal.out_of_patience(state.step)
            if main and (state.step % settings.checkpoint_every == 0 or last):
                state.save_checkpoint()
            progress.update(bar, completed=state.step)
            if last:
                break
            asked = time.time()
    accelerator.wait_for_everyone()


def optimise(state: TrainingState, batch: dict[str, Tensor], lr: float) -> tuple[dict[str, Term], Tensor]:
    """One optimiser step on a batch; returns the terms by name, and the embeddings of its distinct pictures.

    Raises
    ------
    UserError
        If the loss is not finite; the batch's items are saved.
    """
    settings, accelerator, step = state.settings, state.accelerator, state.step
    torch.manual_seed(mixed_seed(settings.seed, 1 + accelerator.process_index, step))
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["scale"]
    seeds = batch_seeds(batch, state.objective.views, settings.seed, step)
    with one_picture_named(step, len(batch["images"])):
        terms, embeddings = state.passes.forward(batch, seeds)
    loss = sum(term.loss for term in terms.values())
    if not torch.isfinite(total(loss)):
        losses = {name: float(term.loss.detach()) for name, term in terms.items()}
        saved = runs.save_bad_batch(Path(settings.out), step, batch["image_item"], losses)
        raise UserError(
            f"the loss is not finite at step {step}: {losses}. Its batch's items are in {saved}. Lower "
            "optim.lr, or use fp32"
        )
    state.passes.backward(loss)
    if settings.optim.clip:
        parameters = [*state.passes.model.parameters(), *state.objective.parameters()]
        accelerator.clip_grad_norm_(parameters, settings.optim.clip)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.objective.after_step(state.encoder)
    give_back_where_scarce()
    return terms, embeddings


def batch_seeds(batch: dict[str, Tensor], views: int, *parts: int) -> Tensor:
    """Seeds of the pictures' dropout, long (N,): those of requests, then those of views of the catalogue."""
    requested, catalogue = batch["image_item"].tensor_split([catalogue_from(batch)])
    return torch.cat([picture_seeds(requested, 1, *parts), picture_seeds(catalogue, views, *parts)])


def finish(state: TrainingState, journal: Journal, *, embedded: bool) -> dict[str, Any]:
    """Score the test time range, once, with the weights chosen on validation, and print what comes next."""
    settings, summary = state.settings, {}
    if state.accelerator.is_main_process:
        summary = summarise(
            settings,
            state.encoder,
            steps=state.step,
            best_step=journal.best.choice.step,
            stopped_early=state.step < settings.optim.steps,
            seconds=state.seconds_so_far,
            precision=state.precision,
        )
        config, name = write_compare_config(settings), Path(settings.out).name
        if embedded:
            config, name = Path("configs/compare/world.yaml"), "world"
        print_summary(settings, summary)
        print_next_steps(settings, config, f"results/{name}")
    state.accelerator.end_training()
    return summary


def main() -> None:
    try:
        done = train(parse_settings(Settings, __doc__))
        for line in done.get("plan", []):
            console.print(line)
    except CollapsedError as error:
        raise UserError(str(error)) from None


if __name__ == "__main__":
    run_command(main)
