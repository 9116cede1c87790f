"""The report of a comparison: one file without network, the same in Markdown, a page for a mail."""

import json
import re

import numpy as np
from PIL import Image

from downstream.comparison.figures import Figures, records
from downstream.report.words import Names, signed
from tests.downstream.compare_helpers import chosen_forms, run


def test_the_summary_is_one_page_with_the_verdict(reported):
    picture = Image.open(reported / "summary.png")
    assert picture.format == "PNG" and picture.size[0] == 1290 and picture.size[1] < 1.5 * picture.size[0]
    # nothing is cut off: the margins are white
    pixels = np.asarray(picture.convert("L"))
    assert all((edge > 250).all() for edge in (pixels[:45], pixels[-45:], pixels[:, :45], pixels[:, -45:]))
    assert (pixels < 100).mean() > 0.01


def test_the_html_is_one_file_without_network(reported):
    html = (reported / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//cdn|@import|<script|<link|<iframe|\bsrcset", html)
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sources and all(source.startswith(("data:image/jpeg;base64,", "#")) for source in sources)
    assert "url(" not in html.replace("url(#", "")
    # gains, gains by form and duels on three slices, three dimensions of segments, calibration, spectra
    assert "Epoch by epoch" not in html  # there was one
    assert (
        html.count("<svg viewBox") - html.count("#picture-") == 14
        and "prefers-color-scheme: dark" in html
        and 'name="viewport"' in html
    )
    assert "Planted &lt;world&gt;" in html and "<world>" not in html
    assert "#000001" not in html  # every stand-in colour was handed to the style sheet
    # each thumbnail is held once, and shown by its name with what it shows in words
    held = dict(re.findall(r'<image id="(picture-[0-9]+)" href="([^"]+)"', html))
    shown = re.findall(r'aria-label="([^"]+)"><title>([^<]+)</title><use href="#(picture-[0-9]+)"/>', html)
    assert len(set(held.values())) == len(held) == html.count("data:image/jpeg") < len(shown)
    assert {name for _, _, name in shown} == held.keys() and all(label == title for label, title, _ in shown)
    assert html.index('class="verdict"') < html.index("<svg") and "Nearest neighbours" in html


def test_the_markdown_says_the_same_and_refers_to_nothing(reported):
    text = (reported / "report.md").read_text(encoding="utf-8")
    head = text.split("\n\n")[1]
    assert head.startswith("COURIER (") and "IDs only in the GAUC of DICM" in head and head.count(". ") <= 3
    assert not re.search(r"https?:|!\[|\]\(", text)
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "Random vectors 4" in text and "no vector: 2% (Random vectors)" in head  # items without a vector
    assert "python -m downstream.compare --config" in text


def test_the_first_chart_has_one_bar_a_source_in_its_best_form_the_largest_first(reported):
    html, figures = (reported / "report.html").read_text(), Figures.read(reported / "figures.json")
    charts = [text.split("; ") for text in re.findall(r'<svg viewBox[^>]* aria-label="([^"]*)"', html)]
    chosen, shown = chosen_forms(reported), Names({})
    wanted = records(figures.differences, b="ids", form="best", slice="all", metric="gauc")
    wanted = sorted(((row["mean"], row["a"]) for row in wanted), reverse=True)
    assert charts[0] == [f"{shown(a)}, {shown(chosen[a])}: {signed(mean)}" for mean, a in wanted]
    ground = np.mean([cell["gauc"] for cell in records(figures.cells, source="ids", slice="all")])
    assert f"IDs only {ground:.3f}" in html[: html.index("</figure>")]  # the baseline is marked
    assert len(charts[1]) == 4 and html.index("Every form of every source") < html.index("Compared:")


def test_several_epochs_gates_and_several_models_are_reported(yaml_file, monkeypatch, tmp_path):
    flags = ["--training.optim.epochs", "2", "--ctr_seeds", "[0]", "--forms", "[simscore]"]
    flags += ["--bootstrap.resamples", "20", "--training.optim.batch_size", "512"]
    flags += ["--training.image.gate", "true", "--cache", str(tmp_path / "cells"), "--models", "[dicm, logistic]"]
    run(monkeypatch, "--config", yaml_file, "--out", tmp_path / "epochs", *flags)
    html = (tmp_path / "epochs" / "report.html").read_text()
    assert "Epoch by epoch" in html
    for source in ("IDs only", "Random vectors", "COURIER"):
        assert re.search(rf"Validation AUC by epoch: [^\"]*\b{source}\b", html)
    assert html.count("Models side by side") == 1
    figures = json.loads((tmp_path / "epochs" / "figures.json").read_text())
    wanted = {"a": "random", "b": "ids", "model": "logistic", "slice": "cold", "metric": "gauc"}
    mean = next(row["mean"] for row in figures["differences"] if wanted.items() <= row.items())
    cold = html.split("<h3>Items never shown in training</h3>")[1].split("</table>")[0]
    assert re.search(
        rf"<td>Logistic regression</td><td>[\d.]+</td><td>[^<]+</td><td>{re.escape(signed(mean))} \(", cold
    )
    records = [json.loads(path.read_text()) for path in (tmp_path / "cells").glob("*/row.json")]
    gates = next(one["form"]["gates"] for one in records if one["cell"]["source"] == "courier")
    for one in gates:
        row = f"<td>{one['category'] or 'none, or new'}</td><td>{one['gate']:.4f}</td><td>{one['impressions']:,}</td>"
        assert row in html
