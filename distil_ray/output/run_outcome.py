"""The outcome of a run: how it ended, stored in its folder as outcome.json.

`ray job submit` and KubeRay distinguish only success and failure. The exit code of a run is therefore stored with the
run, and `distil-ray outcome` reads it. A run that was killed stores nothing; whether it still runs follows from the
lease of the output and from the process that holds it. After the transcription nobody holds the lease: until the later
steps of a command are done, the outcome itself says how long the process vouches for it, and is renewed.

    OUTPUT/runs/<run_id>/outcome.json    exit code, outcome, message, process, time
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from distil_ray.cli.signals import Stopped
from distil_ray.errors import DistilRayError, ExitCode
from distil_ray.output.lease import CLOCK_MARGIN_S, LeaseHolder, read_lease
from distil_ray.output.run_context import RUNS_FOLDER
from distil_ray.redaction import redact
from distil_ray.storage.process_identity import parse_process_label, this_process
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError, StorageError
from distil_ray.storage.uris import join

OUTCOME_FILE = "outcome.json"

OUTCOMES = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "failed",
    ExitCode.BAD_SETTINGS: "not started",
    ExitCode.TOO_MANY_FAILED: "too many failed",
    ExitCode.DRIFT: "drift",
    ExitCode.RUNNING: "running",
}
STOPPED = "stopped"  # by a signal; the exit code is 128 + the signal's number


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """Content of outcome.json.

    Attributes:
        exit_code: Exit code of the process; `ExitCode.RUNNING` while later steps of the command are not done (drift
            check of a nightly run, build of a data set).
        outcome: A value of `OUTCOMES`, or `STOPPED`.
        text: The message of a run that failed, without credentials.
        process: Label of the process that wrote the file.
        written_at: UTC, ISO 8601.
        until: End of an outcome that is not final, UTC, ISO 8601; a process that is alive renews it before. Empty for
            final outcomes.
    """

    exit_code: int
    outcome: str
    text: str
    process: str
    written_at: str
    until: str = ""

    def has_expired(self) -> bool:
        """Returns whether an outcome that is not final has not been renewed: its process has ended."""
        process = parse_process_label(self.process)
        if process is None or process.is_known_dead():
            return process is not None
        margin = timedelta(seconds=CLOCK_MARGIN_S)
        return bool(self.until) and datetime.now(UTC) > datetime.fromisoformat(self.until) + margin


def write_outcome(folder_uri: str, exit_code: int, text: str, storage: Storage) -> None:
    """Writes the final outcome of a run into its folder."""
    outcome = OUTCOMES[ExitCode(exit_code)] if exit_code in list(ExitCode) else STOPPED
    _write(folder_uri, RunOutcome(int(exit_code), outcome, redact(text), *_process_and_time()), storage)


def write_running(folder_uri: str, lease_s: float, storage: Storage) -> None:
    """Writes that a run has not ended, as known for the next `lease_s` seconds."""
    process, now = _process_and_time()
    until = (datetime.fromisoformat(now) + timedelta(seconds=lease_s)).isoformat()
    _write(folder_uri, RunOutcome(int(ExitCode.RUNNING), OUTCOMES[ExitCode.RUNNING], "", process, now, until), storage)


def _process_and_time() -> tuple[str, str]:
    return this_process().label, datetime.now(UTC).isoformat(timespec="seconds")


def _write(folder_uri: str, outcome: RunOutcome, storage: Storage) -> None:
    text = json.dumps(asdict(outcome), indent=2, ensure_ascii=False) + "\n"
    storage.put(join(folder_uri, OUTCOME_FILE), text.encode())


@contextmanager
def record_later_steps(folder_uri: str, lease_s: float, storage: Storage) -> Iterator[None]:
    """Renews the outcome of a run that has not ended every third of `lease_s` seconds, while the body does the rest.

    Like `record_failure` it writes the outcome if the body raises; else the caller writes it.
    """
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(lease_s / 3):
            with suppress(StorageError):  # the next renewal comes before the outcome has expired
                write_running(folder_uri, lease_s, storage)

    renewal = threading.Thread(target=renew, name="outcome", daemon=True)
    renewal.start()
    with record_failure(folder_uri, storage):
        try:
            yield
        finally:
            ended.set()
            renewal.join()


@contextmanager
def record_failure(folder_uri: str, storage: Storage) -> Iterator[None]:
    """Writes the outcome if the body raises, signals included; the exception is passed on."""
    try:
        yield
    except BaseException as error:
        write_failure(folder_uri, error, storage)
        raise


def write_failure(folder_uri: str, error: BaseException, storage: Storage) -> None:
    """Writes the outcome of a run that ended by an exception. Storage errors are ignored."""
    code = error.exit_code if isinstance(error, DistilRayError | Stopped) else ExitCode.FAILED
    with suppress(StorageError):
        write_outcome(folder_uri, code, str(error) or type(error).__name__, storage)


def find_outcome(output: str, run_id: str, storage: Storage) -> RunOutcome:
    """Returns the outcome of a run, whether it has ended or not.

    Args:
        output: Normalized URI of the output.
        run_id: A run with a folder in the output, or the run that holds the lease.
        storage: Storage of the output.

    Returns:
        The stored outcome; `ExitCode.RUNNING` for a run that has not ended; `ExitCode.FAILED` for one that was killed.
    """
    stored = _read_outcome(join(output, RUNS_FOLDER, run_id), storage)
    if stored is not None and stored.exit_code != ExitCode.RUNNING:
        return stored
    holder = find_running(output, storage)
    if holder is not None and holder.run_id == run_id:
        return _unstored(ExitCode.RUNNING, f"process {holder.process.pid} on {holder.process.host}")
    if stored is not None and not stored.has_expired():
        return stored
    return _unstored(ExitCode.FAILED, "it was killed, or its machine died. Re-run the same command to resume")


def find_running(output: str, storage: Storage) -> LeaseHolder | None:
    """Returns the holder of the output's lease, unless the lease has expired."""
    holder = read_lease(output, storage)
    return None if holder is None or holder.is_expired(datetime.now(UTC)) else holder


def _read_outcome(folder_uri: str, storage: Storage) -> RunOutcome | None:
    try:
        return RunOutcome(**json.loads(storage.read(join(folder_uri, OUTCOME_FILE))))
    except MissingError:
        return None
    except (ValueError, TypeError):  # damaged
        return None


def _unstored(code: ExitCode, text: str) -> RunOutcome:
    return RunOutcome(int(code), OUTCOMES[code], text, "", "")
