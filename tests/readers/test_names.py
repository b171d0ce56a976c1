"""Unusual names: keys that are prefixes, glob characters, encoded characters, Unicode normalization."""

import json
import unicodedata
from pathlib import Path

import pytest

from distil_ray.config import InputConfig
from distil_ray.errors import ErrorKind, InputError
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.readers.conftest import Place, ids, listed
from tests.readers.shards import tar

COMPOSED = unicodedata.normalize("NFC", "café")
DECOMPOSED = unicodedata.normalize("NFD", "café")
KEYS = (
    "dup.wav", "dup.wav/inner.wav", "/twice.wav", "deep//er/z.wav", "a b.wav", "a%20b.wav", "a+b.wav", "a?b.wav",
    "a#b.wav", "[x].wav", "{1,2}/q.wav", "{1,2}.wav", f"{COMPOSED}.wav", f"{DECOMPOSED}.wav", "a*b.wav", " lead.wav",
    "back\\slash.wav", "a:b.wav", "x&y=z;'(1)!.wav", "\U0001f600.wav",
)  # fmt: skip


# Object stores


@pytest.fixture
def keys(bucket: str, s3_environment: str) -> str:
    """The folder of a bucket that has all of `KEYS`, each with its own name as content, and markers of folders."""
    import boto3

    client = boto3.client("s3", endpoint_url=s3_environment)
    for key in KEYS:
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=f"in/{key}", Body=key.encode())
    for key in ("in/", "in/empty/"):
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=b"")
    return f"{bucket}/in"


def test_every_key_of_a_bucket_is_listed_and_read(keys: str, tmp_path: Path) -> None:
    storage = Storage()
    for uri in (keys, f"{keys}/**", f"{keys}/**/*.wav"):
        recordings = listed(uri)
        assert ids(recordings) == sorted(KEYS)
    for recording in recordings:
        assert storage.read(recording.uri).decode() == recording.recording_id
        storage.fetch(recording.uri, tmp_path / "copy")
        assert (tmp_path / "copy").read_text() == recording.recording_id
        entry = storage.stat(recording.uri)
        assert entry
        assert (entry.size, entry.version) == (recording.source_size, recording.source_version)
        assert [one.uri for one in listed(recording.uri)] == [recording.uri]


def test_a_key_that_is_also_a_prefix_is_the_object_without_a_slash(keys: str) -> None:
    assert ids(listed(f"{keys}/dup.wav")) == ["dup.wav"]
    assert ids(listed(f"{keys}/dup.wav/")) == ["inner.wav"]
    assert ids(listed(f"{keys}/dup*")) == ["dup.wav"]
    assert ids(listed(f"{keys}/dup.wav/*")) == ["inner.wav"]


def test_empty_components_of_keys_match_a_star(keys: str) -> None:
    assert ids(listed(f"{keys}/*/*.wav")) == ["/twice.wav", "dup.wav/inner.wav", "{1,2}/q.wav"]
    assert ids(listed(f"{keys}//*.wav")) == ["/twice.wav"]
    assert ids(listed(f"{keys}/deep/*/er/*")) == ["/er/z.wav"]
    assert ids(listed(f"{keys}/deep//er")) == ["z.wav"]


def test_a_pattern_of_one_folder_does_not_list_its_subfolders(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage()
    fs, _ = storage._open(keys)
    asked: list[object] = []
    call_s3 = fs._call_s3

    def call(method: str, **request: object) -> object:
        asked.append(request.get("Delimiter"))
        return call_s3(method, **request)

    monkeypatch.setattr(fs, "_call_s3", call)
    assert len(list(storage.glob(f"{keys}/a*.wav"))) == 7
    assert asked == ["/"]


# Signs of patterns in names that exist


@pytest.mark.parametrize("name", ["{1,2}", "{1..3}", "[a]", "a*b", "what?", "{x,y} [z]"])
def test_an_existing_folder_with_glob_characters_is_listed(place: Place, name: str) -> None:
    folder = {f"{name}/{file}": b"1" for file in ("p.mp3", "q.wav", "deep/r.wav")}
    root = place({**folder, f"{name}/q.txt": "words", "1/n.wav": b"1", "a/n.wav": b"1"})
    assert ids(listed(f"{root}/{name}")) == ["deep/r.wav", "p.mp3", "q.wav"]
    assert [(one.recording_id, one.reference) for one in listed(f"{root}/{name}/*.wav")] == [("q.wav", "words")]
    assert ids(listed(f"{root}/{name}/**/*.wav")) == ["deep/r.wav", "q.wav"]
    assert ids(listed(f"{root}/{name}/q.wav")) == ["q.wav"]
    assert ids(listed(f"{root}/{name}/{{p.mp3,q.wav}}")) == ["p.mp3", "q.wav"]
    assert ids(listed(f"{root}/{name}/{{p,q}}*")) == ["p.mp3", "q.wav"]


@pytest.mark.parametrize("name", ["{1,2}.wav", "[a].wav", "a*b.wav", "{1..3}.tar"])
def test_an_existing_file_with_glob_characters_is_listed(place: Place, name: str) -> None:
    content = tar({"k.wav": b"1"}) if name.endswith(".tar") else b"1"
    root = place({name: content, "1.wav": b"1", "a.wav": b"1", "other/o.wav": b"1"})
    expected = f"{name}/k.wav" if name.endswith(".tar") else name
    assert ids(listed(f"{root}/{name}")) == [expected]
    assert ids(listed([f"{root}/{name}", f"{root}/other"])) == sorted([expected, "o.wav"])


def test_braces_and_brackets_are_patterns_if_no_such_file_exists(place: Place) -> None:
    root = place({"1/a.wav": b"1", "2/b.wav": b"1", "{1,3}/c.wav": b"1", "3/d.wav": b"1"})
    assert ids(listed(f"{root}/{{1,2}}/*.wav")) == ["1/a.wav", "2/b.wav"]
    assert ids(listed(f"{root}/[12]/*.wav")) == ["1/a.wav", "2/b.wav"]
    assert ids(listed(f"{root}/{{1,3}}/*.wav")) == ["c.wav"]


# Encoded characters


def test_file_uris_are_decoded_and_paths_are_not(tmp_path: Path) -> None:
    for name in ("a b.wav", "a%20b.wav", "ä#1.wav"):
        (tmp_path / name).write_bytes(name.encode())
    uris = {f"file://{tmp_path}/a%20b.wav": "a b.wav", f"file://localhost{tmp_path}/a%20b.wav": "a b.wav"}
    uris |= {f"file:{tmp_path}/%C3%A4%231.wav": "ä#1.wav", f"file://{tmp_path}/a b.wav": "a b.wav"}
    uris |= {f"{tmp_path}/a%20b.wav": "a%20b.wav", f"file://{tmp_path}/a%2520b.wav": "a%20b.wav"}
    for uri, name in uris.items():
        assert [one.uri for one in listed(uri)] == [f"{tmp_path}/{name}"]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps({"uri": uri}) + "\n" for uri in [*uris, "a%20b.wav"]))
    found = [one.uri.rpartition("/")[2] for one in listed(str(manifest))]
    assert found == [*uris.values(), "a%20b.wav"]
    assert all(one.source_size for one in listed(str(manifest)))


def test_an_encoded_path_has_the_same_limits_as_a_plain_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.wav").write_bytes(b"1")
    manifest = tmp_path / "in" / "m.jsonl"
    manifest.write_text(json.dumps({"uri": f"file://{tmp_path}/in/%2e%2e/secret.wav"}))
    with pytest.raises(InputError, match="lies outside"):
        listed(str(manifest))
    manifest.write_text(json.dumps({"uri": f"file://{tmp_path}/in/a%00b.wav"}))
    (recording,) = listed(str(manifest))
    assert recording.error_kind is ErrorKind.INVALID_ROW
    assert "holds a NUL character" in str(recording.error)


# Unicode forms


def test_a_reference_in_another_unicode_normalization_is_found(place: Place) -> None:
    texts: dict[str, str | bytes] = {f"a/{DECOMPOSED}.wav": b"1", f"a/{COMPOSED}.txt": "one"}
    texts |= {f"b/{COMPOSED}.wav": b"1", f"b/{DECOMPOSED}.txt": "two"}
    texts |= {f"c/{DECOMPOSED}.wav": b"1", "c/all.trans.txt": f"{COMPOSED} three\n"}
    root = place(texts)
    for recordings in (listed(root), listed(f"{root}/**/*.wav")):
        assert [one.reference for one in recordings] == ["one", "two", "three"]
    assert [one.reference for one in listed(f"{root}/a/{DECOMPOSED}.wav")] == ["one"]


def test_names_that_differ_in_unicode_normalization_have_their_own_references(place: Place) -> None:
    root = place(
        {f"{DECOMPOSED}.wav": b"1", f"{DECOMPOSED}.txt": "one", f"{COMPOSED}.wav": b"1", f"{COMPOSED}.txt": "two"}
    )
    listing = list_recordings(InputConfig(uri=(root,)), Storage())
    found = {one.recording_id: one.reference for one in listing}
    assert found == {f"{DECOMPOSED}.wav": "one", f"{COMPOSED}.wav": "two"}
    assert not listing.ignored


def test_an_ambiguous_reference_is_not_used_and_reported(place: Place) -> None:
    mixed = unicodedata.normalize("NFC", "é") + unicodedata.normalize("NFD", "é")
    names = [unicodedata.normalize(form, mixed) for form in ("NFC", "NFD")]
    files: dict[str, str | bytes] = {f"b/{name}.wav": b"1" for name in names}
    files |= {f"a/{mixed}.wav": b"1", f"a/{names[0]}.txt": "one", f"a/{names[1]}.txt": "two"}
    root = place(files | {f"b/{names[0]}.txt": "whose"})
    listing = list_recordings(InputConfig(uri=(root,)), Storage())
    found = {one.recording_id: one.reference for one in listing}
    assert found == {f"a/{mixed}.wav": None, f"b/{names[0]}.wav": "whose", f"b/{names[1]}.wav": None}
    reports = [key for key in listing.ignored.counts if key.startswith("ambiguous reference")]
    assert len(reports) == 2
    assert all(ascii(name) in reports[0] for name in names)
    assert all(ascii(name) in reports[1] for name in names)


def test_a_manifest_path_in_another_unicode_normalization_is_found(place: Place) -> None:
    files: dict[str, str | bytes] = {
        f"lj/wavs/{DECOMPOSED}.wav": b"12",
        "lj/metadata.csv": f"{COMPOSED}|words\n",
        f"m/{DECOMPOSED}/{COMPOSED}.wav": b"12",
        "m/list.jsonl": json.dumps({"id": "x", "uri": f"{COMPOSED}/{DECOMPOSED}.wav"}) + "\n",
        f"k/{COMPOSED}.wav": b"12",
        "k/wav.scp": f"u {DECOMPOSED}.wav\n",
    }
    root = place(files)
    for uri in (f"{root}/lj", f"{root}/m/list.jsonl", f"{root}/k"):
        (recording,) = listed(uri)
        assert (recording.source_size, recording.error) == (2, None)
        assert Storage().read(recording.uri) == b"12"


def test_texts_in_a_shard_are_found_in_another_unicode_normalization(place: Place) -> None:
    root = place({"s.tar": tar({f"{DECOMPOSED}.wav": b"1", f"{COMPOSED}.txt": "words"})})
    assert [one.reference for one in listed(root)] == ["words"]
    lines = json.dumps({"audio_filepath": f"{COMPOSED}.wav", "shard_id": 0, "duration": 1, "text": "words"}) + "\n"
    Storage().put(join(root, "m.json"), lines.encode())
    Storage().put(join(root, "audio_0.tar"), tar({f"{DECOMPOSED}.wav": b"1"}))
    assert [(one.error, one.reference) for one in listed(f"{root}/m.json")] == [(None, "words")]
