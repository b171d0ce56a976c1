"""Columns of manifests and tables: the names that are known, and the values of their cells.

`COLUMNS` has the known names of each field of a recording; ``input.columns`` overrides them. Readers of manifests, of
tables with audio and of JSON beside audio share these rules. NaN and infinite numbers mean a missing value, because
pandas and Arrow write missing values as NaN; the text "nan" may be a word and is kept.
"""

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

from distil_ray.config import ColumnsConfig
from distil_ray.readers.row_errors import RowError
from distil_ray.readers.row_files import quote_short
from distil_ray.types import SAMPLE_RATE, Prompt

# Field -> the names it goes by; the first that a row has counts.
COLUMNS: dict[str, tuple[str, ...]] = {
    "recording_id": ("recording_id", "id"),
    "uri": ("uri", "path", "audio_filepath", "file_name"),
    "reference": ("reference", "text", "sentence", "transcript", "transcription", "normalized_text"),
    "start_s": ("start_s", "offset"),
    "duration_s": ("duration_s", "duration"),
    "language": ("language", "lang", "locale", "source_lang"),
    "call_id": ("call_id",),
    "rttm": ("rttm",),
    "prompt": ("prompt",),
    "hotwords": ("hotwords",),
    "location": ("location",),  # as distil-ray export writes it: the fields of `AudioLocation`
}
SPEAKER = "speaker"  # the key of metadata that `input.columns.speaker` fills
MAX_DURATION_S = 1e8  # three years: more is another unit or a mistake
MAX_NUMBER = (1 << 31) - 1  # of a row, a row group or a channel: what the tables hold
MAX_ROUNDING_ERROR_S = 0.5 / SAMPLE_RATE  # below zero by less: a time of 0 that was calculated
NULLS = frozenset(("", "na", "n/a", "null", "none", "<na>", "nat"))  # what writers of CSV put where a number is missing


def configured_columns(config: ColumnsConfig) -> dict[str, str]:
    """Returns the column of each field that ``input.columns`` names."""
    return {name: column for name, column in config.model_dump().items() if column is not None}


def split_fields(
    row: Mapping[str, Any], names: Mapping[str, tuple[str, ...]], speaker: str
) -> tuple[dict[str, str | None], dict[str, Any], dict[str, str]]:
    """Splits a row into the fields of a recording and metadata.

    Args:
        row: Cells by column.
        names: By field, the columns that may hold it; the first that the row has counts.
        speaker: The column of the speaker.

    Returns:
        The column of each field (None if the row has none), the cell of each field, and all other cells as metadata.
    """
    taken = {field: next((name for name in known if name in row), None) for field, known in names.items()}
    cells = {name: replace_nan(cell) for name, cell in row.items()}
    value = {field: None if name is None else cells[name] for field, name in taken.items()}
    used = {*taken.values(), speaker}
    speaker_name = cell_to_id(cells.get(speaker))  # the recordings without one are not those of one speaker
    metadata = {} if speaker_name is None else {SPEAKER: speaker_name}
    metadata |= {name: cell_to_text(cell) for name, cell in cells.items() if cell is not None and name not in used}
    return taken, value, metadata


def replace_nan(cell: Any) -> Any:
    """Returns the cell with None for numbers that are not finite: pandas and Arrow write missing values so."""
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if isinstance(cell, list):
        return [replace_nan(each) for each in cell]
    if isinstance(cell, dict):
        return {name: replace_nan(each) for name, each in cell.items()}
    return cell


def cell_to_id(value: Any) -> str | None:
    """Returns a cell as an id; None for null and the empty string."""
    return None if value is None or value == "" else cell_to_text(value)


def cell_to_text(value: Any) -> str:
    """Returns a cell as metadata holds it: text unchanged, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def parse_prompt_cells(where: str, columns: Mapping[str, str | None], cells: Mapping[str, Any]) -> Prompt | None:
    """Returns the prompt in the cells `prompt` and `hotwords` of a row; None if both are empty.

    Raises:
        RowError: `hotwords` is neither a list of texts nor a text; the message has `where` and the column.
    """
    text = "" if cells["prompt"] is None else cell_to_text(cells["prompt"]).strip()
    hotwords = cells["hotwords"] or ()
    if isinstance(hotwords, str):
        hotwords = _parse_list(hotwords) if hotwords.strip().startswith("[") else hotwords.split(",")
    if not isinstance(hotwords, (list, tuple)) or not all(isinstance(word, str) for word in hotwords):
        found = quote_cell(cells["hotwords"])
        raise RowError(f"{where}: {columns['hotwords']} must be a list of texts, or texts with commas, found {found}")
    words = tuple(word.strip() for word in hotwords if word.strip())
    return Prompt(text, words) if text or words else None


def _parse_list(text: str) -> Any:
    """Returns a list that was written as JSON or, by pandas, as Python writes it; else the text."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass
    return text


def parse_seconds_cell(where: str, column: str | None, value: Any) -> float | None:
    """Returns a duration or time in seconds; None for null and NaN.

    Raises:
        RowError: The cell is neither; the message has `where` and `column`.
    """
    try:
        return parse_seconds(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RowError(f"{where}: {column} must be seconds, found {quote_cell(value)}") from error


def parse_seconds(value: Any) -> float | None:
    """Returns a duration or time in seconds; None for null and NaN.

    Raises:
        TypeError, ValueError, OverflowError: The value is not a number of seconds.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in NULLS):
        return None
    number = float(value)
    if not math.isfinite(number):
        return None
    if not -MAX_ROUNDING_ERROR_S < number <= MAX_DURATION_S:
        raise ValueError("a number out of range")
    return max(0.0, number)  # in this order: of -0.0 too it is 0.0


def quote_cell(value: Any) -> str:
    """Returns a cell for a message."""
    return quote_short(value) if isinstance(value, str) else quote_short(cell_to_text(value)).strip("'\"")
