"""Import rules of the package. Imports are read from the syntax tree, so that lazy imports count too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "distil_ray"

# Imports run downwards only: a folder may use what stands before it here, and itself.
ORDER = (
    *("redaction", "errors", "types", "registry", "languages", "config", "storage", "schema", "cli"),
    *("audio", "whisper", "chunking", "recognition", "readers"),
    *("output", "evaluation", "report", "pipeline"),
    *("assistant_training", "nightly", "verify", "pseudo_labels", "export", "forget", "api", "demo", "commands"),
)

# All that a folder may import, of this package and of others: these run on any machine that they are copied to.
SELF_CONTAINED: dict[str, set[str]] = {
    "audio": {"audio", "errors", "types", "numpy", "soundfile", "av", "soxr"},
    "chunking": {"chunking", "audio", "whisper", "errors", "types", "languages", "registry", "numpy", "onnxruntime"},
    "whisper": {
        "whisper",
        "types",
        "languages",
        "numpy",
        "torch",
        "transformers",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "onnx",
        "onnxruntime",
    },
    "recognition": {
        "recognition",
        "whisper",
        "errors",
        "types",
        "registry",
        "numpy",
        "torch",
        "transformers",
        "rapidfuzz",
        "tokenizers",
        "triton",
    },
    "demo": {"demo", "errors", "types", "audio", "numpy", "soundfile", "moto", "botocore"},
}

# Where alone a package may be imported.
ONLY_IN: dict[str, set[str]] = {
    "ray": {
        "pipeline/ray_graph",
        "pipeline/graph_execution",
        "pipeline/ray_cluster",
        "pipeline/ray_key_value",
        "pipeline/metrics",
        "pipeline/ray_logging",
        "assistant_training/ray_train",
    },
    "fsspec": {"storage"},
    "s3fs": {"storage"},
    "torch": {"whisper", "recognition", "assistant_training"},
    # not in the native recognizer: it takes 110 MB of every actor
    "transformers": {
        "whisper/model",
        "recognition/transformers_recognizer",
        "recognition/transformers_long_form",
    },
    "triton": {"recognition"},
    "tokenizers": {"whisper", "recognition"},
    "huggingface_hub": {"whisper", "pseudo_labels"},
    "langcodes": {"languages"},
    "aiohttp": {"storage"},
    "pydantic": {"config"},
    "jiwer": {"evaluation/wer"},
    "whisper_normalizer": {"evaluation/normalizers"},
    "av": {"audio"},
    "onnxruntime": {"chunking", "whisper/quantize_onnx"},
    "botocore": {"demo"},
    "moto": {"demo"},
    "jinja2": {"report"},
}

STANDARD_LIBRARY = sys.stdlib_module_names


@dataclass(frozen=True, slots=True)
class Import:
    """An import of `target` in `folder`: another folder (or file) of this package if `own`, else a package."""

    location: str  # file:line
    folder: str
    module: str  # folder/module, without the folders between
    target: str
    own: bool


def _imports() -> Iterator[Import]:
    for path in sorted(PACKAGE.rglob("*.py")):
        folder = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        module = f"{folder}/{path.stem}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in _names(node):
                top, _, rest = name.partition(".")
                location = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                if top != "distil_ray":
                    yield Import(location, folder, module, top, own=False)
                elif rest:
                    yield Import(location, folder, module, rest.partition(".")[0], own=True)


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        module = node.module or ""
        return [f"{module}.{alias.name}" for alias in node.names] if module == "distil_ray" else [module]
    return []


IMPORTS = [found for found in _imports() if found.folder != "__init__"]


def _fail_with(lines: list[str]) -> None:
    assert not lines, "\n" + "\n".join(lines)


def test_every_room_has_its_place_in_the_order() -> None:
    folders = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith(("__", "."))}

    assert folders <= set(ORDER), f"add {sorted(folders - set(ORDER))} to ORDER"


def test_imports_run_downwards_only() -> None:
    _fail_with(
        [
            f"{found.location}: {found.folder} imports {found.target}, which comes after it"
            for found in IMPORTS
            if found.own and {found.target, found.folder} <= set(ORDER)
            if ORDER.index(found.target) > ORDER.index(found.folder)
        ]
    )


def test_modules_do_not_import_each_other_in_a_cycle() -> None:
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    graph = {
        module: {name for name in _imported_modules(path, set(modules)) if name in modules and name != module}
        for module, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def _imported_modules(path: Path, known: set[str]) -> Iterator[str]:
    """Yields the modules of this package that a module imports, imports for annotations excepted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in guarded:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in known else node.module


@pytest.mark.parametrize("folder", SELF_CONTAINED)
def test_a_self_contained_room_imports_what_it_is_allowed_and_nothing_else(folder: str) -> None:
    allowed = SELF_CONTAINED[folder]
    _fail_with(
        [
            f"{found.location}: {folder} imports {found.target}, may import {', '.join(sorted(allowed))}"
            for found in IMPORTS
            if found.folder == folder
            and found.target not in allowed
            and (found.own or found.target not in STANDARD_LIBRARY)
        ]
    )


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_imported_only_where_it_belongs(package: str) -> None:
    allowed = ONLY_IN[package]
    _fail_with(
        [
            f"{found.location}: {found.folder} imports {package}; only {' and '.join(sorted(allowed))} may"
            for found in IMPORTS
            if not found.own and found.target == package and allowed.isdisjoint((found.folder, found.module))
        ]
    )


def test_the_job_knows_nothing_of_the_demo() -> None:
    _fail_with(
        [
            f"{found.location}: imports the demo"
            for found in IMPORTS
            if found.own and found.target == "demo" and found.folder not in ("demo", "commands")
        ]
    )


HEAVY = ("torch", "transformers", "ray", "pyarrow", "numpy")


def test_loading_a_model_for_the_native_recognizer_imports_no_transformers() -> None:
    """`whisper/model` imports it in the functions that load Hugging Face's own module."""
    tree = ast.parse((PACKAGE / "whisper" / "model.py").read_text(encoding="utf-8"))
    assert not [name for node in tree.body for name in _names(node) if name.startswith("transformers")]


def _loads_nothing_heavy(code: str) -> str:
    """Runs code in a process of its own, which fails if it has loaded a heavy package; gives its output."""
    check = f"import sys; loaded = [name for name in {HEAVY} if name in sys.modules]; sys.exit(str(loaded or 0))"
    command = [sys.executable, "-c", f"{code}\n{check}"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.stderr.strip() == "0", process.stderr
    return process.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    _loads_nothing_heavy("import distil_ray")


@pytest.mark.parametrize("job", sorted(path.name for path in (ROOT / "jobs").glob("*.py")))
def test_the_help_of_a_job_loads_nothing_heavy(job: str) -> None:
    help_of_job = f"""
import runpy, sys
sys.argv = ["{job}", "--help"]
try:
    runpy.run_path("jobs/{job}", run_name="__main__")
except SystemExit:
    pass
"""
    assert "usage:" in _loads_nothing_heavy(help_of_job)
