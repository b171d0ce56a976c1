"""Storage before a server that misbehaves: what was asked for happens once, whole, or is an error that says so."""

from collections.abc import Callable
from pathlib import Path

import pytest

from distil_ray.config import StorageConfig
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from tests.faults.proxy import Fault, FaultyProxy, every_fault, slow_down

DATA = bytes(range(256)) * 2000
FAULTS = every_fault(silence_s=0.5)


SLOW_FAULTS = ("silent", "slow-down")  # their waits take 20 s


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=name, marks=[pytest.mark.slow] if name in SLOW_FAULTS else [])
        for name, fault in FAULTS.items()
    ],
)
def test_every_request_survives_a_fault(fault: Fault, proxy: FaultyProxy, bucket: str, tmp_path: Path) -> None:
    with proxy.serving() as url:
        storage = Storage(StorageConfig(endpoint_url=url, timeout_s=0.3))
        storage.put(f"{bucket}/old", DATA)
        actions: list[tuple[Callable[[], object], object]] = [
            (lambda: storage.put(f"{bucket}/put", DATA), None),
            (lambda: storage.put_if_absent(f"{bucket}/new", DATA), True),
            (lambda: storage.put_if_absent(f"{bucket}/new", DATA[1:]), False),
            (lambda: storage.read(f"{bucket}/old"), DATA),
            (lambda: storage.fetch(f"{bucket}/old", tmp_path / "copy"), len(DATA)),
            (
                lambda: [entry.uri for entry in storage.list_files(bucket)],
                [f"{bucket}/{n}" for n in ("new", "old", "put")],
            ),
        ]
        for action, expected in actions:
            proxy.faults, proxy.rate, proxy.patience = (fault,), 1.0, 1
            assert action() == expected
        assert proxy.done.total() >= len(actions)
        assert (
            storage.read(f"{bucket}/put") == storage.read(f"{bucket}/new") == (tmp_path / "copy").read_bytes() == DATA
        )


def test_a_store_that_never_recovers_is_an_error_that_names_the_file(proxy: FaultyProxy, bucket: str) -> None:
    proxy.faults, proxy.rate, proxy.patience = (slow_down,), 1.0, 10**6
    with proxy.serving() as url:
        storage = Storage(StorageConfig(endpoint_url=url, max_attempts=1))
        with pytest.raises(StorageError, match=r"cannot write s3://.*/a: .*reduce your request rate"):
            storage.put(f"{bucket}/a", DATA)
