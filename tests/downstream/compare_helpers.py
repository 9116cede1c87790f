"""A comparison as a user starts it, for several files of tests."""

import json
import sys

from data_tools.common.cli import run_command
from downstream.compare import main


def run(monkeypatch, *arguments, pages=True):
    """Run the command; without its pages, which take longer than the figures, where a test reads these alone."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["downstream.compare", *map(str, arguments)])
        if not pages:
            patch.setattr("downstream.compare.report_context", lambda *_, **__: {"verdict": ["no pages"]})
            patch.setattr("downstream.compare.write_page", lambda *_: None)
            patch.setattr("downstream.compare.write_summary", lambda *_: None)
        run_command(main)


def chosen_forms(folder):
    return {one["source"]: one["form"] for one in json.loads((folder / "figures.json").read_text())["chosen"]}
