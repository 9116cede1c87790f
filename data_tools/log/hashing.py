"""Chance that is the same on every engine: a hash of whole numbers in place of random()."""

from __future__ import annotations

import ibis.expr.types as ir


def hashed(row: ir.Value, draw: ir.Value | int, turn: int, seed: int) -> ir.Value:
    """32 well-mixed bits (int64) of four numbers; the mixer is the multiply and xor-shift one of T. Mueller."""
    low = 2**32 - 1
    mixed = (row % 2**32) * 1_540_483_477 + draw * 668_265_263 + (turn * 374_761_393 + seed * 1_274_126_177) % 2**32
    mixed = mixed & low
    for _ in range(2):
        mixed = ((mixed ^ (mixed // 65536).cast("int64")) * 0x45D9F3B) & low
    return mixed ^ (mixed // 65536).cast("int64")
