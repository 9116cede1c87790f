import dataclasses
import io
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from data_tools import world as command
from data_tools.common.cli import UserError
from data_tools.common.files import read_json
from data_tools.dataset.schema import open_dataset
from data_tools.simulation import photos, render
from data_tools.simulation.attributes import plant, total_taste
from data_tools.simulation.behaviour import simulate
from data_tools.simulation.catalogue import planted_vectors
from data_tools.simulation.make import make_world
from data_tools.simulation.oracle import within_page_auc
from data_tools.simulation.photos import measure, photo_catalogue, strip_words
from data_tools.simulation.settings import World
from data_tools.tables.table import read_table

FASHION = Path("../shared/data/fashion-photos")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of 240 "photographs" of four types, one of them rare, under column names of its own."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "pictures").mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(240):
        kind = "lamp" if number < 10 else ("shirt", "bag", "mug")[number % 3]
        shade, pattern = rng.choice(render.COLOURS), rng.choice(render.PATTERNS)
        picture = render.render(kind, shade, pattern, "regular", size=40, seed=number)
        (folder / "pictures" / f"{number}.jpg").write_bytes(render.encode(picture))
        rows.append((f"{number:03}", f"pictures/{number}.jpg", f"Fancy {shade.title()} {kind}", kind, shade, pattern))
    pl.DataFrame(rows, ["sku", "file", "name", "category", "shade", "pattern"], orient="row").write_csv(
        folder / "items.csv"
    )
    return folder


@pytest.fixture(scope="module")
def world(folder):
    return World(
        photos=str(folder),
        photo_columns="item_id=sku,image=file,title=name",
        photo_colour="shade",
        photo_attributes="pattern",
        items=200,
        users=60,
        requests=1500,
        days=10,
        rare=20,
    )


def catalogue_of(world):
    return photo_catalogue(world, np.random.default_rng(0))


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_measures_of_a_known_picture():
    pixels = np.full((40, 40, 3), 255)
    pixels[10:30, 5:25] = [200, 0, 0]
    texture, lightness, saturation, cover, *colour = measure(png(pixels))
    assert texture == 0
    assert cover == pytest.approx(400 / 1600)
    assert saturation == 1
    assert lightness == pytest.approx(0.2126 * 200 / 255)
    assert colour == pytest.approx([200 / 255, 0, 0])
    pixels[10:30, 5:25] = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 200, (10, 10, 1)), 2, 0), 2, 1)
    assert measure(png(pixels))[0] > 0.05


@pytest.mark.parametrize("pixels", [np.full((30, 20, 3), 255), np.full((1, 1, 3), 7), np.zeros((300, 2, 3))])
def test_pictures_of_nothing_are_measured_too(pixels):
    assert np.isfinite(measure(png(pixels))).all()


def test_catalogue_follows_the_item_list(folder, world):
    listed = pl.read_csv(folder / "items.csv", schema_overrides={"sku": pl.String}).rows_by_key("sku", unique=True)
    catalogue = catalogue_of(world)
    assert len(set(catalogue.ids)) == len(catalogue) == 200
    assert set(catalogue.categories) == {"shirt", "bag", "mug", "other"}
    for item, name in enumerate(catalogue.ids):
        _, _, kind, shade, _ = listed[name]
        assert catalogue.categories[catalogue.category[item]] == ("other" if kind == "lamp" else kind)
        assert catalogue.titles[item].startswith(f"Fancy {kind} by ")
        assert shade not in catalogue.titles[item].lower()
    full = catalogue_of(dataclasses.replace(world, photo_titles="full"))
    assert all(listed[name][3] in title.lower() for name, title in zip(full.ids, full.titles, strict=True))


def test_words_are_stripped_whole_and_in_any_case():
    assert strip_words("Puma NAVY Blue & Redux T-shirt", {"navy", "blue", "red"}) == "Puma Redux T-shirt"


def test_planted_vectors_multiply_to_the_covariance_of_tastes(world):
    """What "a perfect visual embedding" claims, by Monte Carlo over many users."""
    catalogue = catalogue_of(world)
    users, items = 20_000, np.arange(40)
    tastes = plant(catalogue.visible, users, np.random.default_rng(1))
    rows = [total_taste(catalogue.visible, tastes, np.arange(users), np.full(users, item)) for item in items]
    vectors = planted_vectors(catalogue)[:40]
    np.testing.assert_allclose(np.cov(rows), vectors @ vectors.T, atol=0.08)
    assert np.mean((planted_vectors(catalogue) ** 2).sum(axis=1)) == pytest.approx(1, abs=0.1)


def test_measured_attributes_are_standardised_and_follow_the_pictures(folder, world):
    catalogue = catalogue_of(world)
    for column, name in enumerate(photos.MEASURED):
        amounts = catalogue.visible[name].amounts
        assert amounts.mean() == pytest.approx(0, abs=0.05)
        assert amounts.std() == pytest.approx(1)
        raw = [measure((folder / image).read_bytes())[column] for image in catalogue.images[:60]]
        order = np.argsort(raw)
        assert (np.diff(amounts[:60][order]) >= 0).all()


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0.47, 0.53), (1.0, 0.6, 0.9)])
def test_visual_share_says_what_pictures_are_worth(world, share, low, high):
    """Mean planted similarity to the other items a user clicked ranks a page view only where taste is visible."""
    catalogue, log = simulate(dataclasses.replace(world, visual_share=share, requests=6000))
    vectors = planted_vectors(catalogue)
    clicked = np.zeros((world.users, len(catalogue)))
    np.add.at(clicked, (log["user"].to_numpy(), log["item"].to_numpy()), log["click"].to_numpy())
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, 0)
    score = (clicked @ likeness)[log["user"].to_numpy(), log["item"].to_numpy()]
    assert low < within_page_auc(log.with_columns(score=pl.Series(score)), "score", "click") < high


def test_a_photo_world_is_a_whole_world(world, tmp_path):
    world = dataclasses.replace(world, requests=300)
    made = make_world(world, tmp_path / "world", requests_per_shard=64)
    dataset = open_dataset(made / "dataset")
    assert dataset.info["world"]["photos"] == world.photos
    assert dataset.items["image"].null_count() == 0
    assert read_table(made / "planted").ids == dataset.items["item_id"].to_list()
    assert read_json(made / "shards" / "index.json")


def test_photographs_that_cannot_be_read_are_dropped_or_stop_the_job(folder, world, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    world = dataclasses.replace(world, photos=str(copy), items=240)
    for number in range(3):
        (copy / "pictures" / f"{number}.jpg").write_bytes(b"<html>")
    assert len(catalogue_of(world)) == 237
    for number in range(20):
        (copy / "pictures" / f"{number}.jpg").unlink(missing_ok=True)
    with pytest.raises(UserError, match="20 of 240 photographs"):
        catalogue_of(world)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photos": "nowhere"}, "does not exist"),
        ({"photo_colour": "hue"}, "no column 'hue'"),
        ({"photo_columns": "item_id=skew,image=file"}, "no column 'skew'"),
    ],
)
def test_mistakes_are_reported(world, change, message):
    with pytest.raises(UserError, match=message):
        catalogue_of(dataclasses.replace(world, **change))


@pytest.mark.skipif(not FASHION.is_dir(), reason="the shared fashion photographs are not here")
def test_fashion_photographs_take_no_settings():
    catalogue = catalogue_of(World(photos=str(FASHION), items=300))
    assert len(catalogue) == 300
    assert {"baseColour", "texture", "lightness", "saturation", "cover"} == set(catalogue.visible)
    assert not any("blue" in title.lower() for title in catalogue.titles)


def test_a_mistake_leaves_no_mark_of_a_world(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        make_world(World(photos="nowhere"), tmp_path / "world")
    assert not (tmp_path / "world" / "world.json").exists()


def test_photos_on_the_command_line_are_the_worlds(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(command, "make_world", lambda world, folder: made.append((world, folder)))
    argv = ["world", "--photos", "pictures", "--world.items", "7", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    command.main()
    assert made == [(World(photos="pictures", items=7), str(tmp_path))]
