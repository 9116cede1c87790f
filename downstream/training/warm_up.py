"""Starting a training from the weights of an earlier run (DICM's warm-up, arXiv 1711.06505)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch

from data_tools.common.errors import UserError
from data_tools.common.files import check_digests, digest, read_json
from data_tools.common.parquet import read_parquet
from data_tools.common.tensors import REMEDY, read_tensors
from downstream.data.arrays import VOCABULARY
from downstream.data.codes import UNKNOWN
from downstream.data.ctr_data import CTRData
from downstream.images.features import Features
from downstream.models.base import CTRModel


def keep_vocabulary(data: CTRData, folder: Path) -> str:
    """Copy the ids of the codes next to the weights: a later run needs them to find the embedding of an ID.

    Returns the digest of the file, for the summary.
    """
    kept = folder / VOCABULARY
    shutil.copyfile(data.vocabulary, kept)
    return digest([kept])


def kept_vocabulary(run: Path) -> pl.DataFrame:
    """The ids of a run's codes.

    Raises
    ------
    UserError
        If the file is not as it was written.
    """
    if promised := read_json(run / "summary.json").get("vocabulary"):
        check_digests({run / VOCABULARY: promised}, "summary.json", REMEDY)
    return read_parquet(run / VOCABULARY)


@dataclass(frozen=True)
class WarmUp:
    """Loads an earlier run's weights into a new model, called as ``warm_up(model)``.

    "partial" is all but the ID embeddings, which overfit where they are reused; "full" is these too. An ID keeps its
    embedding though its code may have changed; embeddings of IDs that the earlier run did not know start from scratch.

    Attributes
    ----------
    run : Path
        Folder of a run of ``downstream.train``.
    part : str
        "partial" or "full".
    data : CTRData
        What the new model is trained on.
    """

    run: Path
    part: str
    data: CTRData

    def __call__(self, model: CTRModel) -> None:
        """Change the model's weights.

        Raises
        ------
        UserError
            If the run is missing, its model differs, or it has weights by codes that mean something else here.
        """
        if not (self.run / "model.safetensors").exists() or not (self.run / VOCABULARY).exists():
            raise UserError(f"{self.run} has no model.safetensors or no {VOCABULARY}; name a run of downstream.train")
        earlier, own = read_tensors(self.run / "model.safetensors"), model.state_dict()
        ids = {f"ids.{name}.weight": name for name in model.ids}
        earlier = {name: weight for name, weight in earlier.items() if not name.startswith("ids.") or name in ids}
        if wrong := sorted(name for name in earlier.keys() ^ own.keys() if name not in ids):
            raise UserError(f"{self.run} has a different model: one of the two lacks {wrong[:4]}")
        shapes = {name: (tuple(earlier[name].shape), tuple(own[name].shape)) for name in own if name not in ids}
        if unlike := {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}:
            raise UserError(f"{self.run} has a model of other sizes (there, here): {dict(list(unlike.items())[:4])}")
        self._check_rows(model)
        self._check_codes(model)
        with torch.no_grad():
            for name, weight in own.items():
                if name not in ids:
                    weight.copy_(earlier[name])
                elif self.part == "full" and name in earlier:
                    before, after = self._codes(ids[name])
                    weight[after] = earlier[name][before].to(weight)

    def _codes(self, feature: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The codes, then and now, of the IDs that both runs know, and of "unknown", which both have."""
        both = kept_vocabulary(self.run), read_parquet(self.data.vocabulary)
        then, now = (known.filter(pl.col("feature") == feature) for known in both)
        both = then.join(now, on="id", suffix="_now")
        pairs = (torch.from_numpy(both[name].to_numpy().astype("int64")) for name in ("code", "code_now"))
        unknown = torch.tensor([UNKNOWN])
        return tuple(torch.cat([unknown, codes]) for codes in pairs)

    def _check_codes(self, model: CTRModel) -> None:
        """What has weights by code (its ``codes_of``) needs codes that mean in both trainings the same."""
        both = kept_vocabulary(self.run), read_parquet(self.data.vocabulary)
        for name in sorted({part.codes_of for part in model.modules() if hasattr(part, "codes_of")}):
            then, now = (known.filter(pl.col("feature") == name).sort("code") for known in both)
            if then.is_empty() or not then.equals(now):
                why = "are numbered anew in each training" if then.is_empty() else "are others there"
                raise UserError(f"{self.run}: the model has weights by {name}, which {why}; remove --warm_up")

    def _check_rows(self, model: CTRModel) -> None:
        """A tuned table has one row for each item of its dataset; in another dataset the rows are other items."""
        tuned = any(True for part in model.modules() if isinstance(part, Features) for _ in part.parameters())
        made_of = read_json(self.run / "summary.json")["dataset_fingerprint"]
        if tuned and made_of != self.data.dataset.info["fingerprint"]:
            raise UserError(
                f"{self.run} has a table tuned on another dataset, {made_of}, with other items; remove --warm_up"
            )
