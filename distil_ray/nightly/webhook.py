"""A webhook: one JSON POST that says how something ended.

Its address may hold a secret (a token in the path, as chat services have it): no message, note or exception from here
holds more of it than the host. A redirect is refused, because following one would turn the POST into a GET elsewhere.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from distil_ray.config import NightlyConfig
from distil_ray.errors import SettingsError

URL_VARIABLE = "DISTIL_RAY_WEBHOOK_URL"
RETRY_PAUSE_S = 1.0  # before the second try; twice as long before each further one
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that another try may not meet


def resolve_url(config: NightlyConfig) -> str | None:
    """The address of the settings, else of the environment. Raises `SettingsError` if it is none for HTTP."""
    url = config.webhook_url or os.environ.get(URL_VARIABLE)
    if not url:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        where = "nightly.webhook_url" if config.webhook_url else URL_VARIABLE
        raise SettingsError(f"{where}: must be https:// or http://, a host, and a path; it is not shown here.")
    return url


def post(url: str, body: Mapping[str, Any], timeout_s: float, attempts: int) -> str | None:
    """Posts `body` as JSON. None if it was taken; else a sentence about why not, without the address.

    `timeout_s`: seconds for an answer to each of the `attempts`.
    """
    data = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    for attempt in range(1, attempts + 1):
        try:
            _send(url, data, timeout_s)
            return None
        except _RefusedError as error:
            refusal = error
        if refusal.is_final or attempt == attempts:
            break
        time.sleep(RETRY_PAUSE_S * 2 ** (attempt - 1))
    tries = "1 try" if attempt == 1 else f"{attempt} tries"
    return f"the webhook at {urlsplit(url).hostname} took nothing in {tries}: {refusal}"


class _RefusedError(Exception):
    """One try that failed. `is_final`: another would fare no better."""

    def __init__(self, message: str, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


def _send(url: str, data: bytes, timeout_s: float) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "distil-ray"}
    try:
        with _OPENER.open(urllib.request.Request(url, data, headers, method="POST"), timeout=timeout_s):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        raise _RefusedError(f"HTTP status {error.code}", error.code not in TRANSIENT) from None
    except (OSError, HTTPException) as error:  # its text may quote the address, and so may its traceback
        cause = getattr(error, "reason", error)
        raise _RefusedError(type(cause).__name__) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
