"""Create a student from a Whisper checkpoint: its encoder and a few decoder layers.

    distil-ray create-student openai/whisper-large-v3 students/large-v3-2 --layers 2

The layers are evenly spaced and include the first and the last one, as in Distil-Whisper's recipe.
The student is not trained yet: distillation is the next step (docs/pseudo_labels.md) and needs the
folders of both, which are printed. It can draft for its teacher as it is (model.assistant), but
less well than a trained one.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from distil_ray.cli.command_line import ArgumentParser, run_cli
from distil_ray.errors import ExitCode, SettingsError


def main(words: Sequence[str], prog: str) -> int:
    """Parses the command line and creates the student; returns the exit code."""
    parser = ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("teacher", help="hub id, local folder, or packaged:whisper-base")
    parser.add_argument("folder", type=Path, help="folder for the student; must not exist")
    parser.add_argument("--layers", type=int, default=2, help="decoder layers to keep (default 2)")
    parser.add_argument("--random", type=int, metavar="SEED", help="random decoder layers instead of the teacher's")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args(words)
    return run_cli(
        lambda: create(arguments.teacher, arguments.folder, arguments.layers, arguments.random), debug=arguments.debug
    )


def create(teacher: str, folder: Path, layers: int, seed: int | None) -> ExitCode:
    """Writes the student to a temporary folder and renames it to `folder` when it is complete."""
    from distil_ray.whisper.weights_cache import WeightsError

    try:
        _create(teacher, folder, layers, seed)
    except (WeightsError, ValueError) as error:
        raise SettingsError(str(error).replace("model.name=", "teacher=")) from error
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be written ({error.strerror}). Name another folder") from error
    return ExitCode.DONE


def _create(teacher: str, folder: Path, layers: int, seed: int | None) -> None:
    from distil_ray.whisper.download import fetch_weights
    from distil_ray.whisper.student import create_student

    if folder.exists():
        raise ValueError(f"{folder} is there already; name another folder")
    source = fetch_weights(teacher)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        student = Path(temporary) / "student"
        student.mkdir()
        kept = create_student(source, student, layers, seed)
        student.rename(folder)
    words = "random ones" if seed is not None else f"the teacher's {', '.join(map(str, kept))}"
    print(f"{folder}: {layers} decoder layers, {words}")
    print(f"teacher: {source}")
