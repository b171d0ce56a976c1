"""Credentials kept out of what is written and shown: in URIs, and by their values in any text.

The one place that knows what a credential looks like. Exceptions (errors.py), lines on the console (lines.py), stored
settings (settings.py) and the plan pass through it; whoever needs the whole URI to read a recording gets it beside the
plan, never from a file. It errs on the side of hiding: a query's parameter that only sounds like a key is hidden too.
"""

import os
import re
from collections.abc import Sequence

HIDDEN = "***"

# Between scheme and host: user, password, token. A bucket's or host's name cannot hold an @.
_USERINFO = re.compile(r"(?<=://)[^/\s?#@'\"]+@")
# Parameters of signed URLs (S3, Google, Azure, CloudFront) and of APIs: X-Amz-Signature, sig, access_token, api_key, …
_PARAMETER = re.compile(
    r"([?&;][^=&;\s?#'\"]*(?:sig|token|secret|passw|pwd|credential|key|auth|policy)[^=&;\s?#'\"]*=)[^&;\s#'\"]+", re.I
)
# Variables whose values are credentials; shorter values are words that texts may well hold ("test").
_VARIABLES = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|(ACCESS|API|PRIVATE)_KEY", re.I)
_SHORTEST = 8  # letters


def redact(text: str, secrets: Sequence[str] | None = None) -> str:
    """The text with `HIDDEN` in place of credentials: those in URIs, and the values of the environment's own.

    `secrets`: `environment_secrets()`, for whoever has many texts; looking through the environment costs more than the rest.
    """
    text = _redact_uris(text)
    for value in environment_secrets() if secrets is None else secrets:
        text = text.replace(value, HIDDEN)
    return text


def environment_secrets() -> list[str]:
    """The values of the environment's variables that are credentials."""
    pairs = ((name, value) for name, value in os.environ.items() if len(value) >= _SHORTEST)
    return [value for name, value in pairs if _VARIABLES.search(name) and not value.startswith("/")]


def has_secret(uri: str) -> bool:
    """Whether a URI holds something that must not be written down."""
    return _redact_uris(uri) != uri


def _redact_uris(text: str) -> str:
    if "://" in text and ("@" in text or "=" in text):  # most URIs have neither
        text = _PARAMETER.sub(rf"\1{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", text))
    return text
