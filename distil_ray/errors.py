"""Exceptions, exit codes, and the kinds of errors of recordings.

A bad *setting* is an exception and stops the run before anything was started. A bad *recording* is a row: its
``error_kind`` is one of `ErrorKind`, its ``error`` names the URI and says what was found.
"""

from enum import IntEnum, StrEnum

from distil_ray.redaction import redact


class ExitCode(IntEnum):
    """Exit codes of every job. `ray job submit` passes on only 0 or 1: the run folder holds the outcome too."""

    DONE = 0
    FAILED = 1  # the run itself failed, or its accounting did not agree
    BAD_SETTINGS = 2  # a setting or the input was wrong; nothing was started
    TOO_MANY_FAILED = (
        3  # done and accounted for, but more recordings failed than max_failed_fraction and max_failed_count allow
    )
    DRIFT = 4  # done, but a figure of the nightly run is outside the limits of the drift check
    RUNNING = 75  # returned by `distil-ray outcome` alone: the run has not ended


class DistilRayError(Exception):
    """Base of the errors that a person can act on: shown as a message, without a traceback and without credentials."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class SettingsError(DistilRayError):
    """A setting cannot work: names the key, what was found and what would do."""

    exit_code = ExitCode.BAD_SETTINGS


class InputError(DistilRayError):
    """The input cannot be listed as asked: a missing folder, a broken manifest, a doubled id."""

    exit_code = ExitCode.BAD_SETTINGS


class RunError(DistilRayError):
    """The run could not be carried to its end."""


class ErrorKind(StrEnum):
    """Reason why a recording failed or is only partly transcribed (column ``error_kind``)."""

    NOT_FOUND = "not_found"  # listed, but gone when it was read
    FORBIDDEN = "forbidden"  # the store refused to read it
    STORAGE = "storage"  # reading failed after all retries
    EMPTY_FILE = "empty_file"  # zero bytes
    NOT_AUDIO = "not_audio"  # no decoder accepts it
    NO_AUDIO_STREAM = "no_audio_stream"  # a container with pictures only
    NO_CHANNEL = "no_channel"  # the source names a channel that it has not (status: failed)
    NO_SAMPLES = "no_samples"  # a valid file without a sample (status: empty)
    TRUNCATED = "truncated"  # fewer samples than the header, or the segment, promises (status: partial)
    TOO_LONG = "too_long"  # lasts longer than `input.max_duration_s`, or says so (status: failed)
    CORRUPT = "corrupt"  # decoding broke off or passed over damage (partial if samples came, else failed)
    NON_FINITE = "non_finite"  # NaN or infinite samples, set to zero (partial; failed if there are no others)
    DECODE_CRASH = "decode_crash"  # the decoder's process died on it
    DECODE_TIMEOUT = "decode_timeout"  # the decoder gave no samples for `resources.decoder_timeout_s`
    DECODE_OOM = "decode_oom"  # the decoder wanted more than `resources.decoder_memory_mb`
    INVALID_ROW = "invalid_row"  # its row in the manifest cannot be right: a negative time, no path
    UNSUPPORTED_LANGUAGE = "unsupported_language"  # the source says a language that the checkpoint does not know
    INFERENCE_ERROR = "inference_error"  # the recognizer raised on it
    INFERENCE_TIMEOUT = (
        "inference_timeout"  # the recognizer gave no answer in `resources.recognizer_timeout_s` and more
    )
    WORKER_CRASH = "worker_crash"  # it killed its recognizer's process, more than once
    INTERNAL = "internal"  # a fault of this program


# Kinds that lie in the bytes of a file: another try of the same version meets them again.
PERMANENT_KINDS = frozenset({ErrorKind.TRUNCATED, ErrorKind.CORRUPT, ErrorKind.NON_FINITE})
