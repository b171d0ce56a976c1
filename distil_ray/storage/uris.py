"""URIs and paths: normalization, joining, and tests of their form.

A URI is an absolute local path or ``scheme://…``. Nothing here reads a file or opens a connection.
"""

import os
import re
from urllib.parse import unquote

_FILE_URI = re.compile(r"file:(?://(?:localhost)?)?(?=/)", re.IGNORECASE)  # up to the path
# RFC 3986; IPv6 hosts in brackets are not covered
_ENCODED = re.compile(r"(?:[A-Za-z0-9\-._~:/?#@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")


def normalize(uri: str) -> str:
    """Returns the canonical form of a location, so that equal locations compare equal.

    File URIs (``file:///a``, ``file://localhost/a``, ``file:/a``) and relative paths become absolute paths. Trailing
    slashes are removed, except for http(s) URLs, where a slash makes a different address. Percent-encoding is decoded
    in file URIs only; paths, URLs and object keys are kept as they are written.
    """
    if found := _FILE_URI.match(uri):
        uri = unquote(uri[found.end() :])
    if "://" not in uri:
        return os.path.abspath(os.path.expanduser(uri))
    return uri if is_http(uri) else uri.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """Returns `uri` with further path components appended."""
    return "/".join((uri.rstrip("/"), *parts))


def parent(uri: str) -> str:
    """Returns the folder of a file."""
    return uri.rsplit("/", 1)[0]


def is_remote(uri: str) -> bool:
    """Returns True for URIs with a scheme, False for local paths."""
    return "://" in uri


def is_absolute(uri: str) -> bool:
    """Returns True for a remote URI, a file URI or an absolute path, False for a path relative to something else."""
    return is_remote(uri) or uri.startswith("/") or _FILE_URI.match(uri) is not None


def is_http(uri: str) -> bool:
    """Returns True for http and https URLs."""
    return uri[:1] in ("h", "H") and uri[:8].lower().startswith(("http://", "https://"))


def is_encoded(uri: str) -> bool:
    """Returns True for an http(s) URL that is completely percent-encoded.

    Such a URL is sent exactly as written, because a signature may cover its characters. Other URLs (with spaces,
    non-ASCII letters or a bare ``%``) are encoded before they are sent.
    """
    return is_http(uri) and _ENCODED.fullmatch(uri) is not None
