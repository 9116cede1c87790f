"""The engines that work through a log: DuckDB, embedded, which spills to disk; and Spark, for what outgrows a machine.

Both run the same ibis expressions. What differs is here: how Parquet files are read with the place of every row, where
a result on the way is kept, and how an ordered one becomes a single Parquet file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.common.errors import UserError
from data_tools.common.parquet import engine_path, parquet_table
from data_tools.reading.parts import Part

ROW = "__row__"
ibis.options.sql.fuse_selects = False  # fused, an expression that others build on is written as often as it is used
NO_TEXT = "Invalid string encoding"
UNITS = {unit: 1024**power for power, unit in enumerate(("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"))}  # of DuckDB
MEMORY_A_THREAD = 120e6  # bytes; DuckDB's documentation says 125 MB at least
LAST_SEEN = "Possible"  # DuckDB's advice begins so; it names settings that do not exist here


def join_parts(parts: Sequence[Path], out: Path) -> None:
    """Make one of some Parquet files of one schema, their rows in their order; a block at a time, or by renaming one.

    Decimals of 20 digits, as Spark takes unsigned integers, become these again.
    """

    def field(one: pa.Field) -> pa.Field:
        kind = pa.uint64() if pa.types.is_decimal(one.type) and one.type.scale == 0 else one.type
        return pa.field(one.name, kind)

    found = pq.read_schema(parts[0])
    schema = pa.schema([field(one) for one in found])
    if len(parts) == 1 and schema.types == found.types:
        parts[0].replace(out)
        return
    with pq.ParquetWriter(out, schema) as writer:
        for part in parts:
            for block in pq.ParquetFile(part).iter_batches(batch_size=1 << 17):
                writer.write_table(pa.Table.from_batches([block]).cast(schema))


def what_it_says(error: Exception, memory: str) -> str:
    """The reason that an engine gives, and what to do about it here."""
    reason = str(error).partition(LAST_SEEN)[0].partition("\nLINE ")[0].strip()
    if "Out of Memory" in reason:
        reason += f"\n  More than --memory {memory} is needed: raise it"
    if NO_TEXT in reason:
        reason += " Store text as UTF-8, and ids that are bytes as hexadecimal text"
    return reason


class DuckDB:
    """DuckDB in memory, with a spill folder inside ``work``, on the cores that this process may use.

    Raises
    ------
    UserError
        If it cannot start with ``memory``.
    """

    faults = duckdb.Error
    unsigned = "uint64"  # what it reads unsigned integers of 64 bits as

    def __init__(self, work: Path, memory: str) -> None:
        try:
            self.backend = ibis.duckdb.connect(
                temp_directory=f"{work}/spill",
                memory_limit=memory,
                preserve_insertion_order=False,  # every order that matters is asked for
            )
            self.backend.raw_sql("SET TimeZone = 'UTC'")  # otherwise times with a zone become local ones
            self.backend.raw_sql(f"SET threads TO {self._threads()}")
        except duckdb.Error as error:
            raise UserError(f"DuckDB cannot start with memory {memory!r}: {what_it_says(error, memory)}") from error

    def _threads(self) -> int:
        """One a core, but no more than there is memory for: many threads run out of little memory, where few spill."""
        number, unit = self.backend.raw_sql("SELECT current_setting('memory_limit')").fetchone()[0].split()
        return max(1, min(len(os.sched_getaffinity(0)), int(float(number) * UNITS[unit] / MEMORY_A_THREAD)))

    def read(self, parts: Sequence[Part], columns: Collection[str]) -> ir.Table:
        """Some columns of Parquet files one after the other, united by name, those of folders among them; with the
        place of each row in all of them as ``__row__`` (int64)."""
        counts = [pq.read_metadata(part.path).num_rows for part in parts]
        keys = sorted({name for part in parts for name in part.keys})
        files = pl.DataFrame(
            {
                "__file__": [os.path.abspath(part.path) for part in parts],
                "__before__": list(accumulate(counts[:-1], initial=0)),
            }
            | {f"__key__{name}": [part.keys.get(name) for part in parts] for name in keys},
            schema_overrides={f"__key__{name}": pl.String for name in keys},
        )
        options = {"file_row_number": True, "filename": "__file__", "union_by_name": True, "binary_as_string": True}
        log = parquet_table(self.backend, [part.path for part in parts], **options)
        # DuckDB's times of nanoseconds with a zone are unknown to ibis.
        zoned = [name for name, kind in log.schema().items() if kind.is_unknown() and "TIMESTAMPTZ" in str(kind)]
        log = log.mutate(**{name: log[name].cast("timestamp('UTC')") for name in zoned})
        if len(parts) == 1:
            placed = log.mutate(**{name: ibis.literal(files[name][0]) for name in files.columns})
        else:
            placed = log.join(self.frame("files", files), "__file__")
        for name in keys:
            own = [placed[name].cast("string")] if name in log.columns else []
            placed = placed.mutate(**{name: ibis.coalesce(*own, placed[f"__key__{name}"])})
        return placed.mutate(**{ROW: placed["__before__"] + placed.file_row_number}).select(*columns, ROW)

    def frame(self, name: str, frame: pl.DataFrame) -> ir.Table:
        """A small table from memory."""
        return self.backend.create_table(name, ibis.memtable(frame))

    def keep(self, name: str, table: ir.Table) -> ir.Table:
        """Work a result out once, for the expressions that build on it."""
        kept = self.backend.create_table(name, schema=table.schema())
        # create_table with the expression itself would copy all of its SQL, which takes as long as to make it.
        self.backend.raw_sql(f'INSERT INTO "{name}" {self.backend.compile(table)}').fetchall()
        return kept

    def write(self, table: ir.Table, path: Path) -> None:
        """Write a table, ordered where it asks for an order, as one Parquet file."""
        table.to_parquet(path)

    def rows(self, table: ir.Table) -> pl.DataFrame:
        """Work out a small result and fetch it."""
        return self.backend.con.sql(self.backend.compile(table)).pl()  # to_polars would take its time to load pandas

    def close(self) -> None:
        self.backend.disconnect()


class Spark:
    """Spark: the session that is there, as under ``spark-submit``, or a new one on all cores of this machine.

    Raises
    ------
    UserError
        If pyspark or Java is missing.
    """

    unsigned = "decimal(20, 0)"

    def __init__(self, work: Path, memory: str) -> None:
        try:
            from pyspark.errors import PySparkException, PySparkRuntimeError
            from pyspark.sql import SparkSession
        except ImportError as error:
            raise UserError(f"--engine spark needs pyspark: pip install 'visual-interest[spark]' ({error})") from error
        self.work, self.faults = work, PySparkException
        settings = {
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.ansi.enabled": "true",
            "spark.driver.memory": memory.upper().removesuffix("B").replace(" ", ""),
            "spark.ui.enabled": "false",
            "spark.local.dir": f"{work}/spark",
            "spark.ui.showConsoleProgress": "false",
        }
        builder = SparkSession.builder.appName("data_tools.prepare")
        self.found = SparkSession.getActiveSession() is not None
        try:
            for key, value in settings.items():
                builder = builder.config(key, value)
            self.session = builder.getOrCreate()
        except (PySparkException, PySparkRuntimeError, OSError) as error:
            raise UserError(f"Spark cannot start: {error}; is Java 17 or newer on the path?") from error
        self.session.sparkContext.setLogLevel("ERROR")
        self.backend = ibis.pyspark.connect(self.session)

    def _view(self, name: str, frame: Any) -> ir.Table:
        frame.createOrReplaceTempView(name)
        return self.backend.table(name)

    def _save(self, table: ir.Table, folder: Path) -> str:
        """Write a table as Spark's folder of parts, in the types that ibis promises: Spark counts in 32 bits."""
        from ibis.backends.pyspark.datatypes import PySparkSchema
        from pyspark.sql import functions

        found, kinds = self.session.sql(self.backend.compile(table)), PySparkSchema.from_ibis(table.schema())
        typed = [functions.col(f"`{field.name}`").cast(field.dataType).alias(field.name) for field in kinds]
        found.select(typed).write.parquet(folder.absolute().as_uri())
        return folder.absolute().as_uri()

    def read(self, parts: Sequence[Part], columns: Collection[str]) -> ir.Table:
        """As :meth:`DuckDB.read`."""
        from pyspark.sql import functions

        whole, before = None, 0
        for part in parts:
            rows = self.session.read.parquet(engine_path(part.path.absolute()))
            place = (functions.col("_metadata.row_index") + before).alias(ROW)
            keys = [functions.lit(value).cast("string").alias(name) for name, value in part.keys.items()]
            rows, before = rows.select("*", place, *keys), before + pq.read_metadata(part.path).num_rows
            whole = rows if whole is None else whole.unionByName(rows, allowMissingColumns=True)
        return self._view("log", whole.select(*(f"`{name}`" for name in (*columns, ROW))))

    def frame(self, name: str, frame: pl.DataFrame) -> ir.Table:
        """As :meth:`DuckDB.frame`."""
        path = self.work / f"{name}.parquet"
        frame.write_parquet(path)
        return self._view(name, self.session.read.parquet(path.absolute().as_uri()))

    def keep(self, name: str, table: ir.Table) -> ir.Table:
        """As :meth:`DuckDB.keep`."""
        return self._view(name, self.session.read.parquet(self._save(table, self.work / name)))

    def write(self, table: ir.Table, path: Path) -> None:
        """As :meth:`DuckDB.write`."""
        folder = self.work / f"{path.name}.parts"
        self._save(table, folder)
        join_parts(sorted(folder.glob("*.parquet")), path)

    def rows(self, table: ir.Table) -> pl.DataFrame:
        """As :meth:`DuckDB.rows`."""
        return pl.from_arrow(self.backend.to_pyarrow(table))

    def close(self) -> None:
        for view in self.session.catalog.listTables():
            if view.isTemporary:
                self.session.catalog.dropTempView(view.name)
        if not self.found:
            self.session.stop()


ENGINES = {"duckdb": DuckDB, "spark": Spark}
Engine = DuckDB | Spark


@contextlib.contextmanager
def engine(name: str, folder: Path, memory: str) -> Iterator[Engine]:
    """An engine with all that it puts down inside ``folder``, and gone from there at the end.

    Raises
    ------
    UserError
        If it cannot start, or stumbles over the log.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".work-", ignore_cleanup_errors=True) as work:
        running = ENGINES[name](Path(work), memory)
        try:
            yield running
        except running.faults as error:
            raise UserError(f"the log cannot be read or worked through: {what_it_says(error, memory)}") from error
        finally:
            running.close()
