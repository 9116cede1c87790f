"""Records of runs that former versions wrote, in today's words: settings, log lines, summaries."""

from __future__ import annotations

from typing import Any

from pretrain.encoder.families import ENCODERS, split_name
from pretrain.objectives import OBJECTIVES

# Slices were called by whether items are in training: seen (now warm) and unseen (now cold).
SLICES = {"seen": "warm", "unseen": "cold"}
LOG_KEYS = {f"valid_page_auc_{old}": f"valid_page_auc_{new}" for old, new in SLICES.items()}


def _renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}


def _option_names(plugin: type) -> set[str]:
    """Names of a plug-in's options; none for one without."""
    settings = getattr(plugin, "Settings", None)
    return set(settings.__dataclass_fields__) if settings else set()


def _encoder(made: dict[str, Any]) -> dict[str, Any]:
    """``pretrained`` (true, or an open_clip tag) and ``arguments`` were shared; now they are the family's options."""
    family, name = split_name(made.get("family", "timm"), made.get("name", "test_byobnet"))
    values = {key: value for key, value in made.items() if key not in ("pretrained", "arguments", *ENCODERS)}
    former = {key: made[key] for key in ("pretrained", "arguments") if key in made}
    if family == "open_clip" and "pretrained" in former:
        former["tag"] = former.pop("pretrained") or None
    elif "pretrained" in former:
        former["pretrained"] = bool(former["pretrained"])
    options = former | made.get(family, {})
    return {**values, "family": family, "name": name, **({family: options} if options else {})}


def _objective(made: dict[str, Any]) -> dict[str, Any]:
    """COURIER's options and the temperature were shared by all objectives; now they are each objective's own."""
    name = made.get("name", "courier")
    known = _option_names(OBJECTIVES[name])
    former = {key: value for key, value in made.items() if key in known and key not in OBJECTIVES}
    if name != "courier":
        former = {key: former[key] for key in ("temperature", "learn_temperature") if key in former}
    options = former | made.get(name, {})
    guards = {"guards": made["guards"]} if "guards" in made else {}
    parts = {key: made[key] for key in made.get("sum", {}).get("weights", {}) if key in made and name == "sum"}
    return {"name": name, **guards, **parts, **({name: options} if options else {})}


def _batch(made: dict[str, Any]) -> dict[str, Any]:
    """``lanes`` are shard streams; 0 meant one a loader process."""
    values = {key: value for key, value in made.items() if key != "lanes"}
    if "lanes" in made:
        values["shard_streams"] = made["lanes"] or max(made.get("workers", 1), 1)
    return values


def upgrade_settings(made: dict[str, Any]) -> dict[str, Any]:
    """The settings of ``run.json`` in today's sections; without the world, whose shards ``data`` names.

    What had no effect on the run (options of other objectives and families) is dropped.
    """
    made = {name: value for name, value in made.items() if name != "world"}
    if "encoder" in made:
        made["encoder"] = _encoder(made["encoder"])
    if "objective" in made:
        made["objective"] = _objective(made["objective"])
    if "batch" in made:
        made["batch"] = _batch(made["batch"])
    if "choose_on" in made.get("evaluation", {}):
        choose_on = made["evaluation"]["choose_on"]
        made["evaluation"] = made["evaluation"] | {"choose_on": SLICES.get(choose_on, choose_on)}
    return made


def upgrade_log_line(line: dict[str, Any]) -> dict[str, Any]:
    """A line of ``log.jsonl``."""
    return _renamed(line, LOG_KEYS)


def upgrade_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """What ``summary.json`` says."""
    validation = [_renamed(line, SLICES) for line in summary.get("validation", [])]
    return summary | {"page_auc": _renamed(summary["page_auc"], SLICES), "validation": validation}
