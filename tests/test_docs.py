"""README and docs/ say what is so: their links lead somewhere, their commands are ones that the jobs take.

A command in an indented block is held to this:

- `distil-ray NAME …`, `… jobs/NAME.py …`, under `ray job submit` too: the command's own command line and config take
  it. Capitals and `…` stand for something that a reader has (OUT, MANIFEST).
- `make TARGET`: the Makefile has the target. `python -m MODULE`: the module is there.
- any other stands in a block below a line `<!-- not run: … -->` that says what it needs: an account, a cluster.
"""

import ast
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from distil_ray.cli import arguments as arguments_of_commands
from distil_ray.cli import command as commands
from distil_ray.cli import command_line
from distil_ray.commands import create_student
from distil_ray.commands.main import COMMANDS as NAMES
from distil_ray.commands.main import main
from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.config.reference_page import page
from distil_ray.errors import DistilRayError, ErrorKind, ExitCode
from distil_ray.pipeline.metrics import SNAPSHOT_GAUGES
from distil_ray.pipeline.progress import ProgressState
from distil_ray.schema import TRANSCRIPT
from tests.support.jobs import load_job

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *DOCS]
PYTHONS = ("python", "python3", ".venv/bin/python")
PROGRAMS = (*PYTHONS, "distil-ray", "make", "ray", "pip", "kubectl", "aws", "export", "curl", "crontab", "docker")
MARK = re.compile(r"<!-- not run: \S.* -->")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@dataclass(frozen=True)
class Command:
    """A command as a page shows it, its continued lines joined. `marked`: it says that no test runs it."""

    place: str
    words: tuple[str, ...]
    marked: bool

    def __str__(self) -> str:
        return f"{self.place} {' '.join(self.words)[:60]}"

    @property
    def job(self) -> tuple[str, list[str]] | None:
        """Name and arguments of the job, if it is one."""
        for place, word in enumerate(self.words):
            found = re.fullmatch(r"jobs/(\w+)\.py", word)
            is_program = word == "distil-ray" and (place == 0 or self.words[place - 1] == "--")
            if found or is_program:
                name, start = (found[1], place + 1) if found else (self.words[place + 1], place + 2)
                return name.replace("_", "-"), [
                    word if "=[" in word else word.strip("[]") for word in self.words[start:]
                ]
        return None


def _commands(path: Path) -> Iterator[Command]:
    marked, above, joined = False, "", ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("    "):
            if line.strip():
                above = line
            joined = ""
            marked = bool(MARK.fullmatch(above))
            continue
        joined += line.strip().removesuffix("\\")
        if line.endswith("\\"):
            joined += " "
            continue
        text, joined = joined, ""
        if text.partition(" ")[0] in PROGRAMS:
            yield Command(f"{path.relative_to(ROOT)}:{number}", tuple(shlex.split(text, comments=True)), marked)


COMMANDS = [command for path in PAGES for command in _commands(path)]
JOBS = [command for command in COMMANDS if command.job]


def test_the_pages_have_commands() -> None:
    assert len(JOBS) > 20


@pytest.mark.parametrize("command", [one for one in COMMANDS if not one.job], ids=str)
def test_what_is_no_job_exists_or_says_what_it_needs(command: Command) -> None:
    program, *arguments = command.words
    if program == "make":
        assert arguments[0] in TARGETS
    elif program in PYTHONS:
        assert arguments[0] == "-m"
        assert importlib.util.find_spec(arguments[1])
    else:
        assert command.marked, f"put <!-- not run: needs … --> above the block of {command.place}"


class UnderstoodError(DistilRayError):
    """Raised where the job's work would begin."""

    exit_code = ExitCode.DONE


@pytest.mark.parametrize("command", JOBS, ids=str)
def test_a_job_takes_the_command_that_a_page_shows(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to its work: flags, the config's file, keys and values."""
    assert command.job
    name, arguments = command.job
    given = ["configs/cpu.yaml" if word == "…" else word.replace("…", "x") for word in arguments]

    def load(path: str | None, overrides: list[str]) -> Config:
        load_config(path, overrides)
        raise UnderstoodError("")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command_line, "handle_signals", lambda: None)
    monkeypatch.setattr(commands, "load_config", load)
    monkeypatch.setattr(commands, "set_up_logging", lambda _: None)
    monkeypatch.setattr(arguments_of_commands, "_is_path", lambda word: "=" not in word)  # a page's files are examples
    if name in NAMES:
        monkeypatch.setattr(create_student, "create", lambda *_: ExitCode.DONE)
        assert main([name, *given]) == 0, capsys.readouterr().err
        return
    monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py", *given])
    job = load_job(name)
    monkeypatch.setattr(job, "_measure", lambda *_: ExitCode.DONE)
    assert job.main() == 0, capsys.readouterr().err


LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _anchors(path: Path) -> set[str]:
    """What a heading's link is called: as GitHub makes it."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_a_file_and_a_heading_that_are_there(path: Path) -> None:
    wrong = []
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_is_linked_from_the_readme() -> None:
    named = set(re.findall(r"\(docs/([\w.]+)", PAGES[0].read_text(encoding="utf-8")))
    assert {path.name for path in DOCS} - named == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.])((?:configs|jobs|tests|benchmarks|distil_ray)/[\w./-]+\.(?:yaml|py|html))", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_architecture_page_describes_every_folder() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "distil_ray").glob("*/__init__.py")}
    assert [name for name in sorted(folders) if f"| `{name}/`" not in text] == []


def test_the_configuration_page_is_made_from_the_settings_of_today() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_column_of_the_output_has_its_line() -> None:
    text = (ROOT / "docs" / "output.md").read_text(encoding="utf-8")
    assert [name for name in TRANSCRIPT.names if f"`{name}`" not in text] == []


def test_every_kind_of_failure_is_explained() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert [kind for kind in ErrorKind if f"`{kind}`" not in text] == []


def _literals(root: Path) -> Iterator[str]:
    """Yields the string literals of a package, without docstrings; values in them are replaced by `…`."""
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value


def test_messages_that_troubleshooting_quotes_exist() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| message \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    first_cells = [line.split(" | ")[0] for table in tables for line in table.splitlines()]
    quoted = [message for cell in first_cells for message in re.findall(r"`([^`]+)`", cell)]
    literals = list(_literals(ROOT / "distil_ray"))

    assert len(quoted) > 30
    assert [words for words in quoted if not any(words.strip("… ") in literal for literal in literals)] == []


def test_the_lines_of_json_are_described_key_by_key() -> None:
    text = (ROOT / "docs" / "output.md").read_text(encoding="utf-8").partition("## Lines of JSON")[2]
    keys = [field.name for field in fields(ProgressState)]
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_the_metrics_are_named_as_ray_exports_them() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    counters = re.findall(
        r'_counter\("(\w+)"', (ROOT / "distil_ray" / "pipeline" / "metrics.py").read_text(encoding="utf-8")
    )
    names = [f"ray_distil_ray_{name}_total" for name in counters] + [f"ray_{name}" for name, *_ in SNAPSHOT_GAUGES]
    assert [name for name in names if f"`{name}`" not in text] == []
