"""The webhook of nightly runs: one JSON POST with the report.

The address may contain a secret, such as a token in the path, as chat services use. Messages and exceptions of this
module therefore contain only the host. A redirect is an error: following it would send a GET to another address.
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
RETRY_PAUSE_S = 1.0  # before the second try; doubled before each further one
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that are worth another try


def resolve_url(config: NightlyConfig) -> str | None:
    """Returns the address from the settings, else from the environment; None if neither is set.

    Raises:
        SettingsError: The address is not an HTTP URL.
    """
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
        raise SettingsError(f"{where}: must be https:// or http://, a host, and a path; the value is not shown.")
    return url


def post(url: str, body: Mapping[str, Any], timeout_s: float, attempts: int) -> str | None:
    """Posts `body` as JSON.

    Args:
        url: Address of the webhook.
        body: Content; must be serializable without NaN.
        timeout_s: Timeout of each try in seconds.
        attempts: Maximum number of tries.

    Returns:
        None on success; otherwise a sentence with the reason, which names only the host.
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
    return f"the webhook at {urlsplit(url).hostname} did not accept the report in {tries}: {refusal}"


class _RefusedError(Exception):
    """A try failed. `is_final` is True if another try cannot succeed."""

    def __init__(self, message: str, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


def _send(url: str, data: bytes, timeout_s: float) -> None:
    """Sends one request. Raises `_RefusedError`."""
    headers = {"Content-Type": "application/json", "User-Agent": "distil-ray"}
    try:
        with _OPENER.open(urllib.request.Request(url, data, headers, method="POST"), timeout=timeout_s):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        raise _RefusedError(f"HTTP status {error.code}", error.code not in TRANSIENT) from None
    except (OSError, HTTPException) as error:  # its text and traceback may contain the address
        cause = getattr(error, "reason", error)
        raise _RefusedError(type(cause).__name__) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
