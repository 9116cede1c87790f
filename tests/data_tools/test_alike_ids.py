"""Ids that would match in another form, of a catalogue whose ids are text or whole numbers."""

import polars as pl
import pytest

from data_tools.log.examples import nearly_known


@pytest.mark.parametrize("kind", [pl.String, pl.Int32, pl.Int64])
def test_ids_are_compared_as_text_whatever_the_known_ones_are(kind):
    known = pl.Series(["7", "8", "9"]).cast(kind)
    assert "without zeros in front" in nearly_known("users", pl.Series(["007", "008"]), known)[0]
    assert not nearly_known("users", pl.Series(["u1", "u2", None]), known)
