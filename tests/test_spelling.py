"""American spelling in code, documents, settings and templates; docstrings that begin with a verb."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("distil_ray", "benchmarks", "jobs", "tests", "configs", "docs", "examples")
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".html", ".css", ".js", ".j2", ".toml", ".sh"}
THIS = Path(__file__)

# Stems of British spelling, as regular expressions without regard to case; letters may stand on either side.
BRITISH = (
    r"recognis", r"organis", r"normalis", r"tokenis", r"initialis", r"serialis", r"summaris", r"optimis(?!m)",
    r"summar?is", r"minimis", r"maximis", r"utilis", r"realis(?!t|m)", r"generalis", r"specialis", r"synchronis",
    r"characteris(?!t)", r"categoris", r"capitalis", r"centralis", r"equalis", r"finalis", r"localis", r"penalis",
    r"prioritis", r"quantis", r"randomis", r"standardis", r"stabilis", r"symbolis", r"visualis", r"vocalis",
    r"memoris", r"parallelis(?!m)", r"apologis", r"emphasis(?:e|ing)", r"analys(?:e[drs]?\b|ing)", r"paralys(?:e|ing)",
    r"colour", r"behaviour", r"favour", r"honour", r"labour", r"neighbour", r"rumour", r"humour", r"flavour",
    r"endeavour", r"harbour", r"\bcentre", r"metre\b", r"metres\b", r"\bfibre", r"\btheatre", r"calibre",
    r"catalogue", r"dialogue", r"\banalogue", r"cancell(?:ed|ing)", r"labell(?:ed|ing|er)", r"modell(?:ed|ing|er)",
    r"travell(?:ed|ing|er)", r"signall(?:ed|ing)", r"channell(?:ed|ing)", r"levell(?:ed|ing)", r"totall(?:ed|ing)",
    r"fuell(?:ed|ing)", r"initiall(?:ed|ing)", r"\blicenc", r"defence", r"offence", r"pretence", r"judgement",
    r"acknowledgement", r"\bgrey", r"\bwhilst", r"\bamongst", r"programme\b", r"programmes\b", r"artefact", r"\bcheque",
    r"\btyre", r"\bkerb", r"plough", r"sceptic", r"\bageing", r"fulfil(?:s|ment)?\b", r"enrol(?:s|ment)?\b",
    r"instal(?:s|ment)\b", r"skilful", r"wilful", r"storey", r"mould\b", r"sulphur", r"\btowards\b", r"spelt\b",
    r"\blearnt\b", r"\bburnt\b", r"\bdreamt\b", r"orientat(?:ed|ing)",
)  # fmt: skip
WORD = re.compile("|".join(BRITISH), re.IGNORECASE)

# File (or folder) -> what stands there on purpose: spelling of data, of other programs and of published texts.
ALLOWED = {
    "tests/evaluation/": {"colour", "grey"},  # normalizers make one spelling of both
    "tests/whisper/test_student.py": {"colour"},
    "distil_ray/pseudo_labels/utterances.py": {"licenc"},  # a key of metadata in corpora
    "tests/pseudo_labels/test_utterances.py": {"licenc"},
    "distil_ray/export/formats/ass.py": {"colour", "dialogue"},  # names of fields and lines of the format
    "tests/export/": {"dialogue"},
    "distil_ray/report/templates/": {"labelled"},  # aria-labelledby
    "benchmarks/gpu/templates/": {"labelled"},
}


def _files() -> Iterator[Path]:
    yield from (path for path in sorted(ROOT.glob("*")) if path.suffix in SUFFIXES or path.name == "Makefile")
    for folder in FOLDERS:
        yield from (path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES)


FILES = [path for path in _files() if path != THIS]


def test_the_list_finds_british_spelling_and_leaves_american_alone() -> None:
    for word in ("recognisers", "behaviour", "tokenised", "judgement", "cancelled", "labelling", "centre", "towards"):
        assert WORD.search(word), word
    for word in ("recognizers", "parallelism", "characteristic", "emphasis", "analysis", "center", "parameters"):
        assert not WORD.search(word), word


@pytest.mark.parametrize("folder", ("", *FOLDERS))
def test_spelling_is_american(folder: str) -> None:
    found = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        if name.partition("/")[0] != folder and (folder or "/" in name):
            continue
        allowed = {word for place, words in ALLOWED.items() if name.startswith(place) for word in words}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            words = {match.group().lower() for match in WORD.finditer(line)} - allowed
            found += [f"{name}:{number}: {word}" for word in sorted(words)]
    assert not found, "\n" + "\n".join(found)


def _docstrings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


@pytest.mark.parametrize("folder", ["distil_ray", "benchmarks", "jobs"])
def test_no_docstring_begins_with_a_question(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {text.splitlines()[0]}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, text in _docstrings(path)
        if re.match(r"(What|Whether|How|Who|Where|When|Why)\b", text)
    ]
    assert not found, "\n" + "\n".join(found)
