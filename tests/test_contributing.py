"""The worked example of CONTRIBUTING.md, word for word: a package with an aggregator, and its commands."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools.common.files import read_json
from tests.installed import install, run_series

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(language: str, first: str) -> str:
    """The code block that begins with a line."""
    found = [text for kind, text in re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL) if kind == language]
    return next(text for text in found if text.startswith(first))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Folder with the example installed."""
    folder = tmp_path_factory.mktemp("shop")
    install(folder, {"my_shop.py": block("python", "# my_shop.py")}, block("toml", "# pyproject.toml"))
    return folder


@pytest.fixture(scope="module")
def ended(shop, tiny_world):
    """How the example's training ended, that with its option alone, and its help."""
    places = {"my/dataset": tiny_world / "dataset", "my/table": tiny_world / "planted", "runs/decay": shop / "decay"}
    lines = block("sh", "python -m downstream.train --dataset").splitlines()
    (*python, command), (*_, helped) = (shlex.split(line)[:3] for line in lines)
    assert python == ["python", "-m"]
    flags, asked = ([str(places.get(word, word)) for word in shlex.split(line)[3:]] for line in lines)
    place = flags.index("--image.aggregator")
    return run_series(shop, [command, *flags], [command, *flags[:place], *flags[place + 2 :]], [helped, *asked])


def test_the_example_trains_with_its_option(shop, ended):
    assert ended[0].returncode == 0, ended[0].stderr
    settings = read_json(shop / "decay" / "summary.json")["settings"]
    assert settings["image"]["aggregator"] == "decay" and settings["image"]["decay"] == {"half_life": 5.0}


def test_its_option_alone_is_an_error(ended):
    assert ended[1].returncode == 1 and "--image.aggregator decay" in ended[1].stderr


def test_its_help_shows_the_option(ended):
    assert ended[2].returncode == 0 and "half_life" in ended[2].stdout
    assert "Clicks after which a click counts half" in ended[2].stdout


def test_the_example_sums_as_it_says(shop, monkeypatch):
    monkeypatch.syspath_prepend(str(shop))
    import my_shop

    pool = my_shop.Decay(3, my_shop.Decay.Settings(half_life=2.0), slots=4, query_size=1)
    rng = np.random.default_rng(0)
    clicked, mask = rng.normal(size=(2, 4, 3)), np.array([[True, True, False, True], [False] * 4])
    expected = [sum((0.5 ** (h / 2) * clicked[b, h] for h in range(4) if mask[b, h]), np.zeros(3)) for b in range(2)]
    found = pool(torch.tensor(clicked, dtype=torch.float32), torch.tensor(mask), torch.zeros(2, 3), torch.zeros(2, 1))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
