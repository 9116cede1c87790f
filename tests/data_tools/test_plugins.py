"""Plug-ins with options of their own: sections, flags, help, and what is refused."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest
from jsonargparse.typing import PositiveInt

from data_tools.common.checks import Checked, FromTwo
from data_tools.common.cli import UserError, parse_settings
from data_tools.common.plugins import Registry, options_of, refuse_unused, with_plugins


class Histogram:
    """Counts of cosines.

    More text, for readers of the code.
    """

    @dataclass(frozen=True)
    class Settings(Checked):
        """Options of the histogram.

        Attributes
        ----------
        bins : int
            Bins of equal width.
        """

        bins: FromTwo = 20


class Plain:
    """No options."""


FORMS = Registry("form", "visual_interest.test_forms", {"histogram": Histogram, "plain": Plain})


@dataclass(frozen=True)
class Images(Checked):
    """How images enter.

    Attributes
    ----------
    form : str
        Which form.
    scale : str
        How large.
    """

    form: str = "histogram"
    scale: Literal["small", "large"] = "small"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unused(self, "image", {self.form})


Images = with_plugins(Images, __name__, form=FORMS)


@dataclass(frozen=True)
class Settings:
    """A command.

    Attributes
    ----------
    steps : int
        How many.
    image : Images
        How images enter.
    """

    steps: PositiveInt = 1
    image: Images = field(default_factory=Images)


def parse(*flags: str) -> Settings:
    return parse_settings(Settings, "A command.", flags)


def test_a_plug_ins_options_are_a_section_of_flags_and_yaml(tmp_path):
    assert parse("--image.histogram.bins", "7").image.histogram.bins == 7
    (tmp_path / "c.yaml").write_text("image: {histogram: {bins: 9}}\n")
    assert parse("--config", str(tmp_path / "c.yaml")).image.histogram.bins == 9
    assert parse().image == Images()
    assert options_of(parse().image, "plain") is None


def test_the_made_section_can_be_pickled():
    settings = parse("--image.histogram.bins", "7")
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_options_of_a_plug_in_that_is_not_chosen_are_refused():
    with pytest.raises(UserError, match=r"--image\.histogram\.bins is 7, but image\.form is 'plain'.*form histogram"):
        parse("--image.form", "plain", "--image.histogram.bins", "7")


@pytest.mark.parametrize("flags", [("--image.histogram.bins", "1"), ("--image.scale", "huge"), ("--steps", "0")])
def test_a_value_out_of_range_is_refused(flags, capsys):
    with pytest.raises(SystemExit):
        parse(*flags)
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--steps", "0"], "--steps is 0; must be > 0"),
        (["--steps", "many"], "--steps is many; must be a whole number > 0"),
        (["--steps", "1.5"], "--steps is 1.5; must be a whole number > 0"),
        (["--image.scale", "huge"], "--image.scale is huge; choose one of small, large"),
        (["--image.histogram.bins", "1"], "--image.histogram.bins is 1; must be >= 2"),
        (["--image.histgram.bins", "3"], "unknown setting image.histgram.bins; the nearest is image.histogram.bins"),
        (["--image", "3"], "--image is a section; set what it holds, as in --image.form VALUE"),
        (["--steps"], "--steps needs a value"),
        (["3"], "unexpected argument '3'; settings are given as --name VALUE"),
        (["--config", "none.yaml"], "none.yaml' does not exist"),
        (["--config", "bad.yaml"], "the configuration file is not valid YAML"),
        (["--config", "key.yaml"], "unknown setting image.scal; the nearest is image.scale"),
        (["--config", "type.yaml"], "must be a whole number > 0"),
    ],
)
def test_mistakes_are_explained_in_plain_words(flags, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("steps: [1")
    (tmp_path / "key.yaml").write_text("image: {scal: small}")
    (tmp_path / "type.yaml").write_text("steps: {a: 1}")
    with pytest.raises(SystemExit) as ended:
        parse(*flags)
    found = capsys.readouterr().err
    assert (ended.value.code == 2 and found.startswith(f"error: {said}")) or said in found
    assert "Parser key" not in found and "typing" not in found


def test_ranges_hold_in_python_too():
    with pytest.raises(UserError, match="bins is 1; must be >= 2"):
        Histogram.Settings(bins=1)
    with pytest.raises(UserError, match="scale is 'huge'; choose one of small, large"):
        Images(scale="huge")


def test_help_lists_plug_ins_and_shows_their_options_when_asked(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    said = capsys.readouterr().out
    assert "Counts of cosines" in said and "--image.histogram.bins" not in said
    with pytest.raises(SystemExit):
        parse("--image.histogram.help")
    said = capsys.readouterr().out
    assert "--image.histogram.bins" in said and "Bins of equal width" in said and "--steps" not in said
    with pytest.raises(SystemExit) as ended:
        parse("--image.histogran.help")
    assert ended.value.code == 2


def test_an_unknown_name_lists_those_known():
    with pytest.raises(UserError, match="unknown form 'hist'; choose one of histogram, plain"):
        FORMS["hist"]


PACKAGE = """
from dataclasses import dataclass
class Mine:
    '''A form of another package.'''
    @dataclass(frozen=True)
    class Settings:
        depth: int = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package with entry points; called with the lines of its entry-point group."""

    def install(lines: str) -> None:
        (tmp_path / "my_forms.py").write_text(PACKAGE)
        info = tmp_path / "my_forms-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-forms\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[visual_interest.test_forms]\n{lines}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "my_forms", raising=False)

    return install


def test_another_packages_plug_in_is_found_through_its_entry_point(package):
    package("mine = my_forms:Mine")
    forms = Registry("form", "visual_interest.test_forms", {"plain": Plain})
    assert sorted(forms) == ["mine", "plain"] and forms["mine"].Settings().depth == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [("mine = my_forms:Other", "AttributeError"), ("plain = my_forms:Mine", "two plug-ins are called form 'plain'")],
)
def test_a_broken_entry_point_is_named(package, line, said):
    package(line)
    forms = Registry("form", "visual_interest.test_forms", {"plain": Plain})
    with pytest.raises(UserError, match=said):
        forms["plain"]
