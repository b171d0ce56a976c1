"""Lhotse manifests: cuts, or recordings with supervisions beside them, as JSON lines.

A cut is a part of one recording. Its supervisions, sorted by time, are the reference, unless one of them begins before
the cut or ends after it, as in windows of a recording: nobody knows which of its words are in the cut. Paths are
relative to the folder of the manifest, then to ``input.base_dir`` (in lhotse they are relative to the working
directory). What exists only when lhotse computes it (mixed cuts, padding, features, audio in memory, output of
commands, changed speed) becomes a failed recording; a manifest with nothing else is an error. Write the audio of such
cuts to files first (``CutSet.save_audios``).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distil_ray.languages import language_code
from distil_ray.readers.base import InputFormat, ReadContext
from distil_ray.readers.columns import SPEAKER, cell_to_id, cell_to_text, parse_seconds, parse_seconds_cell
from distil_ray.readers.location import format_audio_range
from distil_ray.readers.path_resolution import PathResolver
from distil_ray.readers.row_errors import RowError, rows_to_recordings
from distil_ray.readers.row_files import LocatedRow, Row, TableHead, json_rows, quote_short, read_lines
from distil_ray.redaction import redact
from distil_ray.storage.uris import parent
from distil_ray.types import AudioLocation, Recording

REMEDY = "write their audio to files first (CutSet.save_audios)"
TOLERANCE_S = 0.01  # by which times in a manifest are rounded
HARMLESS_TRANSFORMS = {"Resample"}  # changes of a recording that change nothing for 16 kHz


def is_cut_manifest(head: TableHead) -> bool:
    return str(head.row.get("type", "")).endswith("Cut") or {"recording", "supervisions"} <= set(head.columns)


def is_recording_manifest(head: TableHead) -> bool:
    return {"sources", "sampling_rate"} <= set(head.columns)


def read_lhotse(uri: str, context: ReadContext) -> Iterator[Recording]:
    """Yields the recordings of a manifest of cuts or of recordings. Supervisions of recordings are held in memory.

    Raises:
        InputError: No line is a cut of a file, or the manifest may not name a file. The message has file and line.
    """
    files = context.resolver_for(uri)
    cuts = rows_to_recordings(_cuts(uri, context), lambda where, cut: _recording(where, cut, files), _name, uri)
    yield from files.locate(cuts)


def _name(cut: Row) -> str | None:
    return cell_to_id(cut.get("id"))


def _cuts(uri: str, context: ReadContext) -> Iterator[LocatedRow]:
    """Yields (location for messages, cut) of every line; for a recording a cut of all of it."""
    supervisions: Mapping[str, list[Row]] | None = None
    wrong: list[tuple[str, RowError]] = []
    for where, row in json_rows(uri, read_lines(uri, context.storage, strict=False)):
        if isinstance(row, RowError) or "sources" not in row:
            yield where, row
            continue
        if supervisions is None:
            supervisions, wrong = _supervisions_beside(uri, context)
        whole = {"id": row.get("id"), "start": 0, "duration": row.get("duration"), "recording": row, "type": "MultiCut"}
        try:
            yield where, whole | {"channel": _channels(row), "supervisions": supervisions.get(row["id"], [])}
        except (KeyError, TypeError, ValueError) as error:
            yield where, _unreadable(where, row, error)
    yield from wrong


def _supervisions_beside(uri: str, context: ReadContext) -> tuple[Mapping[str, list[Row]], list[tuple[str, RowError]]]:
    """Returns supervisions by recording, and the errors of lines that belong to none.

    They are in the file that is named like the manifest, with "supervisions" in place of "recordings", if there is one.
    """
    found: defaultdict[str, list[Row]] = defaultdict(list)
    wrong: list[tuple[str, RowError]] = []
    folder, name = parent(uri), uri.rsplit("/", 1)[1]
    beside = f"{folder}/{name.replace('recordings', 'supervisions')}"
    if beside != uri and context.storage.stat(beside) is not None:
        for where, row in json_rows(beside, read_lines(beside, context.storage, strict=False)):
            if isinstance(row, RowError):
                wrong.append((where, row))
            elif isinstance(row.get("recording_id"), str):
                found[row["recording_id"]].append(row)
            else:
                wrong.append((where, RowError(f"{where}: is no supervision of lhotse's: it has no recording_id")))
    return found, wrong


def _recording(where: str, cut: Row, files: PathResolver) -> Recording:
    kind = cut.get("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut"):
        raise RowError(f"{where}: is a {kind}, which is no stretch of one file; {REMEDY}", is_unreadable=True)
    if not isinstance(cut.get("recording"), dict):
        raise RowError(f"{where}: the cut has no recording (only features?); {REMEDY}", is_unreadable=True)
    try:
        source, channel = _source(where, cut, cut["recording"])
        location = _place(cut, channel)
        supervisions = sorted(cut.get("supervisions") or (), key=lambda one: float(one["start"]))  # in the cut
        languages = {language_code(cell_to_text(one["language"])) for one in supervisions if one.get("language")}
        spoken = [one for one in supervisions if one.get("text") is not None]
        has_reference = bool(spoken) and all(_is_within(one, cut) for one in spoken)
        return Recording(
            recording_id=cell_to_id(cut.get("id")) or redact(source) + format_audio_range(location),
            uri=files.resolve(source, where, "source"),
            location=location,
            duration_s=parse_seconds_cell(where, "duration", cut["duration"]),
            language=languages.pop() if len(languages) == 1 else None,
            reference=" ".join(str(one["text"]) for one in spoken).strip() if has_reference else None,
            metadata=_metadata(cut, supervisions),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _unreadable(where, cut, error) from error


def _is_within(supervision: Row, cut: Row) -> bool:
    """Returns whether all words of a supervision are in its cut: those of windows may begin before or end after it."""
    start_s = float(supervision["start"])
    end_s = start_s + float(supervision.get("duration") or 0.0)
    return start_s >= -TOLERANCE_S and end_s <= float(cut["duration"]) + TOLERANCE_S


def _unreadable(where: str, row: Row, error: Exception) -> RowError:
    return RowError(f"{where}: not readable as lhotse writes it ({error!r}): {quote_short(cell_to_text(row))}")


def _channels(recording: Row) -> list[int]:
    return sorted(channel for source in recording["sources"] for channel in source["channels"])


def _source(where: str, cut: Row, recording: Row) -> tuple[str, int | None]:
    """Returns the path of the file, and the channel in it (None: all channels, or the only one)."""
    changes = {str(one.get("name")) for one in recording.get("transforms") or ()} - HARMLESS_TRANSFORMS
    if changes:
        raise RowError(
            f"{where}: its recording is changed while it is loaded ({', '.join(changes)}); {REMEDY}",
            is_unreadable=True,
        )
    channels = cut.get("channel", 0)
    wanted = {channels} if isinstance(channels, int) else set(channels)
    source = next((one for one in recording["sources"] if wanted <= set(one["channels"])), None)
    if source is None or 1 < len(wanted) < len(source["channels"]):
        raise RowError(
            f"{where}: channels {sorted(wanted)} are neither one nor all of one file; {REMEDY}",
            is_unreadable=True,
        )
    if source["type"] not in ("file", "url"):
        raise RowError(
            f"{where}: its audio is of the type {quote_short(str(source['type']))}, not file or url; {REMEDY}",
            is_unreadable=True,
        )
    return str(source["source"]), None if wanted == set(source["channels"]) else source["channels"].index(*wanted)


def _place(cut: Row, channel: int | None) -> AudioLocation | None:
    """None if the cut is the whole file."""
    start_s, length_s, recording = parse_seconds(cut["start"]), parse_seconds(cut["duration"]), cut["recording"]
    if start_s is None or not length_s:
        raise ValueError(f"start {cut['start']} s, duration {cut['duration']} s")
    is_whole = start_s == 0 and abs(length_s - float(recording["duration"])) * float(recording["sampling_rate"]) < 1
    if is_whole:
        return None if channel is None else AudioLocation(channel=channel)
    return AudioLocation(start_s=start_s, length_s=length_s, channel=channel)


def _metadata(cut: Row, supervisions: Sequence[Row]) -> dict[str, str]:
    """Returns speaker and gender (several in the order in which they speak) and the plain values in `custom`."""
    metadata: dict[str, str] = {}
    for name in (SPEAKER, "gender"):
        values = dict.fromkeys(cell_to_text(one[name]) for one in supervisions if one.get(name) is not None)
        if values:
            metadata[name] = ", ".join(values)
    own = supervisions[0].get("custom") if len(supervisions) == 1 else None
    custom: dict[str, Any] = (cut.get("custom") or {}) | (own or {})
    plain = {name: cell_to_text(cell) for name, cell in custom.items() if isinstance(cell, (str, int, float))}
    return plain | metadata


FORMAT = InputFormat(
    "lhotse manifest",
    read_lhotse,
    priority=30,
    has_head=lambda head: is_cut_manifest(head) or is_recording_manifest(head),
)
