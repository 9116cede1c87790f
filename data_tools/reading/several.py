"""Items with several pictures: a list in the column ``image``, or rows that repeat the item and differ in it alone."""

from __future__ import annotations

import polars as pl

ENDING = r"\.(?i:jpe?g|png|webp|gif|bmp|tiff?|avif)"
# Several names in one cell: each ends as a picture does, which a single name that holds the separator would not.
BETWEEN = {r"\|": "|", ",": ",", ";": ";"}


def one_picture_a_row(items: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The items with a row for each picture of a list in ``image``, the others as they are; and what was inferred.

    A list is one of Parquet, or text such as ``["a.jpg", "b.jpg"]``, where all values are such; or names of pictures,
    with their endings, between which the same separator stands in every cell that holds several.
    """
    if "image" not in items.columns:
        return items, []
    image, notes = items["image"], []
    if image.dtype == pl.String:
        image = _decoded(image)
    if image.dtype == pl.String and (separator := _separator(image)):
        image = image.str.split(separator).list.eval(pl.element().str.strip_chars())
        notes = [f"cells of image hold the names of several pictures, with {separator!r} between them"]
    if not isinstance(image.dtype, pl.List | pl.Array) or image.dtype.inner != pl.String:
        return items, []
    image = image.cast(pl.List(pl.String)).list.drop_nulls().list.unique(maintain_order=True).rename("image")
    # An empty list is an item without a picture, which an explosion may leave out.
    return items.with_columns(pl.when(image.list.len() > 0).then(image).alias("image")).explode("image"), notes


def _separator(names: pl.Series) -> str | None:
    """What stands between the names of pictures, where it stands between nothing else."""
    for pattern, separator in BETWEEN.items():
        held = names.filter(names.str.contains(separator, literal=True))
        several = rf"^[^{pattern}]*{ENDING}\s*({pattern}[^{pattern}]*{ENDING}\s*)+$"
        if len(held) and held.str.contains(several).all():
            return separator
    return None


def _decoded(text: pl.Series) -> pl.Series:
    """Lists of text where all values are JSON of such, the values themselves otherwise."""
    known = text.str.strip_chars().replace("", None).drop_nulls()
    if known.is_empty() or not (known.str.starts_with("[") & known.str.ends_with("]")).all():
        return text
    try:
        return text.str.strip_chars().replace("", None).str.json_decode(pl.List(pl.String))
    except pl.exceptions.PolarsError:  # names of files may look like this
        return text


def with_further_pictures(items: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The items without the rows that repeat an item and add at most a picture; ``images`` lists all of its pictures.

    Such a row has another ``image``, the same or none, and otherwise the first row's values or nothing. Other rows that
    repeat an item stay. Without further pictures, there is no column ``images``. What was passed over is said.
    """
    if items["item_id"].is_first_distinct().all():
        return items, []
    item = pl.col("item_id")
    alike = [
        pl.col(name).is_null() | (pl.col(name).hash() == pl.col(name).hash().first().over(item))
        for name in items.columns
        if name not in ("item_id", "image")
    ]
    own, first = pl.col("__own__"), pl.col("__first__")  # names that no column of a user's has
    marked = items.with_columns(
        __own__=pl.all_horizontal(pl.lit(True), *alike) & item.is_not_null(), __first__=item.is_first_distinct()
    )
    pictured = marked.filter(own & pl.col("image").is_not_null())
    pictured = pictured.filter(pl.struct("item_id", "image").is_first_distinct())
    listed = pictured.group_by("item_id", maintain_order=True).agg(images="image")
    further = pictured.filter(~first).height
    repeated = own & ~first
    idle = marked.select(repeated.sum()).item() - further
    said = f"{idle:,} rows of the item list repeat an item and add nothing to it; they are passed over"
    kept, notes = marked.filter(~repeated).drop(own), [said] if idle else []
    if not further:
        return kept.drop(first), notes
    kept = kept.join(listed, on="item_id", how="left", maintain_order="left", nulls_equal=False)
    images = pl.when(first).then("images")
    return kept.with_columns(image=pl.coalesce("image", images.list.first()), images=images).drop(first), notes
