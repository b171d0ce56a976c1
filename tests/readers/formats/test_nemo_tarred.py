"""NeMo's tarred manifests, whose rows name members of numbered shards."""

import json
from typing import Any

import pytest

from distil_ray.config import InputConfig
from distil_ray.errors import ErrorKind, InputError
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.types import AudioLocation as Part
from tests.readers.conftest import Place, listed
from tests.readers.shards import tar


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps({"text": "go", "duration": 2.0} | row) + "\n" for row in rows)


ROWS: list[dict[str, Any]] = [
    {"audio_filepath": "a.wav", "shard_id": 0, "lang": "de"},
    {"audio_filepath": "b.wav", "shard_id": 0, "offset": 1.5},
    {"audio_filepath": "b-sub1.wav", "shard_id": 0, "offset": 4.0, "duration": 0.5},
    {"audio_filepath": "a.wav", "shard_id": 1, "id": "other"},
    {"audio_filepath": "left out", "shard_id": -1},
]
SHARDS: dict[str, str | bytes] = {
    "audio_0.tar": tar({"a.wav": b"1" * 600, "./b.wav": b"22"}),
    "audio_1.tar": tar({"a.wav": b"333"}),
}


@pytest.mark.parametrize("name", ["tarred_audio_manifest.json", "sharded_manifests/manifest_0.json"])
def test_lines_are_members_of_numbered_shards_and_segments_of_them(place: Place, name: str) -> None:
    root = place(SHARDS | {name: lines(*ROWS)})
    listing = list_recordings(InputConfig(uri=(f"{root}/{name}",)), Storage())
    a, b, segment, other = listing
    assert (a.uri, a.recording_id, a.language, a.reference) == (f"{root}/audio_0.tar", "a.wav", "de", "go")
    assert (a.location, a.source_size) == (Part(member="a.wav", byte_start=512, num_bytes=600), 600)
    assert b.location == Part(member="./b.wav", byte_start=512 + 1024 + 512, num_bytes=2, start_s=1.5, length_s=2.0)
    assert (segment.recording_id, segment.duration_s) == ("b-sub1.wav@4+0.5", 0.5)
    assert segment.location == Part(member="./b.wav", byte_start=2048, num_bytes=2, start_s=4.0, length_s=0.5)
    assert (other.uri, other.recording_id, other.source_size) == (f"{root}/audio_1.tar", "other", 3)
    assert a.metadata == {}
    assert segment.source_version == f"{a.source_version}@4+0.5"
    assert (listing.formats, listing.ignored.counts) == ({"NeMo's tarred manifest": 1}, {"shard_id below 0": 1})


@pytest.mark.parametrize("shards", ["x__OP_0..1_CL_.tgz", "x_{0..1}.tgz", "x_{shard_id}.tgz"])
def test_input_shards_sets_the_names_of_shards(place: Place, shards: str) -> None:
    files: dict[str, str | bytes] = {f"x_{n}.tgz": tar({"a.wav": b"1"}, "w:gz") for n in (0, 1)}
    root = place(files | {"m.json": lines({"audio_filepath": "a.wav", "shard_id": 1})})
    (only,) = listed(f"{root}/m.json", shards=shards)
    assert (only.uri, only.location) == (f"{root}/x_1.tgz", Part(member="a.wav"))


def test_a_missing_member_is_a_failed_recording(place: Place) -> None:
    root = place(SHARDS | {"m.json": lines({"audio_filepath": "z.wav", "shard_id": 1})})
    (lost,) = listed(f"{root}/m.json")
    assert (lost.error_kind, lost.error) == (ErrorKind.NOT_FOUND, f"{root}/audio_1.tar: has no member z.wav")


@pytest.mark.parametrize(
    ("row", "settings", "kind", "words"),
    [
        (
            *({"shard_id": 7}, {}, ErrorKind.NOT_FOUND),
            "audio_7.tar: is named by a tarred manifest and not there; input.shards says",
        ),
        ({"shard_id": "x"}, {}, ErrorKind.INVALID_ROW, "shard_id must be a number, found 'x'"),
        ({"shard_id": float("nan")}, {}, ErrorKind.INVALID_ROW, "shard_id must be a number, found ''"),
        (
            *({"shard_id": 7}, {"shards": "audio_{0..1}.tar"}, ErrorKind.NOT_FOUND),
            "names shard 7, and input.shards has none of that number",
        ),
        ({"shard_id": 0, "offset": -3}, {}, ErrorKind.INVALID_ROW, "offset must be seconds, found -3"),
    ],
)
def test_a_line_whose_shard_cannot_be_found_fails_alone(
    place: Place, row: dict[str, Any], settings: dict[str, str], kind: str, words: str
) -> None:
    good = {"audio_filepath": "a.wav", "shard_id": 1.0}  # as pandas writes a column with gaps
    root = place(SHARDS | {"m.json": lines({"audio_filepath": "x.wav"} | row, good)})
    wrong, found = listed(f"{root}/m.json", **settings)
    assert (wrong.error_kind, found.error, found.uri) == (kind, None, f"{root}/audio_1.tar")
    assert words in str(wrong.error)


def test_shards_that_are_all_missing_are_an_error(place: Place) -> None:
    root = place({"m.json": lines(*ROWS)})
    with pytest.raises(
        InputError, match=r"audio_0\.tar: is named by a tarred manifest and not there; input\.shards says"
    ):
        listed(f"{root}/m.json")
