"""Students have the right layers under the right names, and matching configuration files."""

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import WhisperProcessor

from distil_ray.recognition.native.alignment import choose_alignment_heads
from distil_ray.whisper.model import load_model
from distil_ray.whisper.student import create_student, evenly_spaced_layers, renumber_alignment_heads

ROOT = Path(__file__).resolve().parents[2]


@given(st.integers(2, 40).flatmap(lambda layers: st.tuples(st.just(layers), st.integers(2, layers))))
def test_layers_are_evenly_spaced_from_the_first_to_the_last(case: tuple[int, int]) -> None:
    layers, kept = case
    found = evenly_spaced_layers(layers, kept)
    assert (found[0], found[-1], len(found)) == (0, layers - 1, kept)
    gaps = [after - before for before, after in pairwise(found)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("kept", [1, 5])
def test_a_number_of_layers_that_is_not_there_is_refused(whisper_tiny_en: Path, tmp_path: Path, kept: int) -> None:
    with pytest.raises(ValueError, match=f"{kept} decoder layers cannot be kept out of 4; must be 2 to 4"):
        create_student(whisper_tiny_en, tmp_path, kept)


def test_the_job_writes_a_checkpoint_that_loads(whisper_tiny_en: Path, tmp_path: Path) -> None:
    """Encoder and embeddings are the teacher's, its two layers the teacher's first and last."""
    folder = tmp_path / "students" / "tiny-2"
    command = [sys.executable, "jobs/create_student.py", str(whisper_tiny_en), str(folder)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [f"{folder}: 2 decoder layers, the teacher's 0, 3", f"teacher: {whisper_tiny_en}"]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny-2"]
    student, teacher = (load_model(path, dtype="float32").module.model for path in (folder, whisper_tiny_en))
    assert torch.equal(student.encoder.layers[3].fc1.weight, teacher.encoder.layers[3].fc1.weight)
    assert torch.equal(student.decoder.embed_tokens.weight, teacher.decoder.embed_tokens.weight)
    for mine, its in ((0, 0), (1, 3)):
        assert torch.equal(student.decoder.layers[mine].fc2.weight, teacher.decoder.layers[its].fc2.weight)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


def test_random_layers_are_the_seeds_and_nothing_else_is_random(whisper_tiny_en: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "same", "other")]
    for folder, seed in zip(folders, (7, 7, 8), strict=True):
        folder.mkdir()
        create_student(whisper_tiny_en, folder, 2, seed)
    one, same, other = (folder / "model.safetensors" for folder in folders)
    assert one.read_bytes() == same.read_bytes()
    with (
        safe_open(one, "pt") as mine,
        safe_open(other, "pt") as its,
        safe_open(teacher_file(whisper_tiny_en), "pt") as old,
    ):
        name = "model.decoder.layers.1.encoder_attn.q_proj.weight"
        assert not torch.equal(mine.get_tensor(name), its.get_tensor(name))
        for name in ("model.decoder.layers.0.fc1.bias", "model.encoder.layers.0.fc1.weight"):
            assert torch.equal(mine.get_tensor(name), its.get_tensor(name))
        assert torch.equal(mine.get_tensor(name), old.get_tensor(name))


def teacher_file(folder: Path) -> Path:
    return folder / "model.safetensors"


def test_alignment_heads_name_layers_that_the_student_has(whisper_tiny_en: Path, tmp_path: Path) -> None:
    create_student(whisper_tiny_en, tmp_path, 2)
    teacher, student = (
        json.loads((folder / "generation_config.json").read_text()) for folder in (whisper_tiny_en, tmp_path)
    )
    expected = [[1, head] for layer, head in teacher["alignment_heads"] if layer == 3]
    assert expected
    assert student["alignment_heads"] == expected
    assert choose_alignment_heads(student["alignment_heads"], 2, 6)[1] is None
    assert student["suppress_tokens"] == teacher["suppress_tokens"]


def test_without_any_of_its_alignment_heads_a_student_names_none() -> None:
    assert renumber_alignment_heads({"alignment_heads": [[2, 1]], "max_length": 448}, {0: 0, 3: 1}) == {
        "max_length": 448
    }


@pytest.mark.parametrize("given_as", ["packaged", "a hub's folder", "saved by transformers 5"])
def test_a_student_has_every_file_that_transformers_and_the_trainer_read(
    whisper_tiny_en: Path, tmp_path: Path, given_as: str
) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    _write_teacher(teacher, whisper_tiny_en, given_as)
    student.mkdir()

    create_student(teacher, student, 2)

    files = {path.name for path in whisper_tiny_en.iterdir()}
    assert {path.name for path in student.iterdir()} == files
    for name in ("vocab.json", "merges.txt", "normalizer.json"):
        assert (student / name).read_bytes() == (whisper_tiny_en / name).read_bytes()
    # As transformers 4 reads them: the tokenizer's pieces, and every added token.
    spelled = BPE.from_file(str(student / "vocab.json"), str(student / "merges.txt"))
    whole = Tokenizer.from_file(str(student / "tokenizer.json"))
    assert [piece.id for piece in spelled.tokenize("\u0120colour")] == whole.encode(
        " colour", add_special_tokens=False
    ).ids
    config, expected = (
        json.loads((folder / "tokenizer_config.json").read_text()) for folder in (student, whisper_tiny_en)
    )
    assert config["added_tokens_decoder"] == expected["added_tokens_decoder"]
    assert config["additional_special_tokens"] == expected["additional_special_tokens"]
    processor = WhisperProcessor.from_pretrained(str(student))
    assert processor.feature_extractor.feature_size == 80
    assert processor.tokenizer.english_spelling_normalizer["colour"] == "color"
    assert processor.tokenizer.all_special_tokens[-1] == "<|notimestamps|>"  # where the trainer takes it from


def _write_teacher(folder: Path, source: Path, given_as: str) -> None:
    if given_as == "saved by transformers 5":
        WhisperProcessor.from_pretrained(str(source)).save_pretrained(str(folder))
        saved = json.loads((folder / "tokenizer_config.json").read_text())
        assert "added_tokens_decoder" not in saved and not (folder / "preprocessor_config.json").exists()
    else:
        folder.mkdir()
        left_out = () if given_as == "packaged" else ("vocab.json", "merges.txt", "normalizer.json")
        for path in source.iterdir():
            if path.name not in left_out:
                (folder / path.name).symlink_to(path)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        if not (folder / name).exists():
            (folder / name).symlink_to(source / name)


def test_layers_are_chosen_whatever_the_prefix_of_their_names(whisper_tiny_en: Path, tmp_path: Path) -> None:
    """Names of a saved `WhisperModel` lack the first part."""
    teacher, student, expected = (tmp_path / name for name in ("teacher", "student", "expected"))
    for folder in (student, expected):
        folder.mkdir()
    shutil.copytree(whisper_tiny_en, teacher)
    tensors = load_file(teacher_file(teacher))
    save_file({name.removeprefix("model."): each for name, each in tensors.items()}, teacher_file(teacher))

    create_student(teacher, student, 2)

    create_student(whisper_tiny_en, expected, 2)
    assert teacher_file(student).read_bytes() == teacher_file(expected).read_bytes()


def test_a_student_keeps_the_files_of_its_teacher(whisper_tiny_en: Path, tmp_path: Path) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    _write_teacher(teacher, whisper_tiny_en, "a hub's folder")
    (teacher / "normalizer.json").write_text('{"shew": "show"}')
    student.mkdir()

    create_student(teacher, student, 2)

    assert json.loads((student / "normalizer.json").read_text()) == {"shew": "show"}
