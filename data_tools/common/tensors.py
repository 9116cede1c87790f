"""Tensors in files of safetensors that say their own digest, so that what is read is what was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_tools.common.errors import UserError
from data_tools.common.files import whole_file

DIGEST = "digest"  # its key in a file's metadata
REMEDY = "copy it again, or train again"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write tensors by name, with ``about`` and the digest of both as the file's metadata; whole or not at all."""
    kept, about = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, about or {}
    with whole_file(path) as scratch:
        save_file(kept, scratch, {**about, DIGEST: _digest(kept, about)})


def read_tensors(path: str | Path, remedy: str = REMEDY) -> dict[str, Tensor]:
    """The tensors of a file of safetensors, by name; see :func:`read_described`."""
    return read_described(path, remedy)[0]


def read_described(path: str | Path, remedy: str = REMEDY) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file of safetensors by name, and what else it says; a file may have no digest.

    Parameters
    ----------
    path : str or Path
    remedy : str
        What to do where the file is of no use, for the message.

    Raises
    ------
    UserError
        If the file is missing, cut, damaged, or not as it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            about = dict(file.metadata() or {})
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {remedy}") from None
    except (OSError, SafetensorError, UnicodeDecodeError) as error:
        size = os.path.getsize(path)
        raise UserError(f"{path} is damaged, or cut to {size:,} bytes: {error}; {remedy}") from None
    promised = about.pop(DIGEST, None)
    if promised and (found := _digest(tensors, about)) != promised:
        raise UserError(
            f"{path} has digest {found}, its head promises {promised}: the file was damaged or changed; {remedy}"
        )
    return tensors, about


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Of names, kinds, shapes and bytes, whatever their order; of several tensors at once, as hashing lets threads run.

    The bytes are those of a little-endian machine, as in the file.
    """
    names = sorted(tensors)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        contents = list(pool.map(lambda name: _content(tensors[name]), names))
    described = [
        [name, str(tensors[name].dtype), list(tensors[name].shape), content]
        for name, content in zip(names, contents, strict=True)
    ]
    text = json.dumps([described, sorted(about.items())])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _content(tensor: Tensor) -> str:
    values = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(values.data, digest_size=16).hexdigest()
