"""Pre-train an image encoder from click behaviour.

accelerate launch pretrain/train.py                                     # the simulated world, about five minutes
accelerate launch pretrain/train.py --data SHARDS --out runs/my-run     # your own shards
accelerate launch pretrain/train.py --optim.steps 60 --resume           # any setting as --section.key value
accelerate launch --multi_gpu --num_processes 2 pretrain/train.py ...   # several processes, on GPUs or on CPUs
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from data_tools.common import provenance
from data_tools.common.cli import UserError, parse_settings, progress_bar, run_command
from data_tools.common.files import read_json, write_json
from data_tools.sharding.files import read_index
from data_tools.sharding.read import open_shards
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from pretrain.data.collate import items_of
from pretrain.data.stream import loader, mixed_seed
from pretrain.data.transforms import training_transform
from pretrain.data.workers import loader_processes
from pretrain.encoder.image_encoder import build_encoder
from pretrain.encoder.item_dropout import picture_seeds
from pretrain.evaluation.collapse import CollapsedError
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.parts.losses import Term
from pretrain.runtime.distributed import in_processes, total
from pretrain.runtime.memory import keep_freed_memory
from pretrain.runtime.trial import try_out
from pretrain.settings import Settings
from pretrain.training import runs
from pretrain.training.journal import Journal, console, say_start, say_summary, summarise, write_compare_config
from pretrain.training.optim import build_optimizer, choose_precision, schedule, use_all_cores
from pretrain.training.step import EncoderPass, Step

WORLD = Path("runs/world")


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
            now, usual = asdict(settings)[section], asdict(Settings())[section]
            if isinstance(usual, dict):  # a setting that is younger than the run had its default's effect
                before[section] = usual | before[section]
            if section == "batch":  # which do not depend on the number of loader processes any more
                if "lanes" in before[section]:
                    lanes, workers = before[section].pop("lanes"), before[section]["workers"]
                    before[section]["shard_streams"] = lanes or max(workers, 1)
                before[section] |= {name: now[name] for name in ("workers", "cache_mb")}
            if before[section] != now:
                raise UserError(f"{run} was trained with {section} {before[section]}, not {now}; resume with the same")
    state.wait_for_everyone()
    return found[-1] if found else None


def train(settings: Settings) -> dict[str, Any]:
    """Train as the settings say and return what ``summary.json`` holds (on the first process; elsewhere nothing)."""
    # Data, run folder, encoder
    use_all_cores()
    keep_freed_memory()
    state = PartialState(cpu=not torch.cuda.is_available())
    embedded = settings.data is None and settings.out == Settings().out and settings.world == World()
    settings = replace(settings, data=settings.data or str(default_world(settings.world, state)))
    if settings.objective.name not in OBJECTIVES:
        raise UserError(f"--objective.name {settings.objective.name!r} is none of {', '.join(OBJECTIVES)}")
    read_index(settings.data, digests=settings.verify and state.is_main_process)
    if settings.dry_run:
        return {"plan": plan_training(settings, state)}
    run, optim = Path(settings.out), settings.optim
    checkpoint = open_run(settings, state)
    torch.manual_seed(settings.seed)
    encoder = build_encoder(settings.encoder)
    objective = OBJECTIVES[settings.objective.name](settings, encoder).train()
    optimizer = build_optimizer(encoder, optim, objective)
    resumed = {"step": 0, "seconds": 0.0}
    if checkpoint:
        resumed = runs.load_checkpoint(checkpoint, encoder, optimizer, objective)
    precision = resumed.get("precision") or choose_precision(encoder, optim.precision, settings.encoder.image_size)
    precision = broadcast_object_list([precision])[0]
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision, log_with="tensorboard", project_dir=run
    )
    main, step = accelerator.is_main_process, resumed["step"]
    if main:
        (run / runs.STOPPED).unlink(missing_ok=True)
        if not checkpoint:
            start_run(settings, encoder)
    accelerator.init_trackers("tensorboard")
    model, optimizer = accelerator.prepare(EncoderPass(encoder), optimizer)
    if "scaler" in resumed:
        accelerator.scaler.load_state_dict(resumed["scaler"])
    passes = Step(model, in_processes(objective.to(accelerator.device)), optim.micro_batch, accelerator)

    # accelerate does not prepare the loader: each process reads shards of its own
    batches = loader(
        settings.data,
        objective.batches,
        settings.batch,
        settings.encoder.image_size,
        settings.seed,
        accelerator.process_index,
        accelerator.num_processes,
        start=step,
        views=objective.views,
        annotate=objective.annotate,
    )
    journal = Journal(settings, accelerator, step)
    if main:
        say_start(settings, accelerator, encoder, precision, step)
        console.print(f"{batches.num_workers} loader processes read and decode for each training process")
        if step == 0:
            journal.validate(0, encoder)

    started = asked = time.time()
    with progress_bar(main, console) as progress:
        bar = progress.add_task("training", total=optim.steps, completed=step)
        model.train()
        for batch in islice(batches, 0 if journal.stale(step) else optim.steps - step):
            batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            waited = time.time() - asked
            torch.manual_seed(mixed_seed(settings.seed, 1 + accelerator.process_index, step))
            lr = schedule(step, optim)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["scale"]
            views = 1 if "history" in batch else objective.views
            terms, embeddings = passes.forward(batch, picture_seeds(batch["image_item"], views, settings.seed, step))
            loss = sum(term.loss for term in terms.values())
            if not torch.isfinite(total(loss)):
                raise UserError(stop_at_nan(run, batch, terms, step))
            passes.backward(loss)
            if optim.clip:
                accelerator.clip_grad_norm_([*model.parameters(), *objective.parameters()], optim.clip)
            optimizer.step()
            optimizer.zero_grad()
            objective.after_step(encoder)

            step += 1
            last = step == optim.steps
            journal.add(terms, batch, waited)
            if step % settings.log_every == 0 or last:
                journal.line(step, lr, embeddings, batch, progress)
            if step % settings.evaluation.every == 0 or last:
                if main:
                    journal.validate(step, encoder)
                last = last or journal.stale(step)
            if main and (step % settings.checkpoint_every == 0 or last):
                seconds = resumed["seconds"] + time.time() - started
                state_of = {"seconds": seconds, "precision": precision}
                if accelerator.scaler:  # of fp16: what the loss is multiplied by, and for how long it went well
                    state_of["scaler"] = accelerator.scaler.state_dict()
                runs.save_checkpoint(run, step, encoder, optimizer, state_of, objective)
            progress.update(bar, completed=step)
            if last:
                break
            asked = time.time()
    accelerator.wait_for_everyone()

    # The test time range, once, with the weights chosen on validation
    summary: dict[str, Any] = {}
    if main:
        seconds = resumed["seconds"] + time.time() - started
        summary = summarise(settings, encoder, journal.best.found, step, seconds, precision)
        config, name = write_compare_config(settings), run.name
        if embedded:
            config, name = Path("configs/compare/world.yaml"), "world"
        say_summary(settings, summary, config, f"results/{name}")
    accelerator.end_training()
    return summary


def plan_training(settings: Settings, state: PartialState) -> list[str]:
    """What a run will take, in lines: its pictures, images a second, memory, hours and bytes."""
    shards, optim = open_shards(settings.data), settings.optim
    encoder = build_encoder(settings.encoder).to(state.device)
    precision = choose_precision(encoder, optim.precision, settings.encoder.image_size)
    rows = settings.batch.rows // state.num_processes
    if OBJECTIVES[settings.objective.name](settings, encoder).batches == "requests":
        some = shards.records("train", 0)[:rows]
        distinct = {item for record in some for item in items_of(record)}
        pictures = round(len(distinct) * rows / len(some))
    else:
        pictures = 2 * rows

    def step(images: Tensor) -> None:
        with torch.autocast(state.device.type, torch.bfloat16, enabled=precision != "fp32"):
            loss = encoder(images.to(state.device)).float().square().mean()
        loss.backward()
        encoder.zero_grad()

    trial = try_out(
        f"training, {optim.steps} steps of about {pictures:,} pictures a process in {precision}",
        shards,
        training_transform(settings.batch, settings.encoder.image_size),
        step,
        images=optim.steps * pictures * state.num_processes,
        batch=min(pictures, optim.micro_batch or pictures),
        workers=loader_processes(settings.batch.workers),
        processes=state.num_processes,
        # Initial and best weights, and two checkpoints of weights with AdamW's two moments.
        written=(1 + 1 + 2 * 3) * sum(parameter.nbytes for parameter in encoder.parameters()),
    )
    return trial.lines()


def start_run(settings: Settings, encoder: torch.nn.Module) -> None:
    """Record what is about to be trained, and the encoder before training."""
    run = Path(settings.out)
    made_by = {"commit": provenance.commit(), "versions": provenance.versions(), "machine": provenance.machine()}
    write_json(run / "run.json", {"settings": asdict(settings), **made_by})
    runs.save_tensors(run / "initial.safetensors", encoder.state_dict())
    (run / "best.json").unlink(missing_ok=True)


def default_world(world: World, state: PartialState) -> Path:
    """Shards of the simulated world, made once by the first process and cached below ``runs/``."""
    folder = WORLD
    if world != World():
        folder = Path(f"{WORLD}-{hashlib.blake2b(repr(world).encode(), digest_size=4).hexdigest()}")
    with state.main_process_first():
        make_world(world, folder)
    return folder / "shards"


def stop_at_nan(run: Path, batch: dict[str, Tensor], terms: dict[str, Term], step: int) -> str:
    """Save the batch's items and say what happened."""
    path = run / f"not-finite-step-{step}.json"
    values = {name: float(term.loss.detach()) for name, term in terms.items()}
    write_json(path, {"step": step, "losses": values, "items": batch["image_item"].tolist()})
    return (
        f"the loss is not finite at step {step}: {values}. Its batch's items are in {path}. Lower optim.lr, or use fp32"
    )


def main() -> None:
    try:
        for line in train(parse_settings(Settings, __doc__)).get("plan", []):
            console.print(line)
    except CollapsedError as error:
        raise UserError(str(error)) from None


if __name__ == "__main__":
    run_command(main)
