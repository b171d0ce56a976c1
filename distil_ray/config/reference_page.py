"""Renders docs/configuration.md from the sections of the config; `make docs` writes it.

    python -m distil_ray.config.reference_page > docs/configuration.md

The page has the same content as --help, as tables. A test checks that it is up to date.
"""

import sys
from collections.abc import Iterator

from distil_ray.config import Config
from distil_ray.config.loader import describe_settings

HEAD = """# Configuration

This page is generated from `distil_ray/config/` by `make docs`.

A config is a YAML file with the sections below, passed with `--config FILE`. Commented examples are in `configs/`.
Every setting can be overridden on the command line with `section.key=value`. The value is YAML:
`input.uri='[s3://a, s3://b]'`, `model.revision=null`. Where a setting takes text, it is taken as it is written, also
where YAML would read a number, a date or a mapping: `run_id=20261122`, `decoding.prompt='Speakers: Anna, Bob'`. A
setting that is not given has its default value.

Unknown keys, keys that are set twice in a file, values of a wrong type and settings that conflict are reported before
anything is started, all at once, with exit code 2. Every run stores its whole config, including defaults, in
`runs/<run_id>/config.yaml`, which can be passed to `--config`. Credentials come from the environment, never from a
config.

Names end with their unit: `_s` is seconds, `_mb` is MiB. Fractions, shares and rates are between 0 and 1."""


def page() -> str:
    """Returns the page as Markdown, with a final newline."""
    return "\n".join([HEAD, *_sections()]) + "\n"


def _sections() -> Iterator[str]:
    title = None
    for key, kind, default, description in describe_settings():
        section = key.partition(".")[0] if "." in key else ""
        if section != title:
            title = section
            yield from _head(section)
        yield f"| `{key}` | {_code(default)} | {_code(kind)} | {_cell(description)} |"


def _head(section: str) -> Iterator[str]:
    about = (
        (type(Config.model_fields[section].default).__doc__ or "").strip() if section else "Settings of the whole run."
    )
    yield ""
    yield f"## {section or 'Run'}"
    yield ""
    yield about
    yield ""
    yield "| key | default | type | description |"
    yield "|---|---|---|---|"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    """Returns the text as inline code of a table cell, where a bar has to be escaped too."""
    return f"`{_cell(text)}`"


if __name__ == "__main__":
    sys.stdout.write(page())
