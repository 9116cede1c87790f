"""A comparison as a user starts it, for several files of tests."""

import json
import sys

from data_tools.common.cli import run_command
from downstream.compare import main


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["downstream.compare", *map(str, arguments)])
    run_command(main)


def chosen_forms(folder):
    return {one["source"]: one["form"] for one in json.loads((folder / "figures.json").read_text())["chosen"]}
