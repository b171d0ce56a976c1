"""Pages of HTML out of templates: one file each, with style, script and plots inside, and nothing from the network.

What the templates are given is data; how a number looks for people is here.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distil_ray.redaction import environment_secrets, redact
from distil_ray.report.charts import clock

TEMPLATES = Path(__file__).parent / "templates"

# Base64 looks like parameters of a signed URL now and then. Only a template can write this: quotes in data are escaped.
_SOUND = re.compile(r'(?<=data-source=")(data:audio/ogg;base64,[A-Za-z0-9+/=]*)')


def render(template: str, **context: Any) -> bytes:
    """A page as UTF-8. Everything in `context` is escaped, and shown without credentials."""
    parts = _SOUND.split(_environment().get_template(template).render(context))  # text, sound, text, …
    secrets = environment_secrets()
    parts[::2] = [redact(text, secrets) for text in parts[::2]]
    return "".join(parts).encode()


def per_cent(rate: float | None, digits: int = 2) -> str:
    """A fraction as per cent; a dash for None."""
    return "–" if rate is None else f"{100 * rate:.{digits}f}"


def signed(rate: float | None) -> str:
    """A difference of fractions in points, with its sign."""
    return "–" if rate is None else f"{100 * rate:+.2f}".replace("-", "−")


def number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds in the unit that people would say them in."""
    if seconds is None:
        return "–"
    if not seconds:
        return "none"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def shortened(identity: str) -> str:
    """A checkpoint's identity with the first digits of its hash."""
    return re.sub(r"([0-9a-f]{12})[0-9a-f]{20,}", r"\1…", identity)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "per_cent": per_cent,
        "signed": signed,
        "number": number,
        "duration": duration,
        "clock": clock,
        "shortened": shortened,
    }
    for name in ("style.css", "script.js"):
        environment.globals[name.replace(".", "_")] = Markup((TEMPLATES / name).read_text(encoding="utf-8"))
    return environment
