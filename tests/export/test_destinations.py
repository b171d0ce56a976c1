"""Whatever an id holds, its file lies in the target, alone."""

import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from distil_ray.export.destinations import HASH_SIGN, MAX_NAME, file_name, sample_key

NASTY = [
    *("a", "A", "a.srt", "a.srt/b", "a.srt/b.srt/c", "a/b", "a//b", "a/", "/a", "//", "/", ".", "..", "../x", "a/../b"),
    *("%", "%2F", "a%2Fb", "%2e%2e/x", "..\\x", "C:\\x", "-rf", "~", "~/x", " a", "a ", "a.", ".hidden", "a/.tmp-x"),
    *("a\nb", "a\x00b", "\u202egnp.exe", "x" * 5000, "x" * 5001, "日本語" * 100),
    *("a/" * 600 + "b", "\ud7ff", "*?", "\u00e9", "e\u0301"),
]
IDS = st.text(st.characters(exclude_categories=["Cs"])) | st.text("./%~ a\\-") | st.sampled_from(NASTY)


@given(IDS)
def test_a_file_name_stays_inside_and_contains_the_id(recording_id: str) -> None:
    for name, ending in ((file_name(recording_id, ".srt"), ".srt"), (sample_key(recording_id), "")):
        parts = name.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert not any(part.startswith((".", "~", "-", " ")) or part.endswith((".", " ")) for part in parts)
        assert posixpath.normpath(f"/target/{name}") == f"/target/{name}"
        assert name.isprintable()
        assert max(len(part.encode()) for part in parts) <= 255
        assert len(name.encode()) <= MAX_NAME + len(".srt")
        if HASH_SIGN not in name:
            assert unquote(name.removesuffix(ending)) == recording_id


@settings(max_examples=60)
@given(st.sets(IDS, min_size=2, max_size=6))
def test_no_two_ids_share_a_name_or_a_folder_of_that_name(ids: set[str]) -> None:
    for names in ({file_name(one, ".srt") for one in ids}, {sample_key(one) for one in ids}):
        assert len(names) == len(ids)
    folders = {parent for one in ids for parent in _folders(file_name(one, ".srt"))}
    assert not folders & {file_name(one, ".srt") for one in ids}


def _folders(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:number]) for number in range(1, len(parts))]


def test_a_disk_takes_all_of_them(tmp_path: Path) -> None:
    for recording_id in NASTY:
        path = tmp_path / file_name(recording_id, ".srt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(recording_id)
    written = [path.read_text() for path in tmp_path.rglob("*.srt") if path.is_file()]
    assert sorted(written) == sorted(NASTY)


@given(IDS)
def test_a_key_has_no_dot_where_a_reader_looks_for_the_extension(recording_id: str) -> None:
    assert "." not in sample_key(recording_id)


def test_the_reader_of_webdataset_takes_no_key_for_metadata() -> None:
    skip_meta = re.compile(r"__[^/]*__($|/)")  # the default of webdataset.tariterators.tar_file_iterator (1.0.2)
    for recording_id in ("__clean__/1.wav", "____/1", "__clean__", "__a/b__/1", "x/__clean__/1"):
        assert not skip_meta.match(f"{sample_key(recording_id)}.flac")
        assert unquote(sample_key(recording_id)) == recording_id
    assert sample_key("x/__clean__/1") == "x/__clean__/1"


def test_harmless_ids_stay_as_they_are() -> None:
    assert file_name("dev-clean/84/121123/84-121123-0000.flac", ".srt") == "dev-clean/84/121123/84-121123-0000.flac.srt"
    assert file_name("会議 1", ".vtt") == "会議 1.vtt"
    assert sample_key("84/84-0.flac") == "84/84-0%2Eflac"
