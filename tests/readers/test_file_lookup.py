"""Files of a list that are found by listings: the same as by looks at each, with far fewer requests where these pay."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scale.counting import CountingProxy, Kind
from distil_ray.config import StorageConfig
from distil_ray.errors import ErrorKind
from distil_ray.readers import file_lookup, path_resolution
from distil_ray.readers.file_lookup import FileLookup
from distil_ray.readers.path_resolution import PathResolver
from distil_ray.storage.entries import Entry, ListedPage
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join
from distil_ray.types import Recording

PAGE = 10


class Bucket:
    """A store of names in memory with pages of `PAGE` files; it counts the listings."""

    def __init__(self, names: set[str]) -> None:
        self.names = sorted(names, key=str.encode)
        self.num_listings = 0
        self.is_forbidden = False

    def lists_by_name(self, uri: str) -> bool:
        return True

    def list_from(self, folder: str, first: str) -> ListedPage:
        self.num_listings += 1
        if self.is_forbidden:
            raise StorageError(ErrorKind.FORBIDDEN, f"{folder}: may not be listed")
        below = [name for name in self.names if name.startswith(f"{folder}/") and name.encode() > first[:-1].encode()]
        entries = [Entry(name, len(name), f"v-{name}") for name in below[:PAGE]]
        return ListedPage(entries, len(below) <= PAGE)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_lookup, "MIN_ANSWERED", 4)


NAMES = st.sets(st.text("abé/", min_size=1, max_size=6).map(lambda name: f"s3://bucket/f/{name}"), max_size=60)


@given(NAMES, NAMES)
def test_what_is_found_is_there_and_was_asked_for(there: set[str], wanted: set[str]) -> None:
    found = FileLookup(Bucket(there)).find(wanted)  # type: ignore[arg-type]
    assert set(found) <= there & wanted
    assert all(entry == Entry(uri, len(uri), f"v-{uri}") for uri, entry in found.items())


@pytest.mark.usefixtures("small_pages")
def test_a_bucket_without_a_name_and_a_name_that_is_no_text_are_passed_over() -> None:
    names = {f"s3://bucket/{number}.wav" for number in range(9)}
    odd = {"s3://bucket", "s3://bucket/\ud800.wav", "s3://other/1.wav"}
    assert set(FileLookup(Bucket(names)).find(names | odd)) == names  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_pages")
def test_a_list_of_all_files_takes_a_listing_for_each_page() -> None:
    names = {f"s3://bucket/f/{folder}/{number:03d}.wav" for folder in "abc" for number in range(100)}
    bucket = Bucket(names)
    assert set(FileLookup(bucket).find(names)) == names  # type: ignore[arg-type]
    assert bucket.num_listings == 30


@pytest.mark.usefixtures("small_pages")
def test_what_lies_between_the_files_of_a_list_is_leapt_over() -> None:
    wanted = {f"s3://bucket/f/{folder}/{number}.wav" for folder in "abc" for number in range(10)}
    others = {f"s3://bucket/f/{folder}/{number}.txt" for folder in ("a-", "b-", "c-") for number in range(500)}
    bucket = Bucket(wanted | others)
    assert set(FileLookup(bucket).find(wanted)) == wanted  # type: ignore[arg-type]
    assert bucket.num_listings <= 6


@pytest.mark.usefixtures("small_pages")
def test_listings_that_find_little_are_given_up_and_tried_again_at_growing_intervals() -> None:
    names = [f"s3://bucket/f/{number:06d}.wav" for number in range(20_000)]
    bucket = Bucket(set(names))
    lookup, pick = FileLookup(bucket), random.Random(0)  # type: ignore[arg-type]
    counts = []
    for _ in range(40):
        before = bucket.num_listings
        lookup.find(pick.sample(names, 200))
        counts.append(bucket.num_listings - before)
    assert [window for window, count in enumerate(counts) if count] == [0, 2, 5, 10, 19, 36]
    assert set(counts) == {0, file_lookup.MAX_POOR}
    for _ in range(file_lookup.MAX_PAUSE):
        found = lookup.find(names[:200])
    assert len(found) > 190


def test_a_list_of_few_files_and_a_bucket_that_may_not_be_listed_take_no_listing() -> None:
    names = {f"s3://bucket/f/{number:06d}.wav" for number in range(500)}
    bucket = Bucket(names)
    assert FileLookup(bucket).find(sorted(names)[:20]) == {}  # type: ignore[arg-type]
    assert bucket.num_listings == 0
    bucket.is_forbidden = True
    lookup = FileLookup(bucket)  # type: ignore[arg-type]
    assert [lookup.find(names) for _ in range(3)] == [{}, {}, {}]
    assert bucket.num_listings == 2


# ---------------------------------------------------------------- a real store


@pytest.fixture
def proxy(s3_environment: str) -> CountingProxy:
    return CountingProxy(s3_environment)


@pytest.fixture
def counted(proxy: CountingProxy) -> Iterator[Storage]:
    with proxy.serving() as url:
        yield Storage(StorageConfig(endpoint_url=url, timeout_s=5))


def test_recordings_of_a_bucket_are_the_same_by_listings_and_by_looks(
    bucket: str, proxy: CountingProxy, counted: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{speaker}/a b+ü {number:02d}.wav" for speaker in ("s1", "s2") for number in range(50)]
    for number, name in enumerate(names):
        Storage().put(join(bucket, name), bytes(number))
    order = random.Random(1).sample([*names, "s1/missing.wav"], len(names) + 1)

    def located() -> list[Recording]:
        resolver = PathResolver(join(bucket, "list.jsonl"), counted, allow_external_paths=False)
        recordings = [Recording(name, resolver.resolve(name, "line", "path")) for name in order]
        proxy.take_requests()
        return list(resolver.locate(recordings))

    by_listing = located()
    assert proxy.take_requests() == {Kind.LIST: 1, Kind.HEAD: 1}
    monkeypatch.setattr(path_resolution, "FileLookup", _NoLookup)
    assert located() == by_listing
    assert proxy.take_requests() == {Kind.HEAD: 101}
    assert [one.recording_id for one in by_listing if one.source_size is None] == ["s1/missing.wav"]


class _NoLookup:
    def __init__(self, storage: Storage) -> None: ...

    def find(self, uris: object) -> dict[str, Entry]:
        return {}
