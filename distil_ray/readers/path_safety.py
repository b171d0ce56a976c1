"""The folders that a manifest may name files in: its own, and ``input.base_dir``. A list from somewhere must not make a
job read anything else.

What counts is where a URI leads, not how it is spelled: ``..`` and its encoded forms, other buckets and hosts, other
schemes (``file://`` in a manifest on S3), and symbolic links on local disks, which are followed to their ends.
"""

import os
import re
from functools import lru_cache
from urllib.parse import unquote

from distil_ray.storage.storage import is_remote

_DOTS = re.compile(r"(^|/)\.{1,2}(/|$)")  # a part "." or ".." of a path


def is_inside(folder: str, uri: str) -> bool:
    """Whether a file lies below a folder; both as `storage.normalize` gives them."""
    if is_remote(folder) != is_remote(uri):
        return False
    if not is_remote(folder):
        return os.path.realpath(uri).startswith(_real(folder).rstrip("/") + "/")
    root_place, root_path = _split(folder)
    place, path = _split(uri)
    plain = unquote(unquote(path))  # servers decode once, some gateways twice
    if place != root_place or _DOTS.search(plain) or "\\" in unquote(unquote(uri)):  # some take it for a slash
        return False
    return not root_path or path.startswith(root_path.rstrip("/") + "/")


@lru_cache(maxsize=8)
def _real(folder: str) -> str:
    """Where a folder's links lead; it is asked about for every file of a listing."""
    return os.path.realpath(folder)


def _split(uri: str) -> tuple[str, str]:
    """(scheme and host, path); a query does not say where a file lies, a user neither."""
    scheme, _, rest = uri.partition("://")
    if scheme.lower() in ("http", "https"):
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, _, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}".lower(), path
