"""docs/configuration.md, made from the models of the settings (config/): `make docs` writes it anew.

    python -m distil_ray.config.reference_page > docs/configuration.md

What --help says in a terminal, as tables. A test compares the page with the models, so that neither is changed alone.
"""

import sys
from collections.abc import Iterator

from distil_ray.config import Config
from distil_ray.config.loader import describe_settings

HEAD = """# Configuration

Made from the models in `distil_ray/config/` by `make docs`; a test compares the two.

A config is a YAML file of the sections below (`--config FILE`; shipped ones, with a comment to every key, lie in
`configs/`). Whatever a file says can be overridden on the command line as `section.key=value`, the value in YAML:
`input.uri='[s3://a, s3://b]'`, `model.revision=null`. What is given nowhere has its default. An unknown key, a value
of the wrong kind and settings that do not go together are told before anything is started, all at once (exit code 2).
The whole config, defaults included, is stored with every run (`runs/<run_id>/config.yaml`) and can be run again.
Credentials come from the environment, never from a config.

Names end in their unit: `_s` seconds, `_mb` MiB, `_fraction` and rates 0 to 1."""


def page() -> str:
    """The whole page, with its last newline."""
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
    about = (type(Config.model_fields[section].default).__doc__ or "").strip() if section else "Of the run as a whole."
    yield ""
    yield f"## {section or 'The run'}"
    yield ""
    yield about
    yield ""
    yield "| key | default | takes | meaning |"
    yield "|---|---|---|---|"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    """In Markdown's tables a bar ends the cell, in code too."""
    return f"`{_cell(text)}`"


if __name__ == "__main__":
    sys.stdout.write(page())
