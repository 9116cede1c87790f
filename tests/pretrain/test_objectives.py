"""The baselines against peers (lightly, open_clip) and against their formulas."""

import copy
from types import SimpleNamespace

import open_clip
import pytest
import torch
from torch.nn import functional as F

from data_tools.common.cli import UserError
from pretrain.data.records import categories
from pretrain.encoder.image_encoder import build_encoder
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.base import Context
from pretrain.objectives.clip import Titles
from pretrain.objectives.simsiam import GlobalBatchNorm
from pretrain.settings import Encoder

ENCODER = SimpleNamespace(dimensions=5)
SMALL_TEXT = {"context": 8, "width": 8, "layers": 1, "heads": 2}


def made(name, encoder=ENCODER, data=None, **options):
    torch.manual_seed(0)
    objective = OBJECTIVES[name]
    settings = objective.Settings(**options) if hasattr(objective, "Settings") else None
    return objective(settings, Context(encoder, data)).train()


@pytest.fixture
def embeddings():
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(3))


def test_simclr_equals_cross_entropy_over_the_other_views(embeddings):
    batch = {"image_item": torch.tensor([4, 7, 1, 2, 4, 7, 1, 2])}
    loss = made("simclr", temperature=0.2)(embeddings, batch)["simclr_loss"].loss
    unit = F.normalize(embeddings.double(), dim=-1)
    logits = (unit @ unit.T / 0.2).fill_diagonal_(float("-inf"))
    expected = F.cross_entropy(logits, torch.tensor([4, 5, 6, 7, 0, 1, 2, 3]))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_simclr_agrees_with_lightly(embeddings):
    peer = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.2)
    batch = {"image_item": torch.tensor([4, 7, 1, 2, 4, 7, 1, 2])}
    loss = made("simclr", temperature=0.2)(embeddings, batch)["simclr_loss"].loss
    torch.testing.assert_close(loss, peer(embeddings[:4], embeddings[4:]), rtol=1e-5, atol=0)


def test_simsiam_agrees_with_lightly(embeddings):
    peer = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    module = made("simsiam")
    loss = module(embeddings, {})["simsiam_loss"].loss
    projected = module.projector(embeddings)
    predicted = module.predictor(projected)
    first = peer(predicted[:4], projected[4:].detach())
    second = peer(predicted[4:], projected[:4].detach())
    torch.testing.assert_close(loss, (first + second) / 2, rtol=1e-5, atol=1e-6)


def test_simsiams_target_has_no_gradient(embeddings):
    module = made("simsiam")
    module.predictor = torch.nn.Identity()  # then all gradient to the projector comes through the predicted side
    module(embeddings, {})["simsiam_loss"].loss.backward()
    found = module.projector[0].weight.grad.clone()
    module.zero_grad()
    projected = module.projector(embeddings)
    (-F.cosine_similarity(projected, projected.detach().roll(4, 0)).mean()).backward()
    torch.testing.assert_close(module.projector[0].weight.grad, found)


def test_global_batch_norm_is_batch_norm_in_one_process(embeddings):
    peer = torch.nn.BatchNorm1d(5)
    torch.testing.assert_close(GlobalBatchNorm(5)(embeddings), peer(embeddings), rtol=1e-5, atol=1e-6)


def test_clip_agrees_with_open_clip(embeddings):
    module = made("clip", **SMALL_TEXT, temperature=0.1)
    records = [{"title": f"thing number {number}"} for number in range(8)]
    batch = Titles(None, 8)(records)
    text = module.text(batch["text"])
    peer = open_clip.ClipLoss()(F.normalize(embeddings, dim=-1), F.normalize(text, dim=-1), logit_scale=10.0)
    torch.testing.assert_close(module(embeddings, batch)["clip_loss"].loss, peer, rtol=1e-5, atol=0)


def test_clip_takes_no_title_and_the_same_title_for_what_they_are(embeddings):
    module = made("clip", **SMALL_TEXT)
    records = [{"title": "red hat"}, {"title": "blue hat"}, {"title": "red hat"}, {"title": None}]
    batch = Titles(None, 8)(records)
    assert batch["has_text"].tolist() == [True, True, True, False]
    found, chance = module(embeddings[:4], batch)["clip_loss"]
    assert float(chance) == pytest.approx(torch.tensor([2.0, 3, 2]).log().mean().item())
    text = F.normalize(module.text(batch["text"]).double(), dim=-1)
    unit = F.normalize(embeddings[:4].double(), dim=-1)
    values = []
    for row, rivals in ((0, [0, 1]), (1, [1, 0, 2]), (2, [2, 1])):
        for query, candidates in ((unit, text), (text, unit)):
            logits = candidates[rivals] @ query[row] / 0.05
            values.append(float((logits.logsumexp(0) - logits[0]).detach()))
    assert float(found.detach()) == pytest.approx(sum(values) / 6, rel=1e-5)


def test_clip_tunes_a_whole_open_clip_model_from_a_file(tmp_path):
    """Image and text embeddings of the start are the peer model's own."""
    torch.manual_seed(1)
    peer = open_clip.create_model("ViT-S-32-alt", force_image_size=32).eval()
    torch.save(peer.state_dict(), tmp_path / "whole.pth")
    file = str(tmp_path / "whole.pth")
    encoder = build_encoder(Encoder(name="open_clip:ViT-S-32-alt", weights=file, dimensions=0, image_size=32)).eval()
    module = made("clip", encoder, model="ViT-S-32-alt", weights=file).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    tokens = module.annotate([{"title": "a red hat"}, {"title": "shoes"}])["text"]
    with torch.no_grad():
        pixels = (images / 255 - encoder.mean) / encoder.std
        torch.testing.assert_close(encoder(images), peer.encode_image(pixels), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(module.text(tokens), peer.encode_text(tokens), rtol=1e-4, atol=1e-5)


def test_clip_refuses_a_text_tower_of_another_size():
    with pytest.raises(UserError, match="256 dimensions, the encoder's 5"):
        made("clip", model="ViT-S-32-alt")


def test_supervised_is_the_cross_entropy_of_known_categories(tiny_world):
    data = str(tiny_world / "shards")
    names = categories(data)
    module = made("supervised", SimpleNamespace(dimensions=5), data)
    embeddings = torch.randn(3, 5)
    batch = module.annotate([{"category": names[2]}, {"category": None}, {"category": names[0]}])
    assert batch["category"].tolist() == [2, -1, 0]
    shares = module.classifier(embeddings).double().softmax(1)
    expected = -(shares[0, 2].log() + shares[2, 0].log()).detach() / 2
    assert float(module(embeddings, batch)["supervised_loss"].loss.detach()) == pytest.approx(float(expected), rel=1e-5)


def scl_batch():
    return {
        "images": torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)),
        "image_item": torch.tensor([10, 11, 12, 13, 14, 15]),
        "history": torch.tensor([[0, 1], [-1, 2], [-1, -1]]),
        "page": torch.tensor([[2, 3, 4], [5, 0, 2], [1, 3, -1]]),
        "click": torch.tensor([[1.0, 0, 1], [1, 0, 1], [1, 0, 0]]),
    }


def test_scl_equals_the_formulas():
    torch.manual_seed(0)
    encoder = build_encoder(Encoder(dimensions=5, image_size=32))
    module = made("scl", encoder, temperature=0.1, queue=7, margin=0.4, triplet_weight=2.0)
    module.memory.key[:2], module.memory.item[:2] = F.normalize(torch.randn(2, 5), dim=-1), torch.tensor([12, 99])
    batch, embeddings = scl_batch(), torch.randn(6, 5)
    with torch.no_grad():
        keys = F.normalize(copy.deepcopy(encoder).eval()(batch["images"]).double(), dim=-1)
    unit = F.normalize(embeddings.double(), dim=-1)
    item = batch["image_item"].tolist()
    queue = list(zip([12, 99], module.memory.key[:2].double(), strict=True))
    pairs = [(1, 2), (1, 4), (2, 5), (2, 2)]  # latest click and clicked slot; the third row has no click before
    # the third row's click is no key: it belongs to no pair
    candidates = [(item[index], keys[index]) for index in (2, 4, 5, 2)] + queue
    values = []
    for anchor, positive in pairs:
        own = torch.exp(unit[anchor] @ keys[positive] / 0.1)
        rivals = [key for name, key in candidates if name not in (item[anchor], item[positive])]
        values.append(-torch.log(own / (own + sum(torch.exp(unit[anchor] @ key / 0.1) for key in rivals))))
    found = module(embeddings, batch)
    assert float(found["scl_loss"].loss) == pytest.approx(float(sum(values) / 4), rel=1e-4)
    triplets = [(1, 2, 3), (1, 4, 3), (2, 5, 0), (2, 2, 0)]
    losses = [max(0.0, 0.4 - float(unit[a] @ unit[p]) + float(unit[a] @ unit[n])) for a, p, n in triplets]
    assert float(found["triplet_loss"].loss) == pytest.approx(2 * sum(losses) / 4, rel=1e-5)


def test_scl_remembers_keys_and_moves_the_slow_encoder():
    torch.manual_seed(0)
    encoder = build_encoder(Encoder(dimensions=5, image_size=32))
    module = made("scl", encoder, queue=6, momentum=0.9)
    batch = scl_batch()
    module(torch.randn(6, 5), batch)
    assert module.memory.item.tolist() == [12, 14, 15, 12, -1, -1]
    module(torch.randn(6, 5), batch)
    assert module.memory.item.tolist() == [12, 14, 15, 12, 12, 14]
    before = module.memory.slow.head.weight.clone()
    with torch.no_grad():
        encoder.head.weight += 1.0
    module.after_step(encoder)
    torch.testing.assert_close(module.memory.slow.head.weight, before + 0.1)
    assert not module.memory.slow.training
