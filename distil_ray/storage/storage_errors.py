"""Errors of storage: their exceptions, their messages, and hints on how to fix the most common ones.

fsspec, s3fs, aiohttp and the operating system report errors in their own types. `storage_errors` turns all of them into
`StorageError`, which names the URI, has an `ErrorKind`, and ends in a hint where the cause is a known one.
"""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distil_ray.errors import DistilRayError, ErrorKind
from distil_ray.redaction import redact
from distil_ray.storage.http import translate_http_error
from distil_ray.storage.local_files import SpecialFileError

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_MAX_REASON = 300  # characters of the original message that are shown

_CHECK_ENDPOINT = "Check storage.endpoint_url (or AWS_ENDPOINT_URL) and the network."
_WRONG_REGION = "The bucket is in another region: set storage.region (or AWS_REGION) to the bucket's region."

# (texts to look for, hint). The first entry with a text that occurs in the error or one of its causes is used.
_HINTS = (
    (
        ("NoCredentialsError", "PartialCredentialsError"),
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment (or AWS_PROFILE, or give the machine a"
        " role). For public buckets set storage.anonymous=true.",
    ),
    (("InvalidAccessKeyId",), "The store does not know AWS_ACCESS_KEY_ID: check storage.endpoint_url."),
    (("SignatureDoesNotMatch",), "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID."),
    (("ExpiredToken", "TokenRefreshRequired"), "The credentials have expired: get new ones, with AWS_SESSION_TOKEN."),
    (("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint", "(301)"), _WRONG_REGION),
    (
        ("AccessDenied",),
        "These credentials lack a permission: reading needs s3:ListBucket and s3:GetObject, writing also"
        " s3:PutObject and s3:DeleteObject.",
    ),
    # S3 answers a request for the metadata of one object with a status and no reason
    (
        ("Forbidden", "(403)"),
        "Check that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are for this store, and that they may read"
        " (s3:ListBucket, s3:GetObject).",
    ),
    (("Bad Request", "(400)"), "Check that storage.region is the bucket's region, and that the credentials are valid."),
    (("EndpointConnectionError", "Invalid endpoint", "ConnectTimeoutError"), _CHECK_ENDPOINT),
    (("ClientConnectorError", "Name or service not known"), "Check the address and the network."),
    (
        ("No space left on device", "Disk quota exceeded"),
        "Free some space, or choose another location.",
    ),
    (("Read-only file system", "Permission denied"), "Choose a location that this user may write to."),
    (("Not a directory", "File exists"), "A file has the name of a folder on this path: choose another folder."),
)


class StorageError(DistilRayError):
    """A read or write that failed.

    Attributes:
        kind: FORBIDDEN, STORAGE, NOT_AUDIO (no regular file) or NOT_FOUND (`MissingError` only).
    """

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:  # two arguments: pickled between processes
        return type(self), (self.kind, str(self))


class MissingError(StorageError, FileNotFoundError):
    """There is no such file, folder or bucket."""


class ChangedError(StorageError):
    """A file has another version than the one that was asked for."""


@contextmanager
def storage_errors(action: str, uri: str) -> Iterator[None]:
    """Turns errors raised inside the block into a `StorageError` that names the URI.

    FileExistsError passes unchanged, because conditional writes depend on it.

    Args:
        action: Verb for the message "cannot <action> <uri>".
        uri: Location that the block works on.
    """
    try:
        yield
    except (DistilRayError, FileExistsError):
        raise
    except Exception as error:
        raise explain_error(action, uri, error) from without_secrets(uri, error)


def explain_error(action: str, uri: str, error: Exception) -> StorageError:
    """Returns the `StorageError` for an error of a store, a disk or the network; arguments as `storage_errors`."""
    error = translate_http_error(error)
    reason = " ".join(str(error).split())[:_MAX_REASON] or type(error).__name__
    # A path below a file is "missing" to a reader; a writer needs to know that a file has the name of a folder.
    if isinstance(error, FileNotFoundError) or (action != "write" and is_missing(error)):
        return MissingError(ErrorKind.NOT_FOUND, f"cannot {action} {uri}: there is no such file or bucket")
    if isinstance(error, SpecialFileError):
        return StorageError(ErrorKind.NOT_AUDIO, f"{uri}: {error}")
    hint = _find_hint(error)
    if is_disk_full(error):
        disk = "its disk" if action == "write" else f"the disk of the temporary folder {tempfile.gettempdir()}"
        return StorageError(ErrorKind.STORAGE, f"cannot {action} {uri}: {disk} is full ({reason}){hint}")
    if isinstance(error, PermissionError):
        return StorageError(ErrorKind.FORBIDDEN, f"cannot {action} {uri}: access denied ({reason}){hint}")
    return StorageError(ErrorKind.STORAGE, f"cannot {action} {uri}: {type(error).__name__}: {reason}{hint}")


def without_secrets(uri: str, error: Exception) -> Exception | None:
    """Returns `error`, to be chained as a cause; None if its text or its cause's holds a credential."""
    words = f"{uri} {error} {error.__cause__}"
    return error if redact(words) == words else None


def is_missing(error: Exception) -> bool:
    """Returns True if the file does not exist or cannot exist: below a file, a name too long, a link to itself."""
    return isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno in _MISSING)


def is_disk_full(error: BaseException) -> bool:
    """Returns True if a disk, or the quota of a user on it, is full."""
    return any(isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT) for one in _with_causes(error))


def _find_hint(error: BaseException) -> str:
    """Returns the hint for an error with ". " before it, or an empty string."""
    words = " ".join(f"{type(one).__name__} {one}" for one in _with_causes(error))
    return next((f". {hint}" for needles, hint in _HINTS if any(needle in words for needle in needles)), "")


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and its causes: s3fs raises OSError and keeps S3's error code in the cause."""
    while error is not None:
        yield error
        error = error.__cause__
