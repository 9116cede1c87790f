"""The metrics of scores in a Parquet file, computed by DuckDB: memory does not grow with the rows."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from data_tools.log.engines import DuckDB


def _area(rows: ir.Table, groups: list[str]) -> ir.Table:
    """AUC, impressions and clicks of each group with both labels: mid-ranks, so that ties count one half."""
    tied = rows.group_by([*groups, "score"]).agg(n=rows.count(), own=rows.click.sum())
    window = ibis.cumulative_window(group_by=groups, order_by="score")
    below = tied.n.sum().over(window) - tied.n
    ranked = tied.mutate(ranks=tied.own * (below + (tied.n - 1) / 2))
    summed = ranked.group_by(groups).agg(n=ranked.n.sum(), clicks=ranked.own.sum(), ranks=ranked.ranks.sum())
    both = summed.filter((summed.clicks > 0) & (summed.clicks < summed.n))
    wins = both.ranks - both.clicks * (both.clicks - 1) / 2
    return both.mutate(auc=wins / (both.clicks * (both.n - both.clicks)))


def score_metrics(run: DuckDB, scores: ir.Table) -> dict[str, float | None]:
    """As :func:`downstream.statistics.metrics.all_metrics`, of the rows with a label and a score.

    Parameters
    ----------
    run : DuckDB
        What works them out.
    scores : ibis table
        ``user_id``, ``click`` (0, 1 or null) and ``score`` (null where there is none).
    """
    rows = scores.filter(scores.click.notnull() & scores.score.notnull())
    rows = rows.select("user_id", click=rows.click.cast("int64"), score=rows.score.cast("float64"), everyone=1)
    whole = run.rows(_area(rows, ["everyone"]).select("auc"))["auc"]
    users = _area(rows, ["user_id"])
    grouped = run.rows(users.agg(gauc=(users.auc * users.n).sum() / users.n.sum()))["gauc"][0]
    probability = rows.score.clip(lower=1e-7, upper=1 - 1e-7)
    loss = -(rows.click == 1).ifelse(probability.ln(), (1 - probability).ln())
    return {
        "auc": whole[0] if len(whole) else None,
        "gauc": grouped,
        "log_loss": run.rows(rows.agg(loss=loss.mean()))["loss"][0],
    }
