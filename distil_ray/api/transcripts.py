"""`dr.read_transcripts`: the current rows of an output as one table."""

import os
from collections.abc import Sequence
from typing import Any, Literal, get_args, overload

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from distil_ray.api.settings import ConfigSource, Overrides, make_config
from distil_ray.errors import InputError, SettingsError
from distil_ray.output.ledger import Ledger
from distil_ray.output.ledger_rows import current_rows, read_tables
from distil_ray.schema import TRANSCRIPT
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import normalize

TableFormat = Literal["pandas", "arrow"]


def check_format(format: str) -> None:
    """Raises `SettingsError` for a format that tables do not have. To be called before any work is done."""
    if format not in get_args(TableFormat):
        raise SettingsError(f"format={format}: must be pandas or arrow")


def convert_table(table: pa.Table, format: TableFormat) -> Any:
    """Returns the table in the format that the caller asked for; see `check_format`."""
    return table if format == "arrow" else table.to_pandas()


@overload
def read_transcripts(
    uri: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    run_id: str | None = None,
    format: Literal["pandas"] = "pandas",
    config: ConfigSource | None = None,
    overrides: Overrides | None = None,
) -> pd.DataFrame: ...


@overload
def read_transcripts(
    uri: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    run_id: str | None = None,
    format: Literal["arrow"],
    config: ConfigSource | None = None,
    overrides: Overrides | None = None,
) -> pa.Table: ...


def read_transcripts(
    uri: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    run_id: str | None = None,
    format: TableFormat = "pandas",
    config: ConfigSource | None = None,
    overrides: Overrides | None = None,
) -> Any:
    """Reads the transcripts of an output: one row per recording, the current one.

    An output may hold several rows of a recording while a run replaces them, or after a crash. Of these the row that
    the next run would keep is returned. Files of earlier schema versions get nulls in the columns that they lack.

    Args:
        uri: The folder of the output (``output.uri``), local or remote.
        columns: Columns to read; None: all.
        run_id: Return only the rows that this run wrote.
        format: Type of the table: a pandas DataFrame or an Arrow table.
        config: Settings whose section ``storage`` is used: a `Config`, a YAML file or the name of a shipped one, or
            nested settings.
        overrides: Settings by dotted key, such as ``{"storage.endpoint_url": "http://127.0.0.1:9000"}``.

    Returns:
        The rows in the order of the files.

    Raises:
        SettingsError: There is no such column, or no such format.
        InputError: There are no transcripts at `uri`.
        RunError: A file cannot be read, or changed while it was read.
    """
    check_format(format)
    names = list(TRANSCRIPT.names if columns is None else columns)
    if unknown := [name for name in names if name not in TRANSCRIPT.names]:
        raise SettingsError(f"columns: there is no {', '.join(unknown)}; found {', '.join(TRANSCRIPT.names)}")
    storage = Storage(make_config(config, overrides).storage)
    ledger = Ledger.read(normalize(os.fspath(uri)), storage)
    if not ledger.num_rows:
        raise InputError(f"{os.fspath(uri)}: there are no transcripts; name the folder that a run has as output.uri")
    needed = list(dict.fromkeys([*names, "recording_id", *(["run_id"] if run_id is not None else [])]))
    table = pa.concat_tables(read_tables(ledger, current_rows(ledger), needed, storage))
    if run_id is not None:
        table = table.filter(pc.equal(table["run_id"], run_id))
    return convert_table(table.select(names), format)
