import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file

from data_tools.common.cli import UserError
from data_tools.common.files import read_json, write_json
from data_tools.common.tensors import write_tensors
from pretrain import export_encoder as exporting
from pretrain.encoder.image_encoder import build_encoder
from pretrain.export_encoder import Settings, export_encoder
from pretrain.settings import Encoder


def run_of(folder, **named):
    """A run folder that holds an encoder; returns the encoder."""
    torch.manual_seed(0)
    named = {"dimensions": 8, "image_size": 32, **named}
    encoder = build_encoder(Encoder(**named)).eval()
    write_tensors(folder / "best.safetensors", encoder.state_dict())
    write_json(folder / "run.json", {"settings": {"encoder": named}})
    return encoder


def pictures(count=5):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)


@pytest.mark.parametrize("name", ["test_byobnet", "mobilenetv2_100", "test_convnext"])
def test_timm_loads_the_weights_and_gives_the_embeddings(name, tmp_path):
    encoder = run_of(tmp_path, name=name)
    export_encoder(Settings(run=str(tmp_path), out=str(tmp_path / "out"), onnx=False))
    said = read_json(tmp_path / "out" / "encoder.json")
    model = timm.create_model(
        said["name"], checkpoint_path=str(tmp_path / "out" / "model.safetensors"), **said["arguments"]
    ).eval()
    images = pictures()
    mean, std = (torch.tensor(said["preprocessing"][key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(model((images / 255 - mean) / std), encoder(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dimensions", [8, 0])
def test_open_clip_loads_its_tower_and_torch_the_linear_layer(dimensions, tmp_path):
    encoder = run_of(tmp_path, name="open_clip:ViT-S-32-alt", dimensions=dimensions)
    export_encoder(Settings(run=str(tmp_path), out=str(tmp_path / "out"), onnx=False))
    said = read_json(tmp_path / "out" / "encoder.json")
    assert said["dimensions"] == encoder.dimensions
    tower = open_clip.create_model(said["name"].removeprefix("open_clip:"), **said["arguments"]).visual.eval()
    tower.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    head = torch.nn.Identity()
    if dimensions:
        state = load_file(tmp_path / "out" / "head.safetensors")
        head = torch.nn.Linear(*state["weight"].T.shape)
        head.load_state_dict(state)
    images = pictures()
    mean, std = (torch.tensor(said["preprocessing"][key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(head(tower((images / 255 - mean) / std)), encoder(images), rtol=1e-4, atol=1e-5)
    assert (tmp_path / "out" / "head.safetensors").exists() == bool(dimensions)


@pytest.mark.slow
def test_onnx_gives_the_embeddings_of_any_number_of_pictures(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder = run_of(tmp_path, name="test_byobnet")
    export_encoder(Settings(run=str(tmp_path), out=str(tmp_path / "out")))
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "encoder.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 7):
        images = pictures(count)
        with torch.no_grad():
            expected = encoder(images).numpy()
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, rtol=1e-3, atol=1e-5)


def test_a_file_that_differs_is_not_left_behind(tmp_path, monkeypatch):
    run_of(tmp_path, name="test_byobnet")
    monkeypatch.setattr(exporting, "difference", lambda *_: 0.5)
    with pytest.raises(UserError, match="gives other embeddings"):
        export_encoder(Settings(run=str(tmp_path), out=str(tmp_path / "out"), onnx=False))
    assert not (tmp_path / "out").exists()


def test_choosing_a_factor_needs_shards():
    with pytest.raises(UserError, match="--data"):
        Settings(run="R", out="O", wise_ft="validation", onnx=False)
