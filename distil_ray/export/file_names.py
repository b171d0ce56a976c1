"""Names of files made of recording ids, which may hold anything.

A name is the id itself where that is harmless; whatever is not (`%`, control characters, what some systems do not
allow, a dot at the start) becomes %XX, its bytes in UTF-8. Decoding gives the id back, so no two ids share a name, and
no name leads out of its folder: no part of it is empty, "." or "..". What would be longer than file systems and stores
allow keeps its beginning and ends in its hash, behind a sign that no encoded name has. Not looked after: file systems
that take "A" and "a" for one name.
"""

import hashlib
import re

RESERVED = frozenset('%\\:*?"<>|')  # means something to shells, globs, Windows, or to this encoding
LEADING = (".", "~", "-", " ")  # hidden file, home, option
TRAILING = (".", " ")
MAX_PART = 180  # bytes of a part between slashes, extension not included; file systems allow 255
MAX_NAME = 700  # bytes in all; S3 allows 1024 with the folder
HASH_SIGN = "%~"

_EMPTY_PART = re.compile(r"\A/|(?<=/)/|/\Z")  # slashes with nothing before or behind them


def file_name(recording_id: str, extension: str) -> str:
    """A relative path for a recording, with slashes where its id has them. `extension` begins with its dot.

    No folder ends in the extension, so that none has the name of a file.
    """
    *folders, last = _parts(recording_id)
    ending = _hex(extension[0]) + extension[1:]
    safe = [part.removesuffix(extension) + ending if part.endswith(extension) else part for part in folders]
    return _shortened([*safe, last], recording_id) + extension


def sample_key(recording_id: str) -> str:
    """A recording's key in a WebDataset: as `file_name`, but without any dot, behind which the extension begins."""
    return _shortened([part.replace(".", _hex(".")) for part in _parts(recording_id)], recording_id)


def _parts(recording_id: str) -> list[str]:
    plain = "".join(_hex(sign) if sign in RESERVED or not sign.isprintable() else sign for sign in recording_id)
    return [_with_harmless_ends(part) for part in _EMPTY_PART.sub(_hex("/"), plain).split("/")]


def _with_harmless_ends(part: str) -> str:
    if part.startswith(LEADING):
        part = _hex(part[0]) + part[1:]
    return part[:-1] + _hex(part[-1]) if part.endswith(TRAILING) else part


def _hex(sign: str) -> str:
    return "".join(f"%{byte:02X}" for byte in sign.encode())


def _shortened(parts: list[str], recording_id: str) -> str:
    name = "/".join(parts)
    if name and len(name.encode()) <= MAX_NAME and all(len(part.encode()) <= MAX_PART for part in parts):
        return name
    digest = hashlib.blake2b(recording_id.encode(), digest_size=16).hexdigest()
    beginning = parts[0].encode()[: MAX_PART - len(HASH_SIGN) - len(digest)].decode(errors="ignore")
    return f"{beginning}{HASH_SIGN}{digest}"
