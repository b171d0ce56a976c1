"""The export job: selects transcripts, writes them in a format, and reports counts and the exit code."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain

from rich.console import Console

from distil_ray.cli.console import format_duration, log_field
from distil_ray.config import Config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.export.base import ExportFormat, Layout, load_format
from distil_ray.export.calls import CALL_COLUMNS, build_call_cues, group_calls
from distil_ray.export.cues import Cue, CueSettings
from distil_ray.export.destinations import ExportCounts, Item, Target, require_text, write_files, write_lines
from distil_ray.export.redactor import SUMMARY_FILE, make_redactor
from distil_ray.export.settings import CALL, DATASET, ExportSettings
from distil_ray.export.subtitles import build_transcript_cues
from distil_ray.export.training_shards import export_dataset
from distil_ray.export.transcripts import Selection
from distil_ray.output.ledger import TRANSCRIPTS, Ledger
from distil_ray.output.run_settings import ChannelModes
from distil_ray.readers.ordered_iteration import REMOTE_THREADS
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import normalize
from distil_ray.verify.verify import require_output


def export(config: Config, settings: ExportSettings, console: Console, *, plan_only: bool = False) -> ExitCode:
    """Writes the transcripts, or the training data set, of `output.uri` to `settings.to`.

    Args:
        config: Provides `output.uri`, `storage`, `resources` and `max_failed_fraction`.
        settings: The options of the export.
        console: For the lines that report what was written.
        plan_only: Only prints the recordings that would be exported. Whether the format can hold each of them is not
            checked.

    Returns:
        `ExitCode.TOO_MANY_FAILED` if more than `max_failed_fraction` of the recordings were skipped.

    Raises:
        SettingsError: There is nothing to export, or a setting does not fit the output or the format.
        RunError: No recording could be exported.
    """
    export_format = load_format(settings)
    if settings.of == DATASET:
        if plan_only:
            raise SettingsError(f"--plan: is for of=transcripts; found of={settings.of}. Leave it out.")
        write_dataset = export_format.dataset_writer
        assert write_dataset is not None  # load_format has checked it
        return export_dataset(config, settings, write_dataset, export_format.matches, console)
    output = require_output(config)
    storage = Storage(config.storage)
    ledger = Ledger.read(output, storage)
    if not ledger.num_rows:
        raise SettingsError(f"output.uri={config.output.uri}: has no transcripts (no rows in {TRANSCRIPTS}/)")
    if len(ledger.fingerprints) > 1:
        listed = ", ".join(f"fingerprint:{name} {count:,}" for name, count in sorted(ledger.fingerprints.items()))
        log_field(
            "note", f"this output has transcripts of different settings ({listed}); where=… selects some", console
        )
    redactor = make_redactor(settings, storage, silences_audio=export_format.silences_audio)
    selection = Selection(ledger, settings, ChannelModes(output, config.input.channels, storage), storage)
    selection.require_known_columns()
    if redactor is not None:
        selection.redact = redactor.redact
    target = Target(normalize(settings.to), storage, settings.overwrite)
    if storage.stat(target.folder) is not None:
        raise SettingsError(f"to={settings.to}: is a file. Name a folder; it need not exist.")
    if plan_only:
        _log_selection(selection, settings, target, console)
        return ExitCode.DONE
    counts = _write(export_format, selection, target, config)
    counts.print(settings.format, target.folder, selection.left_out, console)
    if redactor is not None:
        replace(target, overwrite=True).put(SUMMARY_FILE, redactor.summary())  # other recordings, other counts
        redactor.print(console)
        if export_format.reads_audio:
            log_field("note", f"format={settings.format} names the original audio, which is not redacted", console)
    skipped, total = counts.num_skipped, counts.num_skipped + counts.num_exported
    if exceeded := config.too_many_failed(skipped, total):
        log_field("too many", f"{skipped:,} of {total:,} recordings were skipped, {exceeded}", console)
        return ExitCode.TOO_MANY_FAILED
    return ExitCode.DONE


def _log_selection(selection: Selection, settings: ExportSettings, target: Target, console: Console) -> None:
    num, audio_s = 0, 0.0
    for transcript in selection.read(()):
        num, audio_s = num + 1, audio_s + (transcript.duration_s or 0.0)
    left_out = selection.left_out
    if left_out:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in left_out.most_common())
        log_field("left out", f"{left_out.total():,} recordings: {reasons}", console, counts=left_out)
    text = f"{num:,} recordings, {format_duration(audio_s)} of audio, as {settings.format} in {target.folder}"
    log_field("to export", text, console, num_recordings=num, audio_s=audio_s, to=target.folder)


def _write(export_format: ExportFormat, selection: Selection, target: Target, config: Config) -> ExportCounts:
    if selection.settings.group == CALL:
        return _write_calls(export_format, selection, target)
    transcripts = _require_one(selection.read(export_format.columns), selection)
    writer = export_format.writer
    if export_format.layout == Layout.SHARDS:
        assert writer is not None  # load_format has checked it
        counts: ExportCounts = writer(transcripts, target, selection.settings.shard_mb, config)
        return counts
    if export_format.cue_writer is not None:
        writer = _make_cue_renderer(export_format, build_transcript_cues, selection.settings.cues)
    elif export_format.reads_audio:
        assert writer is not None
        writer = writer(target.storage)
    assert writer is not None
    render = require_text(writer, selection.settings.format)
    if export_format.layout == Layout.FILE:
        return write_files(render, export_format.extension, transcripts, target)
    # Threads pay off only where each recording waits for the header of an audio file.
    return write_lines(
        render, export_format.files[0], transcripts, target, REMOTE_THREADS if export_format.reads_audio else 1
    )


def _write_calls(export_format: ExportFormat, selection: Selection, target: Target) -> ExportCounts:
    rows = selection.read_all(CALL_COLUMNS)
    calls = _require_one(group_calls(rows, selection.read_call_ids(), selection.settings.turn_pause_s), selection)
    render = export_format.call_writer
    if export_format.cue_writer is not None:
        render = _make_cue_renderer(export_format, build_call_cues, selection.settings.cues)
    assert render is not None  # load_format has checked it
    if export_format.layout == Layout.FILE:
        return write_files(render, export_format.extension, calls, target)
    return write_lines(render, export_format.call_file, calls, target, 1)


def _make_cue_renderer(
    export_format: ExportFormat, build: Callable[[Item, CueSettings, int], list[Cue]], settings: CueSettings
) -> Callable[[Item], str]:
    write = export_format.cue_writer
    assert write is not None
    return lambda item: write(build(item, settings, export_format.cue_step_ms))


def _require_one(items: Iterable[Item], selection: Selection) -> Iterable[Item]:
    """Returns the same stream. Raises `SettingsError` if it is empty."""
    stream = iter(items)
    first = next(stream, None)
    if first is None:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in selection.left_out.most_common())
        raise SettingsError(f"status, where: no recording of the output matches ({reasons})")
    return chain([first], stream)
