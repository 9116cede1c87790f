"""Plans from a short trial, checked against the arithmetic and against a machine of known speed."""

import subprocess
import sys
import time

import pytest
import torch

from data_tools.sharding.read import open_shards
from pretrain.data.transforms import plain_transform
from pretrain.export import Settings as Export
from pretrain.export import export
from pretrain.runtime.cpu import COMPILED
from pretrain.runtime.trial import Trial, encode_rate, try_out
from pretrain.settings import Encoder
from pretrain.settings import Settings as Train
from pretrain.train import train

ENCODER = Encoder(name="test_byobnet", dimensions=8, image_size=32)


def trial(**changed):
    given = {"decode_rate": 100.0, "encode_rate": 400.0, "cores": 4, "workers": 4, "processes": 1, "device": "cpu"}
    return Trial("job", 3600, **{**given, **changed}, memory=2**30, written=10**6)


def test_on_a_cpu_decoding_and_encoding_share_the_cores():
    # 1/100 s of a core to decode, 4/400 s to encode: 4 cores do 200 a second.
    assert trial().rate == pytest.approx(200)
    assert trial(processes=2).rate == pytest.approx(400)


def test_with_a_gpu_the_slower_side_bounds():
    assert trial(device="GPU").rate == pytest.approx(400)
    assert trial(device="GPU", workers=2).rate == pytest.approx(200)
    assert "decoding bounds: store pictures at the size they are used" in trial(device="GPU", workers=2).lines()[2]
    assert "encoding bounds" in trial(device="GPU", encode_rate=100.0).lines()[2]
    assert "about 0.01 hours at 200 images/s, 1.0 MB written" in trial(device="GPU", workers=2).lines()[4]


def test_the_encoder_is_timed_alone():
    rate = encode_rate(lambda images: time.sleep(len(images) / 500), torch.zeros(3, 3, 8, 8), batch=25)
    assert 250 < rate <= 500


def test_the_trial_decodes_pictures_of_the_shards(shards):
    seen = []
    found = try_out(
        "job",
        open_shards(shards),
        plain_transform(24),
        lambda images: seen.append(images.shape),
        images=160,
        batch=200,
        workers=2,
        processes=1,
        written=0,
    )
    assert set(seen) == {(200, 3, 24, 24)}
    assert 1 < found.decode_rate < 1e6 and found.memory > 2**20


def test_a_dry_run_writes_nothing(tiny_world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards = str(tiny_world / "shards")
    plan = export(Export(data=shards, out="table", encoder=ENCODER, dry_run=True))["plan"]
    assert plan[0] == "export: 160 pictures"
    vectors = 160 * 4 * 256  # features of the tower in float32
    assert plan[-1].endswith(f"{vectors / 1e6:,.1f} MB written")
    plan = train(Train(data=shards, out="run", encoder=ENCODER, dry_run=True))["plan"]
    assert plan[0].startswith("training, 200 steps")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_convolutions_are_compiled_once_for_each_number_of_pictures(monkeypatch):
    monkeypatch.setenv("ONEDNN_VERBOSE", "2")
    monkeypatch.delenv(COMPILED[0], raising=False)
    code = """
import torch
from pretrain.runtime.cpu import keep_compiled_convolutions

keep_compiled_convolutions()
convolution = torch.nn.Conv2d(8, 8, 3)
for _ in range(2):
    print("round")
    for count in range(2, 540):  # forward and backward: more than oneDNN keeps by itself
        convolution(torch.zeros(count, 8, 4, 4)).sum().backward()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = (part.count("create:cache_miss") for part in done.stdout.split("round\n")[1:])
    assert first > 1024 and not second
