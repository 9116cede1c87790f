"""What is said of logs that are read without a fault, and may still mean something else."""

import subprocess

import polars as pl
import pytest
from prepare_helpers import notes, run, stopped, typed

from data_tools.common.errors import UserError

VIEW = pl.int_range(pl.len()) // 4


@pytest.mark.parametrize("again", [pl.lit("1"), pl.int_range(pl.len()) % 50])
def test_a_request_id_that_is_used_again_is_said(source, again):
    """Its rows are one page view, over days: page AUC and the split would be of these."""
    spread = typed(source).with_columns(timestamp=pl.col("timestamp") * 10 - 14_400_000_000)
    spread.with_columns(request_id=again).write_csv(source / "log.csv")
    assert "page views last more than a day: rows of one user and request_id count as one" in notes(run(source))
    spread.with_columns(request_id=VIEW).write_csv(source / "log.csv")
    assert "more than a day" not in notes(run(source, out="sound"))


def test_conversions_without_a_click_are_said(source):
    frame, bought = typed(source), (pl.int_range(pl.len()) % 10 == 0).cast(pl.Int8)
    frame.with_columns(conversion=bought * pl.col("click")).write_csv(source / "log.csv")
    assert "conversion" not in notes(run(source, out="sound"))
    frame.with_columns(conversion=bought).write_csv(source / "log.csv")
    count = frame.filter((bought == 1) & (pl.col("click") == 0)).height
    assert count and f"{count} impressions without a click have a conversion" in notes(run(source))


def test_items_shown_before_their_launch_are_said(source):
    items = pl.read_csv(source / "items.csv", infer_schema=False)
    late = pl.when(pl.int_range(pl.len()) < 3).then(1_900_000_000).otherwise(1_500_000_000)
    items.with_columns(first_seen=late).write_csv(source / "items.csv")
    assert "3 items are shown before their first_seen" in notes(run(source))


def test_a_list_is_no_scene(source):
    typed(source).with_columns(scene=pl.lit(["home", "app"])).write_parquet(source / "log.parquet")
    assert "(scene) is array<string>; must be one text or number" in stopped(source, log="log.parquet")


def test_lines_in_quotes_as_a_whole_are_named_with_the_command_that_takes_these_off(source):
    plain = run(source, out="whole/plain").impressions
    lines = (source / "log.csv").read_text().splitlines()
    quoted = [line.replace("u", '""u', 1).replace(",", '"",', 1) for line in lines]  # Excel doubles those inside
    (source / "OLD.csv").write_text("".join(f'"{line}"\r\n' for line in [lines[0], *quoted[1:]]))
    with pytest.raises(UserError, match="if its lines stand in quotes: ") as caught:
        run(source, log="OLD.csv")
    command = str(caught.value).partition("in quotes: ")[2].partition("NEW.csv")[0] + "NEW.csv"
    subprocess.run(command, shell=True, check=True, cwd=source)
    assert run(source, log="NEW.csv").impressions.equals(plain)


def test_an_id_that_stands_for_everybody_is_said(source):
    users = pl.when(pl.int_range(pl.len()) % 4 == 0).then(pl.lit("0")).otherwise(pl.format("u{}", VIEW))
    typed(source).with_columns(user_id=users).write_csv(source / "log.csv")
    assert "user '0' has 25% of the rows: where an id stands for all who are not logged in" in notes(run(source))
