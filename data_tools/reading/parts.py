"""Parts of a log or an item list: Parquet files that need not agree on more than the names of their columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.common.errors import UserError
from data_tools.reading.columns import free_names
from data_tools.reading.form import Form
from data_tools.reading.lines import Nested, json_array, json_objects, nested_text, one_a_line, rows_inside

# What engines call the place of a row; a user's column of such a name gets another.
RESERVED = ("file_row_number", "__file__", "__before__", "__row__", "__place__", "__reason__")
LOOKED_AT = 1000  # rows, for what is nested in them


@dataclass(frozen=True)
class Part:
    """A Parquet file with rows of a user's file.

    Attributes
    ----------
    path : Path
        The Parquet file.
    source : Path
        The user's file.
    form : Form, optional
        Of a delimited ``source``; None for JSON and Parquet.
    names : frozenset of str
        The columns of ``path``.
    keys : dict of str to str or None
        Columns of one value that the file itself lacks, made of folder names.
    unfolded : bool
        Whether a row of ``source`` is several of ``path``.
    """

    path: Path
    source: Path
    form: Form | None = None
    names: frozenset[str] = frozenset()
    keys: dict[str, str | None] = field(default_factory=dict)
    unfolded: bool = False


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Name -> a name that engines do not use themselves and that differs from all others by more than case."""
    return free_names(names, RESERVED, apart=True)


def _class(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _class(kind.value_type)
    if pa.types.is_nested(kind):
        return "lists or structs"
    if pa.types.is_temporal(kind):
        return "times"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or kind == pa.bool_():
        return "numbers"
    return "nothing" if kind == pa.null() else "text"


def united(
    parts: Sequence[Part], safe: Mapping[str, str], expected: Collection[str], folder: Path, name: str
) -> tuple[list[Part], dict[str, str]]:
    """Parts that an engine can unite by the names of their columns.

    Parameters
    ----------
    parts : sequence of Part
    safe : dict of str to str
        Name in the user's files -> name in the parts, where they differ already.
    expected : collection of str
        The columns that matter.
    folder, name
        Folder for copies of the parts that must be rewritten, and the prefix of their names.

    Returns
    -------
    parts : list of Part
    columns : dict of str to str
        Name in the user's files -> name in the parts, of all that can be united, in the order of their appearance.

    Raises
    ------
    UserError
        If a part is no Parquet, or a column that matters is of kinds that cannot be united.
    """
    schemas = [_schema(part.path, expected) for part in parts]
    if any(schemas):  # a data frame without columns is written as such a file
        parts = [part for part, schema in zip(parts, schemas, strict=True) if schema]
        schemas = [schema for schema in schemas if schema]
    else:
        raise UserError(f"{parts[0].source} has no columns")
    renamed = safe_names(dict.fromkeys(name for schema in schemas for name in schema))
    users, columns = {new: old for old, new in safe.items()}, {}
    for column, new in renamed.items():
        held = {_class(schema[column]): part for schema, part in zip(schemas, parts, strict=True) if column in schema}
        held.pop("nothing", None)
        alike = len(held) < 2 or set(held) in ({"numbers", "text"}, {"times", "text"})
        old = users.get(column, column)
        if alike:
            columns[old] = new
        elif old in expected:
            where = ", ".join(f"{kind} in {part.source}" for kind, part in held.items())
            raise UserError(f"column '{old}' holds {where}; write it in one type")
    changed = {old: new for old, new in renamed.items() if old != new}
    made = []
    for number, (part, schema) in enumerate(zip(parts, schemas, strict=True)):
        floats = [name for name in schema if pa.types.is_floating(schema[name]) and users.get(name, name) in expected]
        if floats and _has_nan(part.path, floats):
            part = replace(part, path=_nan_as_null(part.path, folder / f"{name}-whole-{number:06d}.parquet"))
        if schema.keys() & changed.keys():
            part = replace(part, path=_renamed(part.path, changed, folder / f"{name}-renamed-{number:06d}.parquet"))
        made.append(replace(part, names=frozenset(renamed[column] for column in schema)))
    return made, columns


def nested_hint(parts: Sequence[Part], wanted: Collection[str] = ()) -> str:
    """How to spread a column that holds several named values in each row, where a file has such; otherwise nothing.

    Of several columns it is one that holds, or is, a ``wanted`` one.
    """
    for part in parts:
        if part.form is None and part.path != part.source and (inside := rows_inside(part.source)):
            return inside
        if not (nested := _nested(part) if part.path == part.source else nested_text(_texts(part))):
            continue
        name = max(nested, key=lambda name: name in wanted or not set(wanted).isdisjoint(nested[name].names))
        held, spread = nested[name], f'.unnest("{name}")'
        spread = f'.explode("{name}"){spread}' if held.several else spread
        return (
            f"\n  Its column '{name}' holds {', '.join(held.names)} in each row; spread it first: python -c 'import "
            f'polars as p; {_read_by_polars(part, name)}{spread}.write_parquet("{part.source}.flat.parquet")\''
        )
    return ""


def _nested(part: Part) -> dict[str, Nested]:
    """The columns of structs, or of lists of such, in a file of Parquet."""
    found = {}
    for name, kind in _schema(part.path).items():
        inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
        if pa.types.is_struct(inner):
            found[name] = Nested([inner.field(number).name for number in range(inner.num_fields)], inner is not kind)
    return found


def _texts(part: Part) -> Iterator[Mapping[str, str | None]]:
    """The first rows of a file of text or JSON."""
    if part.form is None:
        found = json_objects(part.source) if one_a_line(part.source) else json_array(part.source)
        yield from islice((one.row for one in found if one.row is not None), LOOKED_AT)
        return
    with pq.ParquetFile(part.path) as file:
        yield from next(file.iter_batches(batch_size=LOOKED_AT), pa.record_batch({})).to_pylist()


def _read_by_polars(part: Part, name: str) -> str:
    """How polars reads a file with a nested column."""
    if part.path == part.source:
        return f'p.read_parquet("{part.source}")'
    if part.form is None:  # its values may be text that is JSON in turn
        reader, typed = "read_ndjson" if one_a_line(part.source) else "read_json", f'd["{name}"].dtype != p.String'
        read, as_it_is = f'p.{reader}("{part.source}", infer_schema_length=None)', f"d if {typed} else "
    else:
        separator = part.form.delimiter.replace("\t", r"\t")
        read, as_it_is = f'p.read_csv("{part.source}", infer_schema=False, separator="{separator}")', ""
    return f'(lambda d: {as_it_is}d.with_columns(d["{name}"].str.json_decode(infer_schema_length=None)))({read})'


def _schema(path: Path, expected: Collection[str] = ()) -> dict[str, pa.DataType]:
    try:
        found = pq.read_schema(path)
    except (OSError, EOFError, pa.ArrowException) as error:
        wide = "; write those of 128 bits as text, such as CAST(user_id AS VARCHAR)" if "64 bits" in str(error) else ""
        raise UserError(f"{path} cannot be read: {error}{wide}") from error
    if twice := sorted({name for name in found.names if found.names.count(name) > 1} & set(expected)):
        raise UserError(f"{path} has the columns {twice} more than once; rename all but one of each")
    return dict(zip(found.names, found.types, strict=True))


def _has_nan(path: Path, columns: Sequence[str]) -> bool:
    with pq.ParquetFile(path) as file:
        blocks = file.iter_batches(columns=list(columns))
        return any(pc.any(pc.is_nan(column)).as_py() for block in blocks for column in block.columns)


def _whole(column: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column


def _nan_as_null(path: Path, out: Path) -> Path:
    """A copy of a file with null for NaN, which is how data frames write that there is nothing.

    DuckDB overlooks a NaN in a file whose statistics leave it out, as those that polars writes do: it trusts them.
    """
    with pq.ParquetFile(path) as file, pq.ParquetWriter(out, file.schema_arrow) as writer:
        for block in file.iter_batches():
            columns = list(map(_whole, block.columns))
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=file.schema_arrow))
    return out


def _renamed(path: Path, names: Mapping[str, str], out: Path) -> Path:
    """A copy of a file with other names for some columns."""
    with pq.ParquetFile(path) as file:
        schema = pa.schema([one.with_name(names.get(one.name, one.name)) for one in file.schema_arrow])
        with pq.ParquetWriter(out, schema) as writer:
            for block in file.iter_batches():
                writer.write_batch(pa.RecordBatch.from_arrays(block.columns, schema=schema))
    return out
