"""What several tests of pre-training share: a finished run of seconds."""

import pytest

from tests.pretrain.run_helpers import run, settings


@pytest.fixture(scope="session")
def finished(tiny_world, tmp_path_factory):
    """A finished run's folder and summary; nobody changes it."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, run(settings(tiny_world / "shards", out))
