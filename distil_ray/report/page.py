"""Rendering of the HTML pages. Each page is one file that contains its style, script and plots and loads nothing else.

Templates receive data; the filters that format numbers for display are defined here.
"""

import re
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distil_ray.cli.console import format_duration, format_elapsed
from distil_ray.redaction import environment_secrets, redact

TEMPLATES = Path(__file__).parent / "templates"

# Excluded from redaction: base64 can look like the parameters of a signed URL. Only a template can write this pattern,
# because quotes in data are escaped.
_AUDIO = re.compile(r'(?<=data-source=")(data:audio/ogg;base64,[A-Za-z0-9+/=]*)')

_secrets: ContextVar[list[str]] = ContextVar("secrets")  # of the page that is rendered


def render(template: str, *, templates: Path = TEMPLATES, **context: Any) -> bytes:
    """Returns a page as UTF-8. All values of `context` are escaped, and credentials are redacted.

    Args:
        template: Name of the template file.
        templates: Its folder. A template of another folder can extend those of this package.
        context: Values for the template.
    """
    secrets = environment_secrets()
    token = _secrets.set(secrets)
    try:
        page = _environment(templates).get_template(template).render(context)
    finally:
        _secrets.reset(token)
    parts = _AUDIO.split(page)  # text, audio, text, …
    parts[::2] = [redact(text, secrets) for text in parts[::2]]  # also what is no plain text, such as plots
    return "".join(parts).encode()


def _redact_value(value: Any) -> Any:
    """Returns a text of a template without credentials, and any other value as it is.

    Before texts are escaped: afterwards credentials are written otherwise.
    """
    return redact(value, _secrets.get()) if type(value) is str else value


def percent(rate: float | None, digits: int = 2) -> str:
    """Returns a fraction in percent; a dash for None."""
    return "–" if rate is None else f"{100 * rate:.{digits}f}"


def signed(rate: float | None) -> str:
    """Returns a difference of fractions in percentage points, with its sign."""
    return "–" if rate is None else f"{100 * rate:+.2f}".replace("-", "−")


def number(value: float | None, digits: int = 0) -> str:
    """Returns a number with separators between thousands; a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Returns `format_duration`, with seconds below a minute, "none" for 0 and "–" for an unknown duration."""
    if seconds is None:
        return "–"
    if not seconds:
        return "none"
    return f"{seconds:.1f} s" if seconds < 60 else format_duration(seconds)


def shortened(identity: str) -> str:
    """Returns the identity of a checkpoint with its hash shortened to 12 digits."""
    return re.sub(r"([0-9a-f]{12})[0-9a-f]{20,}", r"\1…", identity)


@cache
def _environment(templates: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([templates, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_redact_value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "signed": signed,
        "number": number,
        "duration": duration,
        "elapsed": format_elapsed,
        "shortened": shortened,
    }
    for name in ("style.css", "script.js"):
        environment.globals[name.replace(".", "_")] = Markup((TEMPLATES / name).read_text(encoding="utf-8"))
    return environment
