"""Reading of tar headers: the members that the standard library finds, and the undamaged ones of a damaged archive."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.errors import ErrorKind
from distil_ray.readers.archive_stream import ArchiveStream, detect_compression, max_unpacked_bytes, open_decompressed
from distil_ray.readers.tar_headers import BLOCK_BYTES, Damage, SkippedMember, TarMember, iter_archive
from tests.readers.shards import tar

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300)
MEMBERS = st.dictionaries(
    NAMES.filter(lambda name: not name.endswith("/")), st.binary(min_size=1, max_size=2000), max_size=8
)
FORMS = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: bytes(pa.compress(data, codec="zstd")),
}


def found_in(data: bytes) -> list[TarMember | SkippedMember | Damage]:
    return list(iter_archive(ArchiveStream(io.BytesIO(data), len(data))))


@given(MEMBERS, FORMS)
def test_members_are_those_of_the_standard_library(members: dict[str, bytes], form: int) -> None:
    data = tar(members, form=form)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [TarMember(info.name, info.offset_data, info.size) for info in archive]
    assert found_in(data) == expected
    assert [data[one.start : one.start + one.size] for one in expected] == list(members.values())


@given(MEMBERS.filter(bool), FORMS, st.data())
def test_a_damaged_header_loses_one_member_and_is_reported(
    members: dict[str, bytes], form: int, data: st.DataObject
) -> None:
    """Audio is not looked into: only blocks of headers are damaged here."""
    whole = tar(members, form=form)
    good = [one for one in found_in(whole) if isinstance(one, TarMember)]
    hit = data.draw(st.sampled_from(good))
    wiped = data.draw(st.sampled_from([b"\0" * BLOCK_BYTES, b"z" * BLOCK_BYTES]))
    start = hit.start - BLOCK_BYTES
    found = found_in(whole[:start] + wiped + whole[start + BLOCK_BYTES :])
    others = [one for one in good if one != hit]
    assert [one for one in found if isinstance(one, TarMember)] == others
    damages = [one for one in found if isinstance(one, Damage)]
    is_visible = any(members[hit.name]) or any(wiped)  # else it is as if there were two archives, one after the other
    assert len(damages) == is_visible or len(hit.name.encode()) > 100  # a name of its own then misses its member


@given(MEMBERS.filter(bool), st.data())
def test_a_truncated_archive_has_all_complete_members_and_one_damage(
    members: dict[str, bytes], data: st.DataObject
) -> None:
    whole = tar(members)
    good = [one for one in found_in(whole) if isinstance(one, TarMember)]
    end = good[-1].start + good[-1].size
    length = data.draw(st.integers(1, end))
    *found, last = found_in(whole[:length])
    assert isinstance(last, Damage)
    assert last.kind in (ErrorKind.TRUNCATED, ErrorKind.CORRUPT)
    assert not any(isinstance(one, Damage) for one in found)
    kept = [one for one in good if one.start + one.size <= length]
    assert [one for one in found if isinstance(one, TarMember)][: len(kept)] == kept


@pytest.mark.parametrize("name", PACKERS)
def test_compressed_archives_have_their_good_members(name: str) -> None:
    members = {f"{number}.wav": bytes([number]) * 7000 + bytes(range(256)) * 40 for number in range(6)}
    packed = PACKERS[name](tar(members))
    assert detect_compression(packed) == name

    def names(data: bytes) -> list[str]:
        source = ArchiveStream(open_decompressed(io.BytesIO(data), name), None, max_unpacked_bytes(len(data)))
        found = list(iter_archive(source))
        assert sum(isinstance(one, Damage) for one in found) == (data not in (packed, packed + packed))
        return [one.name for one in found if isinstance(one, TarMember)]

    assert names(packed) == list(members)
    assert names(packed + packed) == 2 * list(members)  # as two archives one after the other are
    cut = names(packed[: len(packed) - 12])
    assert cut == list(members)[: len(cut)]


def test_a_decompression_bomb_is_not_unpacked_to_its_end() -> None:
    packed = gzip.compress(tar({"a.wav": bytes(20 << 20)}))
    source = ArchiveStream(open_decompressed(io.BytesIO(packed), "gzip"), None, limit=1 << 20)
    *_, last = iter_archive(source)
    assert isinstance(last, Damage)
    assert "more than 1,048,576 bytes" in last.message
    assert source.position < 4 << 20


def test_an_xz_file_whose_dictionary_takes_a_gigabyte_is_refused() -> None:
    greedy = lzma.compress(tar({"a.wav": b"a"}), filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}])
    (damage,) = iter_archive(ArchiveStream(open_decompressed(io.BytesIO(greedy), "xz"), None))
    assert isinstance(damage, Damage)
    assert "Memory usage limit" in damage.message


def test_a_file_that_is_no_archive_is_damage_and_an_empty_archive_is_none() -> None:
    assert [one.message for one in found_in(b"<html>" * 999) if isinstance(one, Damage)] == ["is not a tar archive"]
    assert [one.kind for one in found_in(b"") if isinstance(one, Damage)] == [ErrorKind.EMPTY_FILE]
    assert found_in(bytes(10_240)) == []


def test_a_long_name_without_its_member_does_not_name_the_next_member() -> None:
    whole = tar({"x" * 200 + ".wav": bytes(600), "next.wav": b"n"})
    start = 3 * BLOCK_BYTES if whole[156:157] == b"L" else 0  # behind the name's own header and content
    found = found_in(whole[: start - BLOCK_BYTES] + bytes(BLOCK_BYTES) + whole[start:])
    assert [one.name for one in found if isinstance(one, TarMember)] == ["next.wav"]
    assert sum(isinstance(one, Damage) for one in found) == 1


def test_links_and_devices_are_skipped_and_concatenated_archives_are_read() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("x")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    found = found_in(sink.getvalue() + tar({"a.wav": b"a"}))
    assert [one.kind for one in found if isinstance(one, SkippedMember)] == ["link", "link", "device", "device"]
    assert [one.name for one in found if isinstance(one, TarMember)] == ["a.wav"]
