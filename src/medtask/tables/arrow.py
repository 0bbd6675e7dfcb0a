"""Output columns as Arrow tables, with the types of the Parquet files that runs write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medtask.tables.table import Column
from medtask.tables.write_parquet import choose_dtype, to_series

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


def get_arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of columns whose types do not depend on their values."""
    import pyarrow as pa

    return pa.schema([(column.name, _to_arrow_type(choose_dtype(column))) for column in columns])


def make_arrow_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> pa.Table:
    """A table with the schema of `get_arrow_schema`; rows have one value per column."""
    import polars as pl
    import pyarrow as pa

    schema = get_arrow_schema(columns)
    arrays = []
    for place, column in enumerate(columns):
        series = to_series(column, [row[place] for row in rows], choose_dtype(column))
        array = series.to_arrow(compat_level=pl.CompatLevel.oldest())
        arrays.append(array.cast(schema.field(place).type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _to_arrow_type(dtype: pl.DataType) -> pa.DataType:
    """The Arrow type; texts and lists have 32-bit offsets, which Spark requires."""
    import polars as pl
    import pyarrow as pa

    if isinstance(dtype, pl.Struct):
        return pa.struct([(field.name, _to_arrow_type(field.dtype)) for field in dtype.fields])  # type: ignore[arg-type]
    if isinstance(dtype, pl.List):
        return pa.list_(_to_arrow_type(dtype.inner))  # type: ignore[arg-type]
    types = {pl.Int64(): pa.int64(), pl.Float64(): pa.float64(), pl.Boolean(): pa.bool_()}
    return types.get(dtype, pa.string())
