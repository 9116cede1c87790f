"""What a YAML file of settings may hold, checked before it is read: keys that exist, each once, and settings alone.

The parser below it has keys of its own (``config``, ``class_path``), takes the later of two equal keys without a word,
and refuses an empty file; here a file is text, tags and places, so that a message can name the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from data_tools.common.checks import expected
from data_tools.common.errors import UserError
from data_tools.common.parser import nearest

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
TEXT, NOTHING, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def holds_settings(path: str, known: Mapping[str, Any]) -> bool:
    """Whether a file holds any setting.

    Parameters
    ----------
    path : str
        The file.
    known : dict of str to type or None
        Dotted names of the settings, and their types.

    Raises
    ------
    UserError
        If it is no YAML file of settings by name, names one twice, gives one no value, or one that is not ``known``.
    """
    root = _read(path)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == NOTHING):
        return False
    if not isinstance(root, yaml.MappingNode):
        what = "a list" if isinstance(root, yaml.SequenceNode) else f"the text {root.value[:40]!r}"
        raise UserError(f"the configuration file {path} holds {what}; must be settings by name, as in 'out: PATH'")
    _refuse_repeated(root, path)
    top = {key.value for key, _ in root.value}
    try:
        found = list(_settings(root, "", known, path))
    except RecursionError:
        raise UserError(f"{path}: a mapping is merged into itself (<<)") from None
    for name, value, line in found:
        if name in top and name.split(".")[0] in top - {name}:
            raise UserError(
                f"{path}, line {line}: {name} is set outside the section {name.split('.')[0]}; set it inside"
            )
        if name not in known:
            near = f"the nearest is {nearest(name, list(known))}" if name != "config" else "name each file by --config"
            raise UserError(f"{path}, line {line}: unknown setting {name}; {near}")
        hint = known[name]
        if value.tag == NOTHING and hint is not None and type(None) not in get_args(hint):
            raise UserError(f"{path}, line {line}: {name} is empty; {expected(hint)}")
    return True


def _read(path: str) -> yaml.Node | None:
    """The tree of a file; None for one without content."""
    try:
        return yaml.compose(Path(path).read_text(encoding="utf-8-sig"), Loader=Loader)
    except UnicodeDecodeError as error:
        raise UserError(f"the configuration file is not UTF-8: {path}: {error.reason} at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        lines = mark and Path(path).read_text(encoding="utf-8-sig").splitlines()[mark.line : mark.line + 1]
        tab = " (a tab; YAML is indented by spaces)" if lines and lines[0][mark.column :].startswith("\t") else ""
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"the configuration file is not valid YAML: {path}{where}: {error.problem}{tab}") from None
    except yaml.YAMLError as error:
        raise UserError(f"the configuration file is not valid YAML: {path}: {str(error).splitlines()[0]}") from None


def _refuse_repeated(root: yaml.Node, path: str) -> None:
    """Refuse a key that one mapping has twice, at any depth, and a number that YAML reads in another base."""
    left, done = [root], set()
    while left:
        node = left.pop()
        if id(node) in done:
            continue
        if isinstance(node, yaml.ScalarNode):
            _refuse_other_base(node, path)
            continue
        done.add(id(node))  # aliases occur in several places, and may occur in themselves
        if isinstance(node, yaml.SequenceNode):
            left += node.value
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            left.append(value)
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{path}, line {line}: a list or mapping where a name is expected")
            if key.value in lines:
                raise UserError(f"{path}: {key.value!r} is set twice, in lines {lines[key.value]} and {line}; keep one")
            lines[key.value] = line


def _refuse_other_base(node: yaml.ScalarNode, path: str) -> None:
    """Refuse 010, which is 8 in YAML, and 1:30, which is 90."""
    if node.tag in NUMBERS and not node.style and re.fullmatch(r"[+-]?0[0-9_]+|[^:]+(:[^:]+)+", node.value):
        raise UserError(
            f"{path}, line {node.start_mark.line + 1}: YAML reads {node.value} as a number of another base; write a "
            "number without 0 in front and without colons, and a text in quotes"
        )


def _settings(
    node: yaml.MappingNode, prefix: str, known: Mapping[str, Any], path: str
) -> Iterator[tuple[str, yaml.Node, int]]:
    """Dotted name, value and line of each setting, of sections, too; a mapping may be the value of a setting."""
    for key, value in node.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if key.tag == MERGE:
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(merged, yaml.MappingNode):
                    yield from _settings(merged, prefix, known, path)
        elif key.tag != TEXT:
            raise UserError(f"{path}, line {line}: {key.value!r} is not the name of a setting")
        elif not (inner := next((one for one in known if one.startswith(f"{name}.")), None)):
            yield name, value, line
        elif isinstance(value, yaml.MappingNode):
            yield from _settings(value, f"{name}.", known, path)
        else:
            raise UserError(f"{path}, line {line}: {name} is a section; set what it holds, such as {inner}")
