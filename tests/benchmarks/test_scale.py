"""The benchmark of scale: what it counts, how it attributes it, and its store in memory."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.scale.command import (
    MORE_SHARDS,
    SHAPES,
    measure_layout,
    measure_scale,
    name_request,
    predict_requests,
    price,
    solve,
)
from benchmarks.scale.counting import Kind, Traffic, key_of, kind_of
from benchmarks.scale.large_shard import measure_shards
from benchmarks.scale.memory_store import BUCKET, MemoryStore
from benchmarks.scale.nights import measure_nights, nights_table
from benchmarks.scale.proxy import Request
from benchmarks.scale.start import measure_starts
from benchmarks.settings import ScaleSettings
from distil_ray.config import StorageConfig
from distil_ray.errors import ExitCode
from distil_ray.storage.storage import Storage


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "kind", "name"),
    [
        ("GET", "/scale?list-type=2&prefix=3%2Finput%2F", {}, b"", Kind.LIST, "3/listing"),
        ("GET", "/scale/3/input/a%20b.wav", {}, b"", Kind.GET, "3/input"),
        ("GET", "/scale/3/input/a.wav", {"Range": "bytes=0-4095"}, b"", Kind.RANGED_GET, "3/headers"),
        ("GET", "/scale/3/input/a.tar", {"range": "bytes=512-999"}, b"", Kind.RANGED_GET, "3/input"),
        ("HEAD", "/scale/3/output/transcripts/task-1.parquet", {}, b"", Kind.HEAD, "3/transcripts"),
        ("PUT", "/scale/3/output/runs/r/plan/tasks.parquet", {}, b"x", Kind.PUT, "3/plan"),
        ("PUT", "/scale/3/output/_lease.json", {"If-None-Match": "*"}, b"x", Kind.CONDITIONAL_PUT, "3/run files"),
        ("DELETE", "/scale/3/output/runs/r/parts/a/b.parquet", {}, b"", Kind.DELETE, "3/parts"),
        ("POST", "/scale?delete", {}, b"<Key>3/output/runs/r/parts/1</Key>", Kind.DELETE, "3/parts"),
    ],
)
def test_requests_are_told_apart_by_kind_and_purpose(
    method: str, path: str, headers: dict[str, str], body: bytes, kind: Kind, name: str
) -> None:
    request = Request(method, path, headers)
    assert (kind_of(request), name_request(request, key_of(request, body))) == (kind, name)


def _traffic(per_run: int, per_recording: int, per_block: int, per_split: int) -> dict[str, Traffic]:
    found = {}
    for number, shape in enumerate(SHAPES):
        gets = per_run + per_recording * shape.recordings + per_block * shape.blocks + per_split * shape.split
        audio = (32_044 + 100) * shape.recordings
        found[f"{number}/input"] = Traffic(Counter({Kind.GET: gets}), audio, 0)
        found[f"{number}/headers"] = Traffic(Counter({Kind.RANGED_GET: shape.recordings}), 0, 0)
    return found


def test_the_share_of_each_unit_follows_from_runs_of_several_shapes() -> None:
    cost = solve("files", SHAPES, _traffic(7, 2, 5, 3), _traffic(1, 0, 4, 0))
    assert cost.requests == {
        "run": {"GET": 7.0},
        "recording": {"GET": 2.0},
        "block": {"GET": 5.0},
        "block of two parts": {"GET": 3.0},
    }
    assert (cost.headers_per_recording, cost.existing["GET"]) == (1.0, 4.0)
    assert cost.overhead_bytes == pytest.approx(100)


def test_requests_for_row_groups_follow_their_size() -> None:
    traffic = {
        str(number): Traffic(Counter({Kind.GET: 2 * (shape.recordings // 15) + 3 * shape.blocks + 5 * shape.shards}))
        for number, shape in enumerate((*SHAPES, MORE_SHARDS))
    }
    cost = solve("parquet", (*SHAPES, MORE_SHARDS), {f"{key}/input": value for key, value in traffic.items()}, {})
    assert cost.requests == {"row group": {"GET": 2.0}, "block": {"GET": 3.0}, "shard": {"GET": 5.0}, "run": {}} | {
        "block of two parts": {}
    }
    settings = ScaleSettings(hours=1000, recording_s=36, block_s=3600, group_recordings=50, shard_recordings=1000)
    assert predict_requests(cost, settings)["GET"] == 2 * 2000 + 3 * 1000 + 5 * 100


def test_a_corpus_costs_its_requests_at_the_prices_of_the_settings() -> None:
    cost = solve("files", SHAPES, _traffic(7, 2, 5, 3), _traffic(1, 0, 4, 0))
    settings = ScaleSettings(hours=1000, recording_s=36, block_s=1200, write_price=5.0, read_price=1.0)
    requests = predict_requests(cost, settings)
    assert requests["GET"] == 7 + 2 * 100_000 + (5 + 3) * 3000
    assert requests["ranged GET"] == 1000  # a run reads no more headers
    assert requests["LIST"] == pytest.approx(100 + 9)
    assert price(requests, settings) == pytest.approx((224_007 + 1000 + 5 * 109) / 1000)


def test_a_run_starts_with_the_new_recordings_alone() -> None:
    settings = ScaleSettings(start_recordings=(2000,), start_new=30, latency_s=0.0)
    (start,) = measure_starts(settings)  # raises an error if other recordings are found done
    assert (start.done, start.new, start.blocks) == (2000, 30, 200)
    assert start.requests < 100


def test_the_store_in_memory_answers_as_s3_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    store = MemoryStore(latency_s=0.0)
    large = np.random.default_rng(0).bytes(2_500_000)
    for number in range(1500):
        store.objects[f"folder/{number:04d}"] = b"same"
    with store.serving() as url:
        storage = Storage(StorageConfig(endpoint_url=url))
        root = f"s3://{BUCKET}"
        assert storage.put_if_absent(f"{root}/folder-2", large)
        assert not storage.put_if_absent(f"{root}/folder-2", b"other")
        assert storage.stat(f"{root}/none") is None
        with storage.open(f"{root}/folder-2") as file:
            file.seek(-7, 2)
            assert file.read() == large[-7:]
        assert storage.fetch(f"{root}/folder-2", tmp_path / "copy") == len(large)
        listed = list(storage.list_files(f"{root}/folder"))
        assert [entry.uri for entry in listed] == [f"{root}/folder/{number:04d}" for number in range(1500)]
        storage.delete(f"{root}/folder")
        assert [entry.uri for entry in storage.list_files(root)] == [f"{root}/folder-2"]
    assert store.requests[Kind.LIST] == 2 + 2 + 1


@pytest.mark.slow
def test_loose_files_take_one_read_each_and_members_of_a_shard_are_read_together() -> None:
    files, tar = measure_layout("files"), measure_layout("tar")
    assert files.requests["recording"] == {"GET": 1.0}
    assert files.headers_per_recording == 1.0
    assert files.requests["block"] == {"ranged GET": 1.0, "conditional PUT": 1.0}
    assert files.requests["block of two parts"] == {"GET": 2.0, "PUT": 1.0, "DELETE": 1.0}
    assert files.existing == {"ranged GET": 3.0}
    assert tar.requests["recording"] == {}
    assert tar.requests["block"] == {"ranged GET": 2.0, "conditional PUT": 1.0}
    assert tar.requests["shard"] == {"GET": 1.0, "ranged GET": 2.0, "PUT": 1.0}
    assert tar.headers_per_recording == 0.0


@pytest.mark.slow
def test_the_command_writes_its_tables(tmp_path: Path) -> None:
    printed = io.StringIO()
    settings = ScaleSettings(
        layouts=("manifest",), blocks=(30,), indexed_blocks=(300,), latency_s=0.0, report=str(tmp_path)
    )
    assert measure_scale(settings, Console(file=printed, width=200)) == ExitCode.DONE
    written = json.loads((tmp_path / "scale.json").read_text())
    assert [one["layout"] for one in written["layouts"]] == ["manifest"]
    # Two listings, and each block; or the index.
    assert [(one["rows"], one["requests"]) for one in written["ledger"]] == [(300, 32), (3000, 3)]
    assert "| manifest | recording |" in (tmp_path / "scale.md").read_text()


@pytest.mark.slow
def test_nights_transcribe_what_is_new_and_changed() -> None:
    settings = ScaleSettings(nights=4, night_new=6, night_changed=2, night_deleted=1, night_block_rows=3)
    costs = measure_nights(settings)
    assert [one.listed for one in costs] == [6, 11, 16, 21]
    assert costs[0].recognized == 6
    assert all(6 <= one.recognized <= 8 for one in costs[1:])
    assert [one.folders for one in costs] == [1, 2, 3, 4]
    assert all(one.requests["PUT"] for one in costs)
    assert nights_table(costs, settings).row_count == 4


@pytest.mark.slow
def test_tasks_of_a_compressed_shard_read_it_from_its_beginning() -> None:
    reads = {(one.is_compressed, one.num_tasks): one.times_read for one in measure_shards()}
    assert reads[True, 1] == pytest.approx(1.0, abs=0.1)
    assert reads[True, 16] > 8
    assert reads[False, 16] == pytest.approx(reads[False, 1], abs=0.1)
