"""Score a log that a trained run has not seen: tomorrow's impressions, new users and new items.

    python -m downstream.score --run RUN --log day6.csv --out day6.parquet --columns user_id=player,item_id=game

RUN is a run of downstream.train; the dataset and the table that it was trained on must be where they were. The log is
CSV, TSV, JSON lines or Parquet (a file, a folder or a quoted glob) with user_id, item_id, timestamp, scene where the
dataset has scenes, and click where it is known; see python -m data_tools.prepare --help.

SCORES. The output has a row for each row of the log (for each item, where rows are page views), in its order: user_id,
item_id, timestamp, click where known, score (the probability of a click), known_user, known_item, has_vector, and fault
(why a row has no score). Where the log has labels, AUC, GAUC and log loss are printed.

HISTORIES. A row's history is the user's clicks before its time: those of the dataset and, where the log has labels,
those of the log. A click that is in both counts once.

NEW ITEMS. An item that training did not show is scored through its vector: of the run's own table, or of --table. One
without a vector gets what the run learned for items without an image. --image.form and the like are those of the run.

NEW USERS have no ID. Where the dataset was prepared with a table of users, --user-table says the same of new users.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from rich.console import Console

from data_tools.common.cli import parse_settings, run_command
from data_tools.reading.form import LogForm
from data_tools.reading.user_list import UserTable
from downstream.serving.scorer import Scored, ScoreSettings, load


@dataclass(frozen=True, kw_only=True)
class Settings(ScoreSettings, LogForm, UserTable):
    """What is scored, and how.

    Attributes
    ----------
    run : str
        Folder of a run of downstream.train.
    log : str
        The log, one row per impression: a file, a folder or a glob.
    out : str
        Parquet file to make; must not exist.
    table : str
        Embedding table of items that the run's own table lacks.
    """

    run: str
    log: str
    out: str
    table: str | None = None


def show(scored: Scored, console: Console) -> None:
    """Print what was scored."""
    for note in scored.notes:
        console.print(f"note: {note}", highlight=False)
    console.print(f"{scored.scored:,} of {scored.rows:,} rows scored")
    for reason, count in scored.faults.items():
        console.print(f"  {reason}: {count:,}")
    console.print(f"{scored.users:,} users, {scored.new_users:,} of them unknown to the run: scored without an ID")
    console.print(f"{scored.items:,} items, {scored.new_items:,} of them not shown in training: scored without an ID")
    if scored.new_scenes:
        count, example = sum(scored.new_scenes.values()), next(iter(scored.new_scenes))
        console.print(f"{count:,} rows have a scene unknown to the run, such as {example!r}: scored without a scene")
    if scored.items_without_vector:
        console.print(f"{scored.items_without_vector:,} items have no vector; a learned one replaces it")
    if scored.metrics:
        named = ", ".join(
            f"{name.replace('_', ' ')} {'-' if value is None else f'{value:.4f}'}"
            for name, value in scored.metrics.items()
        )
        console.print(f"where there are labels: {named}")


def main() -> None:
    settings = parse_settings(Settings, __doc__)
    scored = load(settings.run).score(
        settings.log,
        settings.out,
        columns=settings.columns,
        table=settings.table,
        user_table=settings.user_table,
        user_columns=settings.user_columns,
        settings=ScoreSettings(**{one.name: getattr(settings, one.name) for one in fields(ScoreSettings)}),
        given=settings.log_form,
        user_given=settings.user_form,
    )
    show(scored, Console())


if __name__ == "__main__":
    run_command(main)
