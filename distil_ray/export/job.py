"""An export from its settings to its last line, and how it ends. What each format writes stands in formats.py."""

from collections.abc import Iterable
from itertools import chain

from rich.console import Console

from distil_ray.cli.console import log_field
from distil_ray.config import Config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.export.destinations import Account, Target, with_text, write_files, write_lines
from distil_ray.export.registry import DATASET, Layout, find_format
from distil_ray.export.registry import TRANSCRIPTS as OF_TRANSCRIPTS
from distil_ray.export.settings import ExportSettings
from distil_ray.export.training_shards import export_dataset
from distil_ray.export.transcripts import Selection, Transcript
from distil_ray.output.ledger import TRANSCRIPTS, Ledger
from distil_ray.output.run_settings import ChannelModes
from distil_ray.readers.ordered_iteration import REMOTE_THREADS
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import normalize
from distil_ray.verify.verify import require_output


def export(config: Config, settings: ExportSettings, console: Console) -> ExitCode:
    """Writes the transcripts of `output.uri` to `settings.to`, tells how many; 3 if too many had to be passed over."""
    if settings.of == DATASET:
        return export_dataset(config, settings, console)
    output = require_output(config)
    storage = Storage(config.storage)
    ledger = Ledger.read(output, storage)
    if not ledger.num_rows:
        raise SettingsError(f"output.uri={config.output.uri}: has no transcripts (no rows in {TRANSCRIPTS}/)")
    if len(ledger.fingerprints) > 1:
        counts = ", ".join(f"fingerprint:{name} {count:,}" for name, count in sorted(ledger.fingerprints.items()))
        log_field(
            "note", f"transcripts of different settings stand in this output ({counts}); where=… takes some", console
        )
    selection = Selection(ledger, settings, ChannelModes(output, config.input.channels, storage), storage)
    target = Target(normalize(settings.to), storage, settings.overwrite)
    if storage.stat(target.folder) is not None:
        raise SettingsError(f"to={settings.to}: is a file. Name a folder, which may not be there yet.")
    account = _write(selection, target, config)
    account.print(settings.format, target.folder, selection.left_out, console)
    share = account.num_passed_over / (account.num_passed_over + account.num_exported)
    if share > config.max_failed_fraction:
        allowed = f"max_failed_fraction={config.max_failed_fraction:g} allows"
        log_field("too many", f"{100 * share:.1f} % of the recordings were passed over, more than {allowed}", console)
        return ExitCode.TOO_MANY_FAILED
    return ExitCode.DONE


def _write(selection: Selection, target: Target, config: Config) -> Account:
    form = find_format(selection.settings.format, OF_TRANSCRIPTS)
    transcripts = _require_one(selection.read(form.columns), selection)
    writer = form.load_writer()
    if form.layout == Layout.SHARDS:
        account: Account = writer(transcripts, target, selection.settings.shard_mb, config)
        return account
    render = with_text(writer(target.storage) if form.reads_audio else writer, form.name)
    if form.layout == Layout.FILE:
        return write_files(render, form.extension, transcripts, target)
    # One after the other asks for a header, wherever the audio lies.
    return write_lines(render, form.files[0], transcripts, target, REMOTE_THREADS if form.reads_audio else 1)


def _require_one(transcripts: Iterable[Transcript], selection: Selection) -> Iterable[Transcript]:
    """The stream, begun. Raises `SettingsError` if there is nothing in it."""
    stream = iter(transcripts)
    first = next(stream, None)
    if first is None:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in selection.left_out.most_common())
        raise SettingsError(f"status, where: there is no such recording in the output ({reasons})")
    return chain([first], stream)
