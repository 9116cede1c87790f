"""The precision: what the setting says, then what accelerate launch was asked for, then what a trial finds faster."""

import pytest

from pretrain.runtime import precision
from pretrain.runtime.precision import choose_precision, precision_note


@pytest.mark.parametrize("asked", ["bf16", "fp16"])
def test_auto_is_what_the_launcher_was_asked_for(monkeypatch, asked):
    monkeypatch.setenv(precision.LAUNCHED, asked)
    assert choose_precision(None, "auto", 32) == asked and not precision_note(asked)
    assert choose_precision(None, "fp32", 32) == "fp32"


@pytest.mark.parametrize("asked", ["bf16", "fp8"])
def test_another_precision_than_the_launcher_was_asked_for_is_said(monkeypatch, asked):
    monkeypatch.setenv(precision.LAUNCHED, asked)
    assert f"asked for {asked}, but fp32 is used: --optim.precision decides" in precision_note("fp32")


@pytest.mark.parametrize("asked", [None, "no"])
def test_a_launcher_that_was_asked_for_nothing_is_not_mentioned(monkeypatch, asked):
    monkeypatch.delenv(precision.LAUNCHED, raising=False)
    if asked:
        monkeypatch.setenv(precision.LAUNCHED, asked)
    assert not precision_note("bf16") and not precision_note("fp32")
