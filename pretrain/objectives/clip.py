"""CLIP: a catalogue picture and its title find each other (a generic baseline; arXiv 2103.00020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from jsonargparse.typing import PositiveInt
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from data_tools.common.cli import UserError
from pretrain.encoder.weights import load_weights
from pretrain.objectives.base import Context, Contrastive, Temperature
from pretrain.objectives.parts.losses import Term, info_nce
from pretrain.runtime.distributed import gather, rank


class Titles:
    """Records -> ``text`` (n, L), long tokens, and ``has_text`` (n,), bool: false where there is no title."""

    def __init__(self, model: str | None, context: int) -> None:
        self.tokenize = open_clip.get_tokenizer(model) if model else open_clip.SimpleTokenizer(context_length=context)

    def __call__(self, records: list[dict[str, Any]]) -> dict[str, Tensor]:
        titles = [record.get("title") or "" for record in records]
        return {"text": self.tokenize(titles), "has_text": torch.tensor([bool(title.strip()) for title in titles])}


class Clip(Contrastive):
    """A catalogue picture and its title find each other (CLIP, arXiv 2103.00020).

    The symmetric cross entropy of pictures and titles over the global batch, as in open_clip's ClipLoss.

    Items of the same title are no negatives of each other (ours): nothing in a title can tell them apart. Nor are
    near-duplicates, if the shards know such. Pictures without a title do not count.
    """

    batches = "items"
    views = 1

    @dataclass(frozen=True)
    class Settings(Temperature):
        """Options of clip: the text tower that titles go through.

        Attributes
        ----------
        model : str or None
            Open_clip model whose text tower and tokenizer are used; null makes a small one from scratch.
        weights : str or None
            Local file (.safetensors, or a .pth that holds tensors only) of that whole open_clip model.
        pretrained : str or None
            An open_clip tag, for weights from a hub.
        context : int
            Tokens of a title that are read (from scratch).
        width : int
            Of the text tower (from scratch).
        layers : int
            Of the text tower (from scratch).
        heads : int
            Of the text tower (from scratch).
        """

        model: str | None = None
        weights: str | None = None
        pretrained: str | None = None
        context: PositiveInt = 32
        width: PositiveInt = 128
        layers: PositiveInt = 2
        heads: PositiveInt = 4

    def __init__(self, options: Settings, context: Context) -> None:
        super().__init__(options, context)
        self.annotate = Titles(options.model, options.context)
        self.text = text_tower(options, context.encoder.dimensions)

    def terms(self, embeddings: Tensor, batch: dict[str, Tensor]) -> dict[str, Term]:
        """``clip_loss``, the mean of both directions.

        Parameters
        ----------
        embeddings : float tensor (n, D)
        batch : dict of tensors
            With text (n, L), has_text (n,) and, where near-duplicates are known, image_copy_of (n,).
        """
        text, kept = self.text(batch["text"]), batch["has_text"]
        key = _title_key(batch["text"])
        positive = torch.arange(len(key), device=key.device) + rank() * len(key)
        shared = {
            "query_item": key,
            "query_kept": kept,
            "candidate_item": gather(key),
            "candidate_kept": gather(kept),
            "positive": positive,
            "temperature": self.temperature,
            "bias": _without_copies(batch["image_copy_of"], positive) if "image_copy_of" in batch else None,
        }
        image_to_text = info_nce(query=embeddings, candidate=gather(text), **shared)
        text_to_image = info_nce(query=text, candidate=gather(embeddings), **shared)
        return {"clip_loss": Term((image_to_text.loss + text_to_image.loss) / 2, image_to_text.chance)}


def _without_copies(copy_of: Tensor, positive: Tensor) -> Tensor:
    """Logits' bias (n, A), float: -inf where a candidate's picture is a copy of the query's and not its own."""
    copies = (copy_of[:, None] == gather(copy_of)[None, :]).scatter(1, positive[:, None], False)
    return torch.zeros(copies.shape, device=copies.device).masked_fill(copies, float("-inf"))


def text_tower(options: Clip.Settings, size: int) -> nn.Module:
    """Tokens (n, L) -> (n, size): an open_clip model's text tower, or a small one from scratch.

    Raises
    ------
    UserError
        If open_clip has no such model, its embedding is of another size, or the weights do not fit.
    """
    if not options.model:
        return TextTransformer(
            context_length=options.context,
            width=options.width,
            layers=options.layers,
            heads=options.heads,
            output_dim=size,
        )
    if options.model not in open_clip.list_models():
        raise UserError(f"open_clip has no model {options.model!r}; see open_clip.list_models()")
    model = open_clip.create_model(options.model, pretrained=options.pretrained, force_custom_text=True)
    if options.weights:
        load_weights(model.text, options.weights, prefix="text.")
    found = open_clip.get_model_config(options.model)["embed_dim"]
    if found != size:
        raise UserError(
            f"{options.model}'s text embeddings have {found} dimensions, the encoder's {size}; set "
            f"--encoder.dimensions {found}, or 0 to tune open_clip's own image tower without a further layer"
        )
    return model.text


def _title_key(text: Tensor) -> Tensor:
    """One number a title (n,), the same for the same tokens: a hash with 64 bits of a token sequence."""
    generator = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, (text.shape[1],), generator=generator).to(text.device) * 2 + 1
    return (text * odd).sum(1)
