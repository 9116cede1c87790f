"""What accelerate cannot start with ends in one message, in the words of accelerate and with what to look at."""

import os
import subprocess
import sys

import pytest
from accelerate.state import AcceleratorState, PartialState

from data_tools.common.cli import run_command
from data_tools.common.errors import UserError
from data_tools.common.launch import as_launched
from downstream.train import main


@pytest.mark.parametrize("kind", [ValueError, ImportError, RuntimeError])
def test_what_accelerate_says_is_passed_on(kind):
    with (
        pytest.raises(UserError, match=r"configured to: no such precision\. Look at .*accelerate launch"),
        as_launched(),
    ):
        raise kind("no such precision\nat line 3")


SAID = "error: accelerate cannot start with what it is configured to:"


@pytest.fixture
def new_state():
    """accelerate as in a new process, and again after what it could not start with."""

    def forget():
        AcceleratorState._reset_state(True)
        PartialState._reset_state()

    forget()
    yield
    forget()


def test_a_device_that_does_not_exist_ends_a_command_with_a_message(new_state, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "nonsense")
    monkeypatch.setattr(sys, "argv", ["downstream.train", "--dataset=x", f"--out={tmp_path / 'out'}"])
    with pytest.raises(SystemExit, match="1"):
        run_command(main)
    said = capsys.readouterr().err
    assert said.startswith(SAID) and "device type at start of device string: nonsense" in said


def test_variables_that_do_not_fit_end_a_command_with_a_message(tmp_path):
    kept = {name: value for name, value in os.environ.items() if name not in ("MASTER_ADDR", "MASTER_PORT")}
    done = subprocess.run(
        [sys.executable, "-m", "pretrain.export", "--data=x", f"--out={tmp_path / 'out'}"],
        env={**kept, "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith(SAID) and "`MASTER_ADDR` env was not set" in done.stderr
