"""What accelerate cannot start with ends in one message, in the words of accelerate and with what to look at."""

import os
import subprocess
import sys

import pytest

from data_tools.common.errors import UserError
from data_tools.common.launch import as_launched


@pytest.mark.parametrize("kind", [ValueError, ImportError, RuntimeError])
def test_what_accelerate_says_is_passed_on(kind):
    with (
        pytest.raises(UserError, match=r"configured to: no such precision\. Look at .*accelerate launch"),
        as_launched(),
    ):
        raise kind("no such precision\nat line 3")


@pytest.mark.parametrize(
    ("module", "wrong", "said"),
    [
        (
            "downstream.train",
            {"ACCELERATE_TORCH_DEVICE": "nonsense"},
            "device type at start of device string: nonsense",
        ),
        ("pretrain.export", {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "`MASTER_ADDR` env was not set"),
    ],
)
def test_variables_that_do_not_fit_end_a_command_with_a_message(module, wrong, said, tmp_path):
    arguments = {"downstream.train": ["--dataset=x"], "pretrain.export": ["--data=x"]}[module]
    kept = {name: value for name, value in os.environ.items() if name not in ("MASTER_ADDR", "MASTER_PORT")}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments, f"--out={tmp_path / 'out'}"],
        env={**kept, "CUDA_VISIBLE_DEVICES": "", **wrong},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        done.stderr.startswith("error: accelerate cannot start with what it is configured to:") and said in done.stderr
    )
