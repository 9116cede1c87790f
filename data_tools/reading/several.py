"""Items with several pictures: a list in the column ``image``, or rows that repeat the item and differ in it alone."""

from __future__ import annotations

import polars as pl


def one_picture_a_row(items: pl.DataFrame) -> pl.DataFrame:
    """The items with a row for each picture of a list in ``image``, the others as they are.

    A list is one of Parquet, or text such as ``["a.jpg", "b.jpg"]``, where all values are such.
    """
    if "image" not in items.columns:
        return items
    image = items["image"]
    if image.dtype == pl.String:
        image = _decoded(image)
    if not isinstance(image.dtype, pl.List | pl.Array) or image.dtype.inner != pl.String:
        return items
    image = image.cast(pl.List(pl.String)).list.drop_nulls().list.unique(maintain_order=True).rename("image")
    # An empty list is an item without a picture, which an explosion may leave out.
    return items.with_columns(pl.when(image.list.len() > 0).then(image).alias("image")).explode("image")


def _decoded(text: pl.Series) -> pl.Series:
    """Lists of text where all values are JSON of such, the values themselves otherwise."""
    known = text.str.strip_chars().replace("", None).drop_nulls()
    if known.is_empty() or not (known.str.starts_with("[") & known.str.ends_with("]")).all():
        return text
    try:
        return text.str.strip_chars().replace("", None).str.json_decode(pl.List(pl.String))
    except pl.exceptions.PolarsError:  # names of files may look like this
        return text


def with_further_pictures(items: pl.DataFrame) -> pl.DataFrame:
    """The items without the rows that name a further picture of an item; ``images`` lists all of an item's pictures.

    A further picture is that of a row that repeats the item: it has another ``image`` and the first row's values
    otherwise. Other rows that repeat an item stay. Without any, there is no column ``images``.
    """
    if items["item_id"].is_first_distinct().all():
        return items
    item = pl.col("item_id")
    values = items.drop("image").hash_rows()
    marked = items.with_columns(values=values).with_row_index("row")
    marked = marked.with_columns(
        own=(pl.col("values") == pl.col("values").first().over(item)) & item.is_not_null(),
        first=item.is_first_distinct(),
    )
    pictured = marked.filter(pl.col("own") & pl.col("image").is_not_null())
    pictured = pictured.filter(pl.struct("item_id", "image").is_first_distinct())
    listed = pictured.group_by("item_id", maintain_order=True).agg(images="image", further="row")
    further = pictured.filter(~pl.col("first"))["row"]
    if further.is_empty():
        return items
    kept = marked.filter(~pl.col("row").is_in(further.implode())).drop("values", "own", "row")
    kept = kept.join(listed.drop("further"), on="item_id", how="left", maintain_order="left", nulls_equal=False)
    images = pl.when("first").then("images")
    return kept.with_columns(image=pl.coalesce("image", images.list.first()), images=images).drop("first")
