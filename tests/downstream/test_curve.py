"""The curve of several comparisons shows their own differences, each at its place."""

import json

import pytest

from data_tools.common.cli import UserError
from downstream.curve import Settings, gains, main, picture, table


def write_figures(folder, gain):
    names = {"form": "best", "metric": "gauc", "slice": "all", "model": "dicm"}
    against_ids = {**names, "a": "courier", "b": "ids", "mean": gain, "low": gain - 0.01, "high": gain + 0.02}
    against_other = {**against_ids, "b": "clip", "mean": 0.5}
    figures = {
        "cells": [{"source": "ids", "form": "none"}, {"source": "courier", "form": "vector"}],
        "differences": [against_other, against_ids],
    }
    folder.mkdir()
    (folder / "figures.json").write_text(json.dumps(figures))
    return str(folder)


def test_a_line_a_source_over_the_baseline(tmp_path, monkeypatch):
    folders = [write_figures(tmp_path / str(gain), gain) for gain in (0.0, 0.1)]
    settings = Settings(comparisons=folders, at=[0.3, 1.0], axis="share", out=str(tmp_path / "c"), slices=["all"])
    assert {place: row["mean"] for place, row in gains(settings, "all")["courier"].items()} == {0.3: 0.0, 1.0: 0.1}
    flags = ["--comparisons", json.dumps(folders), "--at", "[0.3, 1]", "--axis", "share", "--slices", '["all"]']
    monkeypatch.setattr("sys.argv", ["curve", *flags, "--out", str(tmp_path / "c")])
    main()
    assert (
        "| COURIER | +0.0000 (-0.0100 to +0.0200) | +0.1000 (+0.0900 to +0.1200) |" in (tmp_path / "c.md").read_text()
    )
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_not_drawn_is_left_to_the_table():
    row = {"mean": 0.1, "low": 0.0, "high": 0.2}
    lines = {source: {0.5: row} for source in ("clip", "scl", "courier")}
    settings = Settings(comparisons=["a"], at=[0.5], axis="share", out="c", drawn=["courier", "clip"])
    drawn = picture({"all": lines}, settings).axes[0].get_legend_handles_labels()[1]
    assert drawn == ["CLIP", "COURIER"]
    assert [line.split(" | ")[0] for line in table(lines, settings)[2:]] == ["| CLIP", "| SCL", "| COURIER"]


def test_what_is_not_there_is_said(tmp_path):
    folder = write_figures(tmp_path / "one", 0.1)
    with pytest.raises(UserError, match=r"no gauc of 'simtier' on 'all'; forms: \['best'\]"):
        gains(Settings(comparisons=[folder], at=[1], axis="share", out="c", form="simtier"), "all")
    with pytest.raises(UserError, match=r"the sources \['clip'\]; they have \['courier'\]"):
        gains(Settings(comparisons=[folder], at=[1], axis="share", out="c", sources=["clip"]), "all")
    with pytest.raises(UserError, match=r"the sources \['clip'\]; they have \['courier'\]"):
        gains(Settings(comparisons=[folder], at=[1], axis="share", out="c", drawn=["clip"]), "all")
    with pytest.raises(UserError, match="1 comparisons and 2 places"):
        Settings(comparisons=[folder], at=[1, 2], axis="share", out="c")
