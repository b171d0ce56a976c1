"""Damaged files end as rows: a few hundred here, thousands with `make fuzz`."""

from pathlib import Path

import numpy as np
import pytest

from distil_ray.audio.decode import decode_file
from distil_ray.audio.pcm import DecodeResult
from distil_ray.errors import ErrorKind
from distil_ray.types import Status
from tests.fuzz.decode_stage import MAX_DURATION_S, Fuzzed, fuzz
from tests.fuzz.mutations import mutate
from tests.fuzz.seeds import make_seeds


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Fuzzed:
    return fuzz(400, 1, tmp_path_factory.mktemp("fuzz"))


def test_every_damaged_file_ends_as_one_row(fuzzed: Fuzzed) -> None:
    assert sorted(row["recording_id"] for row in fuzzed.rows) == sorted(fuzzed.names)
    assert {row["status"] for row in fuzzed.rows} == set(Status) - {Status.DOUBTFUL}  # whole, in part, nothing


def test_what_is_wrong_with_a_damaged_file_has_a_name(fuzzed: Fuzzed) -> None:
    unnamed = [row["error"] for row in fuzzed.rows if row["error_kind"] in (ErrorKind.INTERNAL, ErrorKind.STORAGE)]
    assert unnamed == []
    assert all(row["error"] and row["uri"] in row["error"] for row in fuzzed.rows if row["error_kind"])


def test_no_damaged_file_kills_its_decoder_unnoticed_or_takes_more_than_it_may(fuzzed: Fuzzed) -> None:
    deaths = (ErrorKind.DECODE_CRASH, ErrorKind.DECODE_TIMEOUT, ErrorKind.DECODE_OOM)
    assert fuzzed.num_processes <= 1 + 2 * sum(row["error_kind"] in deaths for row in fuzzed.rows)
    assert max(row["duration_s"] for row in fuzzed.rows) <= MAX_DURATION_S


def test_the_seeds_are_whole_and_the_damage_is_the_same_every_time(tmp_path: Path) -> None:
    seeds = make_seeds()
    assert seeds == make_seeds()
    assert len(seeds) == 10
    for name, data in seeds.items():
        (tmp_path / name).write_bytes(data)
        *_, outcome = decode_file(str(tmp_path / name))
        assert isinstance(outcome, DecodeResult)
        assert outcome.error is None
        once, again = (mutate(data, np.random.default_rng(7), [data]) for _ in range(2))
        assert once == again != data


def test_damage_that_decoders_keep_quiet_about_is_not_taken_for_an_empty_recording(tmp_path: Path) -> None:
    data = bytearray(make_seeds()["ogg"])
    data[data.index(b"\x05vorbis") + 100] ^= 1  # found by fuzzing: the page of the code books
    (tmp_path / "a").write_bytes(data)
    *_, outcome = decode_file(str(tmp_path / "a"))
    assert isinstance(outcome, DecodeResult)
    assert (outcome.num_samples, outcome.error_kind) == (0, ErrorKind.CORRUPT)


@pytest.mark.parametrize(
    ("seed", "old", "new"),
    [
        ("wav", b"\x10\0\0\0\x01\0", b"\x10\0\0\0\x77\x77"),  # found by fuzzing: a stream without a decoder
        ("mkv", b"A_OPUS", b"A_WHAT"),
    ],
)
def test_a_coding_that_nobody_knows_is_called_so(seed: str, old: bytes, new: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(make_seeds()[seed].replace(old, new))
    *_, outcome = decode_file(str(tmp_path / "a"))
    assert isinstance(outcome, DecodeResult)
    assert (outcome.num_samples, outcome.error_kind) == (0, ErrorKind.CORRUPT)
    assert "codec" in str(outcome.error)
