"""The way through a tar: what the standard library finds in a good one, all that is good in a damaged one."""

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
from distil_ray.readers.decompression import detect_compression, max_unpacked_bytes, open_decompressed
from distil_ray.readers.tar_headers import BLOCK_BYTES, ArchiveStream, Damage, SkippedMember, TarMember, iter_archive
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
def test_what_the_standard_library_finds_is_found(members: dict[str, bytes], form: int) -> None:
    data = tar(members, form=form)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [TarMember(info.name, info.offset_data, info.size) for info in archive]
    assert found_in(data) == expected
    assert [data[one.start : one.start + one.size] for one in expected] == list(members.values())


@given(MEMBERS.filter(bool), FORMS, st.data())
def test_a_damaged_block_costs_its_member_and_is_said(
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
def test_what_was_cut_off_is_said_once_and_all_before_it_is_there(
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
def test_packed_archives_give_what_is_good_in_them(name: str) -> None:
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


def test_a_bomb_is_not_unpacked_to_its_end() -> None:
    packed = gzip.compress(tar({"a.wav": bytes(20 << 20)}))
    source = ArchiveStream(open_decompressed(io.BytesIO(packed), "gzip"), None, limit=1 << 20)
    *_, last = iter_archive(source)
    assert isinstance(last, Damage)
    assert "more than 1,048,576 bytes" in last.words
    assert source.position < 4 << 20


def test_an_archive_that_wants_a_gigabyte_to_be_unpacked_is_refused() -> None:
    greedy = lzma.compress(tar({"a.wav": b"a"}), filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}])
    (damage,) = iter_archive(ArchiveStream(open_decompressed(io.BytesIO(greedy), "xz"), None))
    assert isinstance(damage, Damage)
    assert "Memory usage limit" in damage.words


def test_what_is_no_archive_is_said_and_an_empty_one_is_none() -> None:
    assert [one.words for one in found_in(b"<html>" * 999) if isinstance(one, Damage)] == ["is no tar archive"]
    assert [one.kind for one in found_in(b"") if isinstance(one, Damage)] == [ErrorKind.EMPTY_FILE]
    assert found_in(bytes(10_240)) == []


def test_a_long_name_whose_member_was_wiped_out_is_not_given_to_the_next() -> None:
    whole = tar({"x" * 200 + ".wav": bytes(600), "next.wav": b"n"})
    start = 3 * BLOCK_BYTES if whole[156:157] == b"L" else 0  # behind the name's own header and content
    found = found_in(whole[: start - BLOCK_BYTES] + bytes(BLOCK_BYTES) + whole[start:])
    assert [one.name for one in found if isinstance(one, TarMember)] == ["next.wav"]
    assert sum(isinstance(one, Damage) for one in found) == 1


def test_links_devices_and_holes_are_passed_over_and_two_archives_in_one_are_read() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("x")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    found = found_in(sink.getvalue() + tar({"a.wav": b"a"}))
    assert [one.kind for one in found if isinstance(one, SkippedMember)] == ["link", "link", "device", "device"]
    assert [one.name for one in found if isinstance(one, TarMember)] == ["a.wav"]
