"""Training of DIN against FuxiCTR's DIN: samples a second, AUC and GAUC, on the same log, batches and cores.

    python tests/benchmarks/din.py --out results/benchmarks/din.json

One epoch each, in turns, every one in a process of its own. FuxiCTR gets its batches from padded arrays that are made
beforehand, its own loader left out; our figure includes making the batches. The first step is timed on neither side.
FuxiCTR's Python environment is made in --peer_folder where --peer_python names none; it uses the torch of this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from click_log import write_click_log
from report import Ratio, finish
from rich.console import Console

from data_tools.common.cli import UserError, parse_settings, run_command
from downstream.data.ctr_data import CTRData, load_ctr_data
from downstream.settings import DataSettings
from downstream.statistics.metrics import auc, gauc

TARGET = 3.0

PEER = """
import json, sys, time
import numpy as np, torch
from importlib.metadata import version
from fuxictr.features import FeatureMap
from model_zoo.LongCTR.DIN.DIN import DIN
if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    torch.manual_seed(given["seed"])
    features = FeatureMap("log", ".")
    for name in ("user", "item"):
        features.features[name] = {"source": name, "type": "categorical", "padding_idx": 0, "vocab_size": given[name]}
    features.labels, features.default_emb_dim = ["click"], 12
    model = DIN(
        features, embedding_dim=12, dnn_hidden_units=[200, 80], dnn_activations=given["activation"],
        attention_hidden_units=[80, 40], attention_hidden_activations=given["activation"], learning_rate=given["lr"],
        optimizer="adam", loss="binary_crossentropy", task="binary_classification", metrics=["AUC"], verbose=0,
        model_root=given["folder"],
    )
    model._max_gradient_norm, model._batch_index = 10.0, 0
    held = {name: np.load(given["folder"] + f"/{name}.npy", mmap_mode="r") for name in ("click", "user", "items")}
    def batch(rows):
        items = torch.from_numpy(held["items"][rows]).long()
        context = {name: torch.from_numpy(held[name][rows]) for name in ("click", "user")}
        return context, {"item": items.flatten()}, (items[:, :-1] > 0).float()
    def pieces(rows, size):
        return [rows[start : start + size] for start in range(0, len(rows), size)]
    split = {name: np.load(given["folder"] + f"/{name}.npy") for name in ("train", "test")}
    order = np.random.default_rng(given["seed"]).permutation(split["train"])
    model.train()
    model.train_step(batch(order[:64]))
    begun = time.perf_counter(), time.process_time()
    for place, rows in enumerate(pieces(order, given["batch_size"])):
        model._batch_index = place
        model.train_step(batch(rows))
    seconds = {"wall": time.perf_counter() - begun[0], "processor": time.process_time() - begun[1]}
    model.eval()
    with torch.no_grad():
        parts = [model(batch(rows))["y_pred"].flatten() for rows in pieces(split["test"], 16384)]
    np.save(given["scores"], torch.cat(parts).numpy())
    print(json.dumps({**seconds, "samples": len(order), "version": version("fuxictr")}))
"""

OURS = """
import json, sys, time
from dataclasses import replace
import numpy as np
from downstream.training import epochs
from downstream.settings import DataSettings
from downstream.data.ctr_data import load_ctr_data
from downstream.settings import OptimSettings
from downstream.training.settings import TrainingSettings
from downstream.training.fit import fit
from downstream.training.settings import ModelSettings
seconds, batches = {}, epochs._training_batches
def timed(*given):
    made = batches(*given)
    yield next(made)  # a first step sets up moments and threads; the other side's is not timed either
    begun, samples = (time.perf_counter(), time.process_time()), 0
    for batch in made:
        samples += len(batch["click"])
        yield batch
    seconds.update(wall=time.perf_counter() - begun[0], processor=time.process_time() - begun[1], samples=samples)
if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    epochs._training_batches = timed
    data = load_ctr_data(given["dataset"], DataSettings(history=50))
    data = replace(data, sizes={**data.sizes, "user": given["user"], "item": given["item"]})
    # No ID is hidden, since FuxiCTR hides none.
    optim = OptimSettings(
        lr=given["lr"], batch_size=given["batch_size"], threads=given["threads"], unknown_rate=0.0,
        id_optimizer=given["id_optimizer"],
    )
    result = fit(data, None, TrainingSettings(data.settings, ModelSettings("din"), optim=optim), given["seed"])
    np.save(given["scores"], result.test_scores)
    print(json.dumps(seconds))
"""


@dataclass(frozen=True)
class Settings:
    """The benchmark.

    Attributes
    ----------
    peer_python : interpreter of an environment that has fuxictr
    peer_folder : where that environment is made if ``peer_python`` is not given
    activation : FuxiCTR's name of the activation of its layers; ours is PReLU
    impressions, users, items : size of the log; 80 % of the impressions are trained on
    codes : least size of the tables of users and of items on either side, of which the log may show a part
    batch_size : impressions a step
    lr : Adam's learning rate; one epoch is 195 steps, too few for 1e-3 to learn much
    id_optimizer : of our ID tables; FuxiCTR's learn by dense Adam
    threads : of either side
    clock : seconds on the clock, or those of the processor, which say the same on a machine that is shared
    wanted : of our samples a second over FuxiCTR's
    repeats : epochs of each side, with seeds 0, 1, ...
    out : file of the figures; none by default
    """

    peer_python: str | None = None
    peer_folder: str = "runs/fuxictr"
    activation: str = "PReLU"
    impressions: int = 1_000_000
    users: int = 50_000
    items: int = 20_000
    codes: int = 0
    batch_size: int = 4096
    lr: float = 2e-3
    id_optimizer: str = "auto"
    threads: int = 2
    clock: Literal["wall", "processor"] = "wall"
    wanted: float = TARGET
    repeats: int = 3
    out: str | None = None


def make_peer(folder: Path) -> str:
    """An environment with fuxictr and this one's torch; its interpreter."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "fuxictr"], check=True)
        paths = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
        own = subprocess.run(paths, check=True, capture_output=True, text=True).stdout.strip()
        Path(own, "torch_of_another.pth").write_text(sysconfig.get_paths()["purelib"])
    return str(python)


def write_padded(data: CTRData, folder: Path) -> None:
    """What FuxiCTR reads: click, user code, and the codes of history and shown item (N, 51), 0 where there is none."""
    items = np.lib.format.open_memmap(folder / "items.npy", "w+", np.int32, (len(data.click), 51))
    for start in range(0, len(data.click), 8192):
        batch = data.batch(np.arange(start, min(start + 8192, len(data.click))))
        items[start : start + 8192, :50] = np.where(batch["mask"], batch["item"][batch["history"]], 0)
        items[start : start + 8192, 50] = batch["item"][batch["target"]]
    items.flush()
    np.save(folder / "click.npy", data.click)
    np.save(folder / "user.npy", data.user_code[data.user])
    for split in ("train", "test"):
        np.save(folder / f"{split}.npy", data.rows[split])


def run(python: str, program: str, given: dict) -> dict:
    """What a program printed in a process of its own."""
    own = {**os.environ, "OMP_NUM_THREADS": str(given["threads"]), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([python, "-c", program, json.dumps(given)], capture_output=True, text=True, env=own)
    if done.returncode:
        raise UserError(f"{python} failed:\n{done.stderr[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    python, console = settings.peer_python or make_peer(Path(settings.peer_folder)), Console()
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder, "log")
        write_click_log(dataset, settings.impressions, settings.users, settings.items)
        data = load_ctr_data(dataset, DataSettings(history=50))
        write_padded(data, Path(folder))
        given = {
            "folder": folder,
            "dataset": str(dataset),
            "scores": f"{folder}/scores.npy",
            "activation": settings.activation,
            "batch_size": settings.batch_size,
            "lr": settings.lr,
            "id_optimizer": settings.id_optimizer,
            "threads": settings.threads,
            **{name: max(data.sizes[name], settings.codes) for name in ("user", "item")},
        }
        test = data.rows["test"]
        runs: dict[str, list[dict]] = {"FuxiCTR": [], "ours": []}
        for seed in range(settings.repeats):
            for name, (interpreter, program) in {"FuxiCTR": (python, PEER), "ours": (sys.executable, OURS)}.items():
                found = run(interpreter, program, {**given, "seed": seed})
                scores = np.load(given["scores"])
                found["samples_per_second"] = found["samples"] / found[settings.clock]
                found["auc"] = auc(data.click[test], scores)
                found["gauc"] = gauc(data.click[test], scores, data.user[test])
                runs[name].append(found)
                console.print(f"seed {seed} {name}: " + ", ".join(f"{k} {v}" for k, v in found.items()))
        padding = 1 - float(np.minimum(data.clicks_before, 50).mean()) / 50
    medians = {
        name: {
            figure: float(np.median([one[figure] for one in own])) for figure in ("samples_per_second", "auc", "gauc")
        }
        for name, own in runs.items()
    }
    side = f"FuxiCTR {runs['FuxiCTR'][0]['version']}"
    wanted = {"samples_per_second": settings.wanted, "auc": None, "gauc": None}
    ratios = [
        Ratio(name.replace("_", " "), medians["ours"][name], medians["FuxiCTR"][name], side, least)
        for name, least in wanted.items()
    ]
    sizes = {"padding": padding, "history": 50, "embedding": 12}
    finish(settings, {"median": medians, "runs": runs, **sizes}, ratios)


if __name__ == "__main__":
    run_command(main)
