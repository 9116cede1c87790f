"""Every benchmark that has a short form, one after the other, and one table of their ratios: ours over another side's.

    python -m tests.benchmarks --out ratios.json

Short forms are small: they say whether a program works and roughly where it stands, while the figures in results/ come
from each program's own defaults (--full). A missed target is shown; a program that fails is shown, too, and makes the
exit status 1. FuxiCTR, the other side of two programs, is run where --peer_python names an environment that has it.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from rich.console import Console

from data_tools.common.cli import UserError, parse_settings, run_command
from data_tools.common.files import read_json, write_json
from data_tools.common.provenance import made_by
from data_tools.simulation.make import make_world
from data_tools.simulation.settings import World
from tests.benchmarks.report import Ratio, table

# The flags of each program's short form. The others need data of one's own, Spark, or root: ams_ids, ams_network,
# ams_picture, engines, inputs (which prints a table of its own), warm_up.
SHORT = {
    "ams_skew": "--processes [2] --hot [0] --steps 2 --work.items 4000 --work.images 500 --work.codes 2000",
    "batch_sizes": "--datasets '{world: $world/dataset}' --seeds 2 --rates [0.001] --epochs 1 --sizes [4096]",
    "catalogue": "--items 1000 --requests 20000",
    "common_features": "--dataset $world/dataset --table $world/planted --seeds 1 --models [mlr,dqm]",
    "ctr_growth": "--sizes [10000,20000] --steps 3 --table_items 2000 --table_impressions 2000 --scored [2000,4000]",
    "din": "--impressions 100000 --users 10000 --items 5000 --threads 1 --repeats 1 --peer_python $peer",
    "dqm": "--repeats 40",
    "export": "--encoders '{resnet18: 128}' --items 64 --batch 32",
    "forms": "--items 4000 --impressions 256 --steps 5",
    "gauc": "--impressions 50000 --users 5000 --repeats 3 --peer_python $peer",
    "gradient_caching": "--batch 16 --repeats 1",
    "history_search": "--lengths [100,1000] --catalogue 5000 --users 60 --items 400 --clicks 200 --seeds 2 --epochs 1",
    "id_optimizers": "--datasets '{world: $world/dataset}' --seeds 2 --rates [0.001] --epochs 1",
    "impressions": "--impressions 10000 --users 2000 --items 1000",
    "lsplm": "--dataset $world/dataset --impressions 5000 --penalties [0.1] --steps 5",
    "near_duplicates": "--sizes [2000,20000]",
    "prepare": "--work $folder/prepare --sizes [100000,1000000] --memory 1GB",
    "reading": "--batches 3 --large 6",
    "shards": "--items 600 --requests 2000 --repeats 1",
    "slots": "--encoders '{test_byobnet: 64}' --steps 2",
    "stored": "--items 60",
    "streaming_memory": "--pictures [100,300]",
    "tables": "--items 300 --requests 2000 --rows 64 --steps 100",
    "training": "--encoders '{test_byobnet: 64}' --rows 16 --steps 3",
    "training_growth": "--requests 400 --times 5 --steps 5 --rows 32",
    "vectors_only": "--impressions 20000 --steps 20 --rows 64",
    "world": "--requests [1500,15000]",
}
WITH_PEER_ALONE = ("din",)
WITHOUT_FULL = ("common_features", "lsplm", "prepare")  # whose defaults want data of one's own, or 6 GB of disk
SHOP = World(items=300, users=300, requests=3000, image_size=32)


@dataclass(frozen=True)
class Settings:
    """Which benchmarks run, and how.

    Attributes
    ----------
    only : list of str
        Their names; all by default.
    full : bool
        Each program's own defaults in place of its short form; this takes hours.
    peer_python : str, optional
        Interpreter of an environment that has fuxictr.
    out : str, optional
        JSON file of the ratios.
    """

    only: list[str] = field(default_factory=list)
    full: bool = False
    peer_python: str | None = None
    out: str | None = None


def flags(name: str, settings: Settings, folder: Path) -> list[str]:
    """Those of one program."""
    places = {"world": folder / "world", "folder": folder, "peer": settings.peer_python or "null"}
    short = shlex.split(Template(SHORT[name]).substitute(places))
    if settings.full and name not in WITHOUT_FULL:
        place = short.index("--peer_python") if "--peer_python" in short else len(short)
        short = short[place:]
    return short


def run(name: str, given: list[str], folder: Path) -> tuple[list[Ratio], str]:
    """The ratios of one program, and the last line that it said where it ended without any."""
    out = folder / f"{name}.json"
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *given, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if out.exists():
        fields = ("what", "ours", "other", "side", "wanted", "at_most")
        return [Ratio(**{key: one[key] for key in fields}) for one in read_json(out)["ratios"]], ""
    said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()
    return [], next((line for line in said if line.startswith("error:")), said[-1])


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    if unknown := set(settings.only) - set(SHORT):
        raise UserError(f"no benchmark is called {min(unknown)!r}; choose from {', '.join(SHORT)}")
    console, printed, found, failed = Console(), table("program"), {}, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_world(SHOP, folder / "world")
        for name in settings.only or SHORT:
            if name in WITH_PEER_ALONE and not settings.peer_python:
                console.print(f"{name}: not run, since --peer_python is not given")
                continue
            started = time.perf_counter()
            ratios, said = run(name, flags(name, settings, folder), folder)
            console.print(f"{name}: {time.perf_counter() - started:.0f} s", said, highlight=False)
            failed += [name] if said else []
            found[name] = [{**vars(one), "ratio": one.value} for one in ratios]
            for place, one in enumerate(ratios):
                printed.add_row("" if place else name, *one.cells(), end_section=place == len(ratios) - 1)
    made = made_by()
    Console(width=160).print(printed)
    console.print(", ".join(f"{package} {version}" for package, version in made["versions"].items()), highlight=False)
    console.print(f"commit {made['commit']}; {made['machine']}", highlight=False)
    if settings.out:
        write_json(settings.out, {"full": settings.full, "ratios": found, "failed": failed, **made})
    if failed:
        raise UserError(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    run_command(main)
