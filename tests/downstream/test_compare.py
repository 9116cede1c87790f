"""A comparison from YAML to report: every cell once, resumed where it stopped, figures as promised, no network."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from sklearn.metrics import ndcg_score, roc_auc_score

import downstream.comparison.cells
from data_tools.common.cli import UserError, progress_bar, run_command
from data_tools.measures.group_auc import group_auc
from data_tools.tables.table import write_table
from downstream.compare import Settings, compare, main, plan
from downstream.comparison.cells import Cell, cell_digest, run_cells
from downstream.comparison.figures import SCHEMAS, Figures, record, records
from downstream.comparison.sources import Source
from downstream.comparison.spec import Primary
from downstream.data.ctr_data import load_ctr_data
from downstream.report.words import Names, signed
from downstream.settings import DataSettings, OptimSettings
from downstream.statistics.intervals import BootstrapSettings, Cells, bootstrap_metrics, difference_interval
from downstream.training.settings import ImageSettings, ModelSettings, TrainingSettings
from tests.benchmarks.leaks import click_vectors


@pytest.fixture(scope="module")
def tables(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_table(folder / "planted", world.table.ids, world.table.vectors, {})
    write_table(folder / "random", world.random.ids[4:], world.random.vectors[4:], {})
    return folder


@pytest.fixture(scope="module")
def yaml_file(world, tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    settings = {
        "title": "Planted <world>",
        "dataset": str(world.folder),
        "cache": str(folder / "cache"),
        "sources": {
            "ids": {},
            "random": {"table": str(tables / "random")},
            "courier": {"table": [str(tables / "planted"), str(tables / "planted")]},
        },
        "forms": ["vector", "simscore"],
        "seeds": [0, 1],
        "training": {"data": {"history": 10}, "optim": {"batch_size": 128}},
        "bootstrap": {"resamples": 100},
    }
    (folder / "compare.yaml").write_text(yaml.safe_dump(settings))
    return folder / "compare.yaml"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["downstream.compare", *map(str, arguments)])
    run_command(main)


@pytest.fixture
def fits(monkeypatch):
    """Counts the trainings; set ``stop_after`` to be interrupted in the middle of one."""
    real, counted = downstream.comparison.cells.fit, {"count": 0, "stop_after": None}

    def counting(*arguments, **options):
        if counted["count"] == counted["stop_after"]:
            raise KeyboardInterrupt
        counted["count"] += 1
        return real(*arguments, **options)

    monkeypatch.setattr(downstream.comparison.cells, "fit", counting)
    return counted


def test_a_stopped_comparison_goes_on_and_a_finished_one_trains_nothing(yaml_file, monkeypatch, fits, tmp_path):
    out = yaml_file.parent / "out"
    fits["stop_after"] = 3
    with pytest.raises(SystemExit, match="130"):
        run(monkeypatch, "--config", yaml_file, "--out", out)
    assert not out.exists()
    fits["stop_after"] = None
    run(monkeypatch, "--config", yaml_file, "--out", out)
    assert fits["count"] == 10  # 2 seeds x (ids + 2 tables x 2 forms)
    first = json.loads((out / "figures.json").read_text())
    run(monkeypatch, "--config", yaml_file, "--out", tmp_path / "again")
    assert fits["count"] == 10
    again = json.loads((tmp_path / "again" / "figures.json").read_text())
    assert again["cells"] == first["cells"] and again["differences"] == first["differences"]
    run(
        monkeypatch,
        "--config",
        yaml_file,
        "--out",
        tmp_path / "other",
        "--training.optim.lr",
        "0.002",
        "--seeds",
        "[0]",
    )
    assert fits["count"] == 15


def test_several_epochs_gates_and_several_models_are_told(yaml_file, monkeypatch, tmp_path):
    flags = ["--training.optim.epochs", "2", "--seeds", "[0]", "--forms", "[simscore]", "--bootstrap.resamples", "20"]
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


@pytest.fixture(scope="module")
def reported(yaml_file):
    """The report of the comparison, from the kept cells where an earlier test made them."""
    out = yaml_file.parent / "reported"
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, "--config", yaml_file, "--out", out)
    return out


def test_figures_hold_every_cell_and_difference(reported):
    figures = json.loads((reported / "figures.json").read_text())
    assert len(figures["cells"]) == 10 * 3
    assert all(
        set(cell) == {"source", "form", "model", "encoder", "seed", "slice", "auc", "gauc", "log_loss", "ndcg", "ece"}
        for cell in figures["cells"]
    )
    assert all(set(row) == set(SCHEMAS["differences"]) and row["low"] <= row["high"] for row in figures["differences"])
    assert all(row["p_holm"] >= row["p"] for row in figures["differences"] if row["metric"] == "gauc")
    assert not any(row["direction"] for row in figures["differences"] if row["metric"] != "gauc")
    assert all(row["low"] > 0 for row in figures["differences"] if row["direction"] == 1)
    pairs = {(row["a"], row["b"]) for row in figures["differences"]}
    assert pairs == {("random", "ids"), ("courier", "ids"), ("courier", "random")}
    assert len(figures["differences"]) == 3 * 3 * 3 * 3  # pairs, forms and "best", slices, metrics
    by_key = {(c["source"], c["form"], c["seed"], c["slice"]): c for c in figures["cells"]}
    for row in figures["differences"]:
        if (row["a"], row["b"], row["form"], row["metric"]) == ("courier", "ids", "vector", "gauc"):
            ours, theirs = (
                [by_key[source, form, seed, row["slice"]]["gauc"] for seed in (0, 1)]
                for source, form in (("courier", "vector"), ("ids", "none"))
            )
            assert row["mean"] == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-12)
            assert row["low"] > 0.1
        if (row["a"], row["b"], row["slice"], row["metric"]) == ("random", "ids", "all", "auc"):
            assert row["mean"] < 0.03


def test_differences_are_those_of_the_kept_scores(reported, yaml_file, world):
    """One interval recomputed from the cache's files."""
    figures = json.loads((reported / "figures.json").read_text())
    data = load_ctr_data(world.folder, DataSettings())
    settings, rows = BootstrapSettings(resamples=100), data.rows["test"]
    people, user = np.unique(data.user[rows], return_inverse=True)
    draws, values = {}, {}
    for file in (yaml_file.parent / "cache").glob("*/row.json"):
        record = json.loads(file.read_text())
        cell = record["cell"]
        if cell["form"] != "simscore" and cell["source"] != "random" and figures_match(figures, record):
            scores = np.load(file.parent / "test_scores.npy")
            key = cell["source"], cell["seed"]
            draws[key] = bootstrap_metrics(data.click[rows], scores[None], user, len(people), settings)["gauc"][0]
            values[key] = record["metrics"]["test"]["all"]["gauc"]
    ours, theirs = ("courier", "ids")

    def cells(source, encoders):
        point = np.array([values[source, seed] for seed in (0, 1)])
        drawn = np.stack([draws[source, seed] for seed in (0, 1)])
        return Cells(
            point, drawn, np.array(encoders), np.array([0, 1]), int(group_auc(click, click, user).defined.sum())
        )

    click = data.click[rows]
    interval = difference_interval(cells(ours, [0, 1]), cells(theirs, [0, 0]), settings)
    wanted = {"a": ours, "b": theirs, "form": "vector", "slice": "all", "metric": "gauc"}
    row = next(row for row in figures["differences"] if wanted.items() <= row.items())
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((interval.mean, interval.low, interval.high))


def figures_match(figures, record):
    """Whether a kept cell is one of this comparison (the cache may hold those of other settings)."""
    return any(
        {**record["cell"], "slice": "all", **record["metrics"]["test"]["all"]}.items() <= cell.items()
        for cell in figures["cells"]
    )


def test_the_oracle_bounds_what_is_attainable(reported):
    figures = json.loads((reported / "figures.json").read_text())
    assert next(row for row in figures["oracle"] if row["slice"] == "all")["auc"] > 0.8
    shares = {(s["source"], s["form"], s["slice"]): s["share"] for s in figures["attainable"] if s["metric"] == "auc"}
    assert 0.5 < shares["courier", "vector", "all"] < 1
    assert abs(shares["random", "vector", "all"]) < 0.15


def test_shares_of_the_ceiling_are_those_of_its_gain(yaml_file, monkeypatch, tmp_path, reported):
    run(monkeypatch, "--config", yaml_file, "--out", tmp_path / "o", "--main", "random", "--ceiling", "courier")
    figures = json.loads((tmp_path / "o" / "figures.json").read_text())
    gains = {
        (row["a"], row["slice"]): row["mean"]
        for row in figures["differences"]
        if (row["b"], row["form"], row["metric"]) == ("ids", "best", "gauc")
    }
    shares = {row["slice"]: row for row in figures["ceiling_shares"]}
    assert "all" in shares and {row["source"] for row in shares.values()} == {"random"}
    for part, row in shares.items():
        assert row["share"] == pytest.approx(gains["random", part] / gains["courier", part])
        assert row["low"] < row["share"] < row["high"]
    text = (tmp_path / "o" / "report.md").read_text()
    assert f"It reaches {shares['all']['share']:.0%} (95% interval" in text and "gain of COURIER, and" in text
    # what no ceiling is named for is not there, nor where the ceiling itself brings nothing
    assert not json.loads((reported / "figures.json").read_text())["ceiling_shares"]
    run(monkeypatch, "--config", yaml_file, "--out", tmp_path / "n", "--ceiling", "random")
    assert not json.loads((tmp_path / "n" / "figures.json").read_text())["ceiling_shares"]


def chosen_forms(folder):
    return {one["source"]: one["form"] for one in json.loads((folder / "figures.json").read_text())["chosen"]}


def test_forms_are_chosen_by_validation(reported):
    rows = json.loads((reported / "figures.json").read_text())["validation"]
    worth = {source: {r["form"]: r["gauc"] for r in rows if r["source"] == source} for source in ("random", "courier")}
    for source, forms in worth.items():
        assert max(forms, key=forms.get) == chosen_forms(reported)[source]
    html = (reported / "report.html").read_text().split("by which forms were chosen</summary>")[1].split("</table>")[0]
    shown = [f"{worth['random'][form]:.4f}" for form in ("vector", "simscore")]
    assert f"<tr><td>Random vectors</td><td>{shown[0]}</td><td>{shown[1]}</td></tr>" in html


def test_the_summary_is_one_page_with_the_verdict(reported):
    picture = Image.open(reported / "summary.png")
    assert picture.format == "PNG" and picture.size[0] == 1290 and picture.size[1] < 1.5 * picture.size[0]
    # nothing is cut off: the margins are white
    pixels = np.asarray(picture.convert("L"))
    assert all((edge > 250).all() for edge in (pixels[:45], pixels[-45:], pixels[:, :45], pixels[:, -45:]))
    assert (pixels < 100).mean() > 0.01


def test_figures_survive_the_file(reported, tmp_path):
    figures = Figures.read(reported / "figures.json")
    figures.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (reported / "figures.json").read_bytes()
    assert dict(figures.cells.schema) == SCHEMAS["cells"] and set(figures.sources) == {"ids", "random", "courier"}


def test_ranking_and_calibration_are_those_of_the_scores(reported, yaml_file, world):
    """NDCG by scikit-learn, page by page; the calibration error by a loop over the bins."""
    figures = Figures.read(reported / "figures.json")
    data = load_ctr_data(world.folder, DataSettings())
    rows = data.rows["test"]
    click, request = data.click[rows], data.dataset.impressions["request"].to_numpy()[rows]
    checked = 0
    for file in (yaml_file.parent / "cache").glob("*/row.json"):
        wanted = {**json.loads(file.read_text())["cell"], "slice": "all"}
        if wanted["seed"] or wanted["source"] == "random" or not (cell := record(figures.cells, **wanted)):
            continue
        scores = np.load(file.parent / "test_scores.npy").astype(np.float64)
        if cell["auc"] != pytest.approx(roc_auc_score(click, scores)):
            continue  # kept of other settings
        pages = [request == page for page in np.unique(request[click == 1])]
        assert cell["ndcg"] == pytest.approx(np.mean([ndcg_score([click[p]], [scores[p]], k=10) for p in pages]))
        order = np.argsort(scores, kind="stable")
        bins = np.array_split(order, 20)
        error = sum(len(own) * abs(click[own].mean() - scores[own].mean()) for own in bins) / len(order)
        assert cell["ece"] == pytest.approx(error, abs=1e-3)
        checked += 1
    assert checked >= 3


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
    assert html.index('class="verdict"') < html.index("<svg")


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


def test_pictures_can_be_left_out(yaml_file, monkeypatch, tmp_path, reported):
    run(monkeypatch, "--config", yaml_file, "--out", tmp_path / "bare", "--pictures", "false")
    html = (tmp_path / "bare" / "report.html").read_text()
    assert "data:image" not in html and "Nearest neighbours" not in html


def test_every_comparison_that_scored_the_test_rows_is_counted_once(yaml_file, monkeypatch, tmp_path, reported, world):
    ledger = world.folder / "test_looks.jsonl"
    before = ledger.read_text().splitlines()
    run(monkeypatch, "--config", yaml_file, "--out", tmp_path / "again")
    assert ledger.read_text().splitlines() == before
    flags = ["--main", "random", "--primary.against", "ids", "--title", "Once more", "--pictures", "false"]
    run(monkeypatch, "--config", yaml_file, "--out", tmp_path / "other", *flags)
    added = [json.loads(line) for line in ledger.read_text().splitlines()[len(before) :]]
    assert [(one["title"], one["contrasts"], one["primary"]) for one in added] == [
        ("Once more", 81, "random against ids, all")
    ]
    text = (tmp_path / "other" / "report.md").read_text()
    assert f"{len(before)} other comparison" in text and "one declared before the run" in text
    assert text.split("\n\n")[1].startswith("Declared before the run: Random vectors (")
    (row,) = [
        one for one in json.loads((tmp_path / "other" / "figures.json").read_text())["differences"] if one["primary"]
    ]
    assert (row["a"], row["b"], row["slice"], row["metric"], row["form"]) == ("random", "ids", "all", "gauc", "best")


def test_a_part_of_the_test_days_is_scored_alone(tiny_world, tmp_path):
    settings = Settings(
        out=str(tmp_path / "out"),
        dataset=str(tiny_world / "dataset"),
        sources={"ids": None, "courier": Source(table=str(tiny_world / "planted"))},
        ctr_seeds=[0],
        training=TrainingSettings(DataSettings(history=5), optim=OptimSettings(batch_size=512)),
        bootstrap=BootstrapSettings(resamples=20),
        cache=str(tmp_path / "cache"),
        test_days=(0.5, 2.0),
        pictures=False,
    )
    compare(settings, "")
    figures = Figures.read(tmp_path / "out" / "figures.json")
    shown = load_ctr_data(tiny_world / "dataset", DataSettings()).dataset.impressions
    test = shown.filter(pl.col("split") == "test")
    days = (test["timestamp"] - test["timestamp"].min()) / 86_400
    kept = test.filter((days >= 0.5) & (days < 2.0))
    assert 0 < len(kept) < len(test)
    assert figures.calibration.filter(source="ids")["impressions"].sum() == len(kept)
    oracle = record(figures.oracle, slice="all")
    assert oracle["auc"] == pytest.approx(roc_auc_score(kept["click"], kept["oracle"]))
    with pytest.raises(UserError, match=r"test_days .* hold 0 impressions"):
        compare(replace(settings, test_days=(90.0, 91.0)), "")


def test_a_planted_cheat_is_flagged_in_the_first_sentence(world, monkeypatch, tmp_path, capsys):
    """An SVD of the test clicks, beside honest vectors, through the command."""
    data = load_ctr_data(world.folder, DataSettings())
    cheat = np.column_stack([world.random.vectors, click_vectors(data, "test", 16)]).astype(np.float32)
    write_table(tmp_path / "cheat", world.random.ids, cheat, {})
    settings = {
        "dataset": str(world.folder),
        "sources": {"ids": {}, "courier": {"table": str(tmp_path / "cheat")}},
        "ctr_seeds": [0],
        "training": {"data": {"history": 10}, "optim": {"batch_size": 512}},
        "bootstrap": {"resamples": 20},
        "cache": str(tmp_path / "cache"),
        "pictures": False,
    }
    (tmp_path / "cheat.yaml").write_text(yaml.safe_dump(settings))
    run(monkeypatch, "--config", tmp_path / "cheat.yaml", "--out", tmp_path / "out")
    warning = "COURIER appears to know test labels: cosines with a user's clicks"
    assert warning in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out" / "report.md").read_text().split("\n\n")[1].startswith(warning)
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.split('<div class="verdict">')[1].lstrip().startswith(f"<p>{warning.replace(chr(39), '&#39;')}")


MINIMAL = {"sources": {"ids": None, "courier": Source(table="t")}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"main": "scl"}, "main is 'scl'"),
        ({"ceiling": "planted"}, "ceiling is 'planted'"),
        ({"baseline": "courier"}, "one source cannot have two roles"),
        ({"ceiling": "courier"}, "one source cannot have two roles"),
        ({"forms": ["tensor"]}, "forms: unknown name 'tensor'; choose one of"),
        ({"forms": {"vector": {"sise": 3}}}, "sise"),
        ({"forms": {"ad alone": {"behaviour_images": False}}}, "give it 'form'"),
        ({"models": {"wide": {"name": "din2"}}}, "unknown model 'din2'"),
        ({"models": []}, "models is empty"),
        ({"workers": 0}, "workers is 0"),
        ({"seeds": []}, "ctr_seeds is empty"),
        ({"ctr_seeds": [1, 1]}, "a seed twice"),
        ({"sources": {}}, "sources is empty; name at least two"),
        ({"sources": {"ids": None, "none": Source()}}, "the sources 'ids' and 'none' are the same"),
        (
            {"sources": {"ids": None, "courier": Source(run="r"), "again": Source(run="r")}},
            r"the sources 'courier' and 'again' are the same \(run: r, weights: trained\); remove one",
        ),
        ({"primary": Primary("scl")}, "primary.against is 'scl'"),
        ({"primary": Primary("ids", model="din")}, "primary.model is 'din'"),
        ({"out": ""}, "--out are needed"),
    ],
)
def test_wrong_settings_are_named(changed, message):
    with pytest.raises(UserError, match=message):
        Settings(**{"out": "o", "dataset": "d", **MINIMAL, **changed})


def test_a_missing_table_names_the_command(world, tmp_path):
    settings = Settings(
        out=str(tmp_path / "out"),
        dataset=str(world.folder),
        sources={"ids": None, "courier": Source(table=str(tmp_path / "none"))},
    )
    with pytest.raises(UserError, match=r"accelerate launch pretrain/export\.py"):
        compare(settings, "")


def test_named_forms_and_models_change_the_settings_of_their_cells(tmp_path):
    settings = Settings(
        **MINIMAL,
        out="o",
        dataset="d",
        forms={"vector": None, "ad image alone": {"form": "vector", "behaviour_images": False, "hidden": [8]}},
        models={"wide": {"name": "dicm", "hidden": [400, 80]}},
        seeds=[3],
    )
    ids, joint, alone = plan(settings, {"ids": {}, "courier": {0: tmp_path}})
    assert {cell.model for cell in (ids, joint, alone)} == {"wide"} and ids.form == "none"
    assert ids.training.model == ModelSettings("dicm", hidden=(400, 80))
    assert joint.training.image == settings.training.image
    assert alone.training.image == replace(settings.training.image, behaviour_images=False, hidden=(8,))


def test_the_former_name_of_ctr_seeds_still_counts():
    assert Settings(**MINIMAL, out="o", dataset="d", ctr_seeds=[0, 1], seeds=[5]).ctr_seeds == [5]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [(0, 4), (2, 5), (0, 6)]),
        ({"design": "crossed"}, [(0, 4), (2, 4), (0, 5), (2, 5), (0, 6), (2, 6)]),
    ],
)
def test_each_design_runs_its_cells(tmp_path, changes, expected):
    settings = Settings(**MINIMAL, out="o", dataset="d", ctr_seeds=[4, 5, 6], **changes)
    cells = plan(settings, {"ids": {}, "courier": {0: tmp_path / "0", 2: tmp_path / "2"}})
    assert [(cell.encoder, cell.seed) for cell in cells if cell.source == "courier"] == expected
    assert [(cell.encoder, cell.seed) for cell in cells if cell.source == "ids"] == [(0, 4), (0, 5), (0, 6)]
    assert all(cell.table == tmp_path / str(cell.encoder) for cell in cells if cell.source == "courier")


def test_a_cell_that_another_comparison_makes_meanwhile_is_taken(world, tables, tmp_path, monkeypatch):
    data = load_ctr_data(world.folder, DataSettings(history=4))
    training = TrainingSettings(data.settings, optim=OptimSettings(batch_size=512))
    mine, theirs = (Cell("courier", "vector", "dicm", seed, tables / "planted", training) for seed in (0, 1))
    fit, fitted = downstream.comparison.cells.fit, []

    def fit_while_another_runs(*given, **options):
        fitted.append(given)
        folder = tmp_path / cell_digest(theirs, data)
        folder.mkdir()
        (folder / "row.json").write_text('{"by": "another"}')
        np.save(folder / "test_scores.npy", np.zeros(3))
        return fit(*given, **options)

    monkeypatch.setattr(downstream.comparison.cells, "fit", fit_while_another_runs)
    rows = run_cells([mine, theirs], tmp_path, data, 1, progress_bar(shown=False))
    assert len(fitted) == 1 and rows[1].record == {"by": "another"} and "by" not in rows[0].record


def test_two_workers_find_what_one_process_finds(world, tables, tmp_path):
    data = load_ctr_data(world.folder, DataSettings(history=4))
    training = TrainingSettings(data.settings, optim=OptimSettings(batch_size=512))
    cells = [Cell("courier", "vector", "dicm", seed, tables / "planted", training) for seed in (0, 1)]
    alone, together = (
        run_cells(cells, tmp_path / str(workers), data, workers, progress_bar(shown=False)) for workers in (1, 2)
    )
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.test_scores, other.test_scores)
        assert one.record["metrics"] == other.record["metrics"]


def test_what_decides_a_cell_is_in_its_digest(world, tables):
    data = load_ctr_data(world.folder, DataSettings(history=4))
    base = Cell("courier", "vector", "dicm", 0, tables / "planted", TrainingSettings(data.settings))
    others = [
        replace(base, seed=1),
        replace(base, table=tables / "random"),
        replace(base, table=None),
        replace(base, training=replace(base.training, optim=OptimSettings(lr=0.1))),
        replace(base, training=replace(base.training, image=ImageSettings(size=3))),
        replace(base, training=replace(base.training, model=ModelSettings(hidden=(9,)))),
    ]
    assert len({cell_digest(cell, data) for cell in [base, *others]}) == 7
    assert cell_digest(replace(base, source="another name"), data) == cell_digest(base, data)
