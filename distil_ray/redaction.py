"""Redaction of credentials in URIs, and of the values of secret environment variables in any text.

Exception messages, console output, stored settings and the plan pass through `redact`. Code that needs a complete URI
to read a recording gets it in memory, never from a file. In doubt a value is hidden: any query parameter whose name
resembles that of a key is redacted.
"""

import os
import re
from collections.abc import Sequence

HIDDEN = "***"

# Between scheme and host: user, password, token. A bucket's or host's name cannot hold an @. A password may hold one
# and, against the rules, "/", "?" or "#"; then a colon comes before it, with no port behind.
_USERINFO = re.compile(r"(?<=://)(?:[^/\s?#@:'\"<>]+:(?!\d{1,5}(?:[/?#\s'\"<>]|$))[^\s'\"<>]*@|[^/\s?#'\"]+@)")
# Parameters of signed URLs (S3, Google, Azure, CloudFront) and of APIs: X-Amz-Signature, sig, access_token, api_key, …
_PARAMETER = re.compile(
    r"([?&;][^=&;\s?#'\"<>]*(?:sig|token|secret|pass(?=[=w_-]|phrase)|pwd|credential|key|auth|policy)[^=&;\s?#'\"<>]*=)"
    r"[^&;\s#'\"<>]+",
    re.I,
)
# Variables whose values are credentials; shorter values are words that texts may well hold ("test").
_VARIABLES = re.compile(
    r"SECRET|TOKEN|PASSWORD|CREDENTIAL|(ACCESS|API|PRIVATE|ACCOUNT|STORAGE)_KEY|CONNECTION_STRING", re.I
)
_SHORTEST = 8  # letters


def redact(text: str, secrets: Sequence[str] | None = None) -> str:
    """Returns the text with credentials replaced by `HIDDEN`.

    Args:
        text: Any text.
        secrets: Values to hide; default: `environment_secrets()`. Pass it when redacting many texts, because scanning
            the environment is the slowest part.
    """
    text = _redact_uris(text)
    for value in environment_secrets() if secrets is None else secrets:
        text = text.replace(value, HIDDEN)
    return text


def environment_secrets() -> list[str]:
    """Returns the values of environment variables that are credentials, the longest first: it may contain another."""
    pairs = ((name, value) for name, value in os.environ.items() if len(value) >= _SHORTEST)
    values = {value for name, value in pairs if _VARIABLES.search(name) and not value.startswith("/")}
    return sorted(values, key=lambda value: (-len(value), value))


def has_secret(uri: str) -> bool:
    """Returns True if a URI contains a credential."""
    return _redact_uris(uri) != uri


def _redact_uris(text: str) -> str:
    if "://" in text and ("@" in text or "=" in text):  # most URIs have neither
        text = _PARAMETER.sub(rf"\1{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", text))
    return text
