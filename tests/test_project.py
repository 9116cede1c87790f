"""What the front page and the configurations promise."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from data_tools.common.cli import parse_settings
from data_tools.common.parser import Parser
from pretrain.settings import Settings as Pretrain

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*/*.yaml"))

COMMANDS = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in ("data_tools", "pretrain", "downstream")
    for file in sorted((ROOT / package).glob("*.py"))
    if "run_command(main)" in file.read_text(encoding="utf-8")
]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = sorted(path for path in ROOT.rglob("*.md") if not {"runs", ".venv", "venv"} & {*path.relative_to(ROOT).parts})
OF_OTHERS = ("pip", "pytest", "accelerate config")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page=ROOT / "README.md"):
    """The commands of a page, a line each, as they would be typed."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line.strip() for line in lines if line.strip()]


def programs(page):
    """Module and arguments of each command of this project."""
    for line in commands(page):
        for command in line.split(" && "):
            if command.startswith(OF_OTHERS):
                continue
            words = shlex.split(command)
            place = next(n for n, word in enumerate(words) if word == "-m" or word.endswith(".py"))
            if words[place] == "-m":
                yield words[place + 1], words[place + 2 :]
            else:
                yield words[place].removesuffix(".py").replace("/", "."), words[place + 1 :]


def test_the_front_page_has_exactly_two_set_up_commands():
    assert [command for command in commands() if "pip install" in command] == [
        "pip install -e . && accelerate launch pretrain/train.py",
        "pip install -e '.[test]' && pytest",
    ]


def settings_of(module):
    """The settings class that a command parses."""
    command = importlib.import_module(module)
    return getattr(command, re.search(r"parse_settings\((\w+)", Path(command.__file__).read_text(encoding="utf-8"))[1])


@pytest.mark.parametrize("module", COMMANDS)
def test_every_setting_is_explained(module):
    """Of plug-ins, too."""
    settings = [action for action in Parser.of(settings_of(module), "")._actions if hasattr(action, "_typehint")]
    assert settings and not [action.dest for action in settings if not action.help]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_configuration_is_accepted(config):
    header = config.read_text(encoding="utf-8").splitlines()[0]
    program = re.search(r"python -m ([\w.]+)", header)
    settings = settings_of(program[1]) if program else Pretrain
    needed = [name for name in ("dataset", "out") if f"--{name} " in header]
    flags = [word for name in needed for word in (f"--{name}", name)]
    assert isinstance(parse_settings(settings, "", ["--config", str(config), *flags]), settings)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_configuration_starts_with_its_command(config):
    header = config.read_text(encoding="utf-8").splitlines()[0]
    assert header.startswith(("# accelerate launch pretrain/train.py", "# python -m downstream."))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_of_a_page_is_understood(page, tmp_path):
    written = next(block for block in blocks(ROOT / "docs" / "vectors-instead-of-pictures.md", "yaml"))
    (tmp_path / "compare.yaml").write_text(written)
    for module, arguments in programs(page):
        for place, word in enumerate(arguments):
            if word == "--config":
                own = ROOT / arguments[place + 1]
                arguments[place + 1] = str(own if own.exists() else tmp_path / "compare.yaml")
        settings = settings_of(module)
        assert isinstance(parse_settings(settings, "", arguments), settings)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        place, _, heading = target.partition("#")
        if "://" in target:
            continue
        file = page.parent / place if place else page
        assert file.exists(), f"{page.name} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


def test_the_architecture_names_every_folder():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for package in ("data_tools", "pretrain", "downstream"):
        for folder in sorted(path.parent for path in (ROOT / package).glob("*/__init__.py")):
            assert f"`{folder.name}/`" in text, f"{package}/{folder.name} is not in ARCHITECTURE.md"


def test_the_site_lists_every_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^  - .*: (\S+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize(("page", "most"), [("README.md", 120), ("results/README.md", 150)])
def test_a_busy_readers_page_stays_short(page, most):
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= most


def test_flags_win_over_the_configuration_wherever_they_stand(tmp_path):
    (tmp_path / "run.yaml").write_text("seed: 3\nout: elsewhere\n")
    given = ["--out", "mine", "--config", str(tmp_path / "run.yaml"), "--optim.steps=7"]
    settings = parse_settings(Pretrain, None, given)
    assert (settings.out, settings.seed, settings.optim.steps) == ("mine", 3, 7)
