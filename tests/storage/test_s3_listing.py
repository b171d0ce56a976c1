"""Pages of an S3 listing are parsed as botocore parses them."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import pytest
from botocore.parsers import create_parser
from botocore.session import get_session
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.scale import memory_store
from benchmarks.scale.memory_store import BUCKET, MemoryStore
from benchmarks.scale.proxy import Answer, Request
from distil_ray.config import StorageConfig
from distil_ray.storage import key_ranges, s3_listing
from distil_ray.storage.s3_listing import ListedObject, Page
from distil_ray.storage.storage import Storage

KEYS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
OBJECTS = st.lists(st.tuples(KEYS, st.integers(0, 2**40), st.datetimes(datetime(1990, 1, 1), timezones=st.just(UTC))))
OPERATION = get_session().get_service_model("s3").operation_model("ListObjectsV2")
ENCODERS = (quote_plus, quote)  # AWS and MinIO write a space as "+", others as "%20"
NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def _body(
    objects: list[tuple[str, int, datetime]],
    namespace: str,
    encoding: str,
    token: str,
    encode: Callable[[str], str] = quote_plus,
) -> bytes:
    rows = [
        f"<Contents><Key>{escape(encode(key) if encoding else key)}</Key><Owner><ID>me</ID></Owner>"
        f"<LastModified>{modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified><ETag>&quot;{size:032x}&quot;</ETag>"
        f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key, size, modified in objects
    ]
    head = f"<EncodingType>{encoding}</EncodingType>" if encoding else ""
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{escape(token)}</NextContinuationToken>"
    return f"<ListBucketResult{namespace}>{head}{more}{''.join(rows)}</ListBucketResult>".encode()


def _parse(response: dict[str, Any]) -> dict[str, Any]:
    """Returns what the handler finds in an answer to an own request, which it changes."""
    found: dict[str, Any] = {}
    context = copy_context()
    context.run(s3_listing._is_own_request.set, True)
    context.run(s3_listing._parse_objects, OPERATION, response, found)
    return found


def _parse_fast(body: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    response: dict[str, Any] = {"status_code": 200, "headers": {}, "body": body}
    found = _parse(response)
    return create_parser("rest-xml").parse(response, OPERATION.output_shape), found


@given(OBJECTS, st.sampled_from([NAMESPACE, ""]), st.sampled_from(["url", ""]), KEYS, st.sampled_from(ENCODERS))
def test_objects_are_those_that_botocore_finds(
    objects: list[tuple[str, int, datetime]], namespace: str, encoding: str, token: str, encode: Callable[[str], str]
) -> None:
    body = _body(objects, namespace, encoding, token, encode)
    plain = create_parser("rest-xml").parse({"status_code": 200, "headers": {}, "body": body}, OPERATION.output_shape)
    rest, found = _parse_fast(body)
    expected = [s3_listing._described(each) for each in plain.get("Contents", ())]
    assert [each._replace(key=key) for each, (key, *_) in zip(expected, objects, strict=True)] == found.pop(
        s3_listing._LISTED
    )
    assert "Contents" not in rest
    assert {**rest, "Contents": 0} == {**plain, "Contents": 0}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<ListBucketResult><Contents>",
        b"<Error><Code>SlowDown</Code></Error>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>many</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>1</Size><LastModified>today</LastModified></Contents>"
        b"</ListBucketResult>",
    ],
)
def test_what_cannot_be_parsed_is_left_to_botocore(body: bytes) -> None:
    response = {"status_code": 200, "headers": {}, "body": body}
    assert (_parse(response), response["body"]) == ({}, body)


def test_both_parsers_list_the_same_objects(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a b+c%20.wav", "é/ü.wav", "x/y//z.wav", "x", "plain.wav", "<&>.wav"]
    storage = Storage()
    for name in names:
        storage.put(f"{bucket}/{name}", os.urandom(3))
    listed = list(storage.list_files(bucket))
    assert sorted(entry.uri for entry in listed) == sorted(f"{bucket}/{name}" for name in names)
    monkeypatch.setattr(s3_listing, "_parse_objects", lambda **_: 1 / 0)
    fs, _ = storage._open(bucket)
    monkeypatch.setattr(s3_listing, "_EVENT", "before-parse.none.None")  # a client that sends no such event
    fresh = type(fs)(use_listings_cache=False, skip_instance_cache=True)
    monkeypatch.setattr(Storage, "_open", lambda self, uri: (fresh, uri.removeprefix("s3://")))
    assert list(storage.list_files(bucket)) == listed
    assert [entry.modified for entry in storage.list_files(bucket)] == [entry.modified for entry in listed]


def test_others_get_the_answers_of_the_same_client_as_they_are(bucket: str) -> None:
    storage = Storage()
    for name in ("a.wav", "folder/b.wav"):
        storage.put(f"{bucket}/{name}", b"12")
    assert len(list(storage.list_files(bucket))) == 2
    fs, path = storage._open(bucket)
    assert fs.find(path) == [f"{path}/a.wav", f"{path}/folder/b.wav"]
    (found,) = fs.call_s3("list_objects_v2", Bucket=path, Prefix="a")["Contents"]
    assert (found["Key"], found["Size"], found["StorageClass"]) == ("a.wav", 2, "STANDARD")
    assert len(list(storage.list_files(bucket))) == 2


def test_pages_follow_one_another(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage()
    names = [f"{bucket}/folder/{number:02d}" for number in range(12)]
    for name in names:
        storage.put(name, b"x")
    fs, path = storage._open(bucket)
    call = fs._call_s3
    monkeypatch.setattr(fs, "_call_s3", lambda method, **request: call(method, MaxKeys=5, **request))
    assert [entry.uri for entry in storage.list_files(bucket)] == names
    page = s3_listing.page_from(fs, path, f"{path}/folder/10")
    assert ([each.key for each in page.objects], page.next_token) == (["folder/10", "folder/11"], None)
    page = s3_listing.page_from(fs, path, f"{path}/folder/01")
    assert (len(page.objects), page.next_token is None) == (5, False)


NAMES = st.lists(st.sampled_from(["a", "b", "é", "0", "10", "z z"]), min_size=1, max_size=3).map("/".join)
HASHES = st.integers(0, 2**32 - 1).map(lambda value: f"flat/task-{value:08x}.parquet")


@pytest.fixture(scope="module")
def paged_store() -> Iterator[tuple[MemoryStore, str]]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        for module, name, value in (
            (memory_store, "PAGE", 5),
            (s3_listing, "PAGE_KEYS", 5),
            (s3_listing, "PAGES_BEFORE_RANGES", 2),
            (s3_listing, "MAX_RANGE_PAGES", 2),
            (key_ranges, "RANGE_KEYS", 8),
            (key_ranges, "MIN_FOLDER_KEYS", 2),
        ):
            patch.setattr(module, name, value)
        store = MemoryStore(latency_s=0.0)
        with store.serving() as url:
            yield store, url


@given(st.sets(NAMES.map(lambda name: f"in/{name}") | HASHES.map(lambda name: f"in/{name}"), max_size=150))
@example({f"in/{folder:02d}/{number:03d}" for folder in range(9) for number in range(folder * 7 + 1)})
@example({f"in/flat/task-{number * 9973 % 2**32:08x}" for number in range(0, 2**22, 2**14)} | {"in/z", "in/a", "in0"})
@settings(max_examples=60, deadline=None)
def test_listing_in_ranges_finds_every_object_once_and_in_order(
    paged_store: tuple[MemoryStore, str], names: set[str]
) -> None:
    store, url = paged_store
    with store._lock:
        store.objects = dict.fromkeys(names, b"x")
        store._sorted = None
    listed = Storage(StorageConfig(endpoint_url=url)).list_files(f"s3://{BUCKET}/in")
    assert [entry.uri.removeprefix(f"s3://{BUCKET}/") for entry in listed] == sorted(
        name for name in names if name.startswith("in/")
    )


@pytest.mark.parametrize(
    "names",
    [
        [f"in/{folder:03d}/{number:04d}" for folder in range(40) for number in range(30)],
        [f"in/task-{number * 2654435761 % 2**32:08x}.parquet" for number in range(1200)],
    ],
)
def test_ranges_are_requested_at_once(
    paged_store: tuple[MemoryStore, str], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, url = paged_store
    with store._lock:
        store.objects, store._sorted = dict.fromkeys(names, b"x"), None
    running, most, lock = 0, 0, threading.Lock()
    answer = store._list

    def slow(request: Request) -> Answer:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return answer(request)

    monkeypatch.setattr(store, "_list", slow)
    store.requests.clear()
    listed = list(Storage(StorageConfig(endpoint_url=url)).list_files(f"s3://{BUCKET}/in"))
    assert len(listed) == len(names)
    assert most >= 3  # page by page it is one
    assert store.requests.total() < 1.7 * len(names) / memory_store.PAGE


def test_a_store_that_does_not_list_by_key_is_listed_page_by_page(paged_store: tuple[MemoryStore, str]) -> None:
    store, url = paged_store
    with store._lock:
        store.objects = {f"in/{folder}/{number}": b"x" for folder in "abcdefgh" for number in range(9)}
        store._sorted = None
    storage = Storage(StorageConfig(endpoint_url=url))
    fs, _ = storage._open(f"s3://{BUCKET}/in")
    names = [f"in/{folder}/{number}" for folder in "ba" for number in range(9)]
    page = Page([ListedObject(name, 1, None, None) for name in names], [], names[-1], "more")
    assert s3_listing._find_ranges(fs, BUCKET, names[0], page, 18) is None
    page = page._replace(objects=sorted(page.objects), last_key=max(names))
    ranges = s3_listing._find_ranges(fs, BUCKET, min(names), page, 18)
    assert ranges is not None
    ends = [f"in/{folder}/" for folder in "defgh"]
    assert list(ranges) == list(zip(["in/b/8", *ends], [*ends, None], strict=True))
