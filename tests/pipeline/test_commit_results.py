"""Results of commits are kept on the disk of the driver and become events.jsonl."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distil_ray.pipeline import commit_results
from distil_ray.pipeline.commit_results import CommitResults
from distil_ray.storage.storage import Storage


def result(number: int, error: str | None = None) -> dict[str, Any]:
    failures = [("corrupt", 1)] if number == 2 else None
    return {
        "task_id": f"t{number}",
        "error": error,
        "failures_by_kind": failures,
        "audio_s": 1.5,
        "at_s": float(number),
    }


@pytest.mark.parametrize("small_bytes", [0, 2**20], ids=["large", "small"])
@pytest.mark.parametrize("place", ["local", "s3"])
def test_results_are_the_lines_of_the_events(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, place: str, small_bytes: int
) -> None:
    monkeypatch.setattr(commit_results, "SMALL_BYTES", small_bytes)
    root = str(tmp_path) if place == "local" else str(request.getfixturevalue("bucket"))
    uri, storage = f"{root}/runs/1/events.jsonl", Storage()

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in storage.read(uri).decode().splitlines()]

    with CommitResults() as results:
        assert (len(results), list(results), results.last) == (0, [], None)
        for number in range(3):
            results.add(result(number))
        results.write(uri, storage)
        expected = [result(number) | {"failures_by_kind": {"corrupt": 1} if number == 2 else {}} for number in range(3)]
        assert lines() == list(results) == expected
        results.add(result(3))  # what was read and written stays
        results.write(uri, storage, {"report_error": "no space left"})
        assert lines() == [*expected, result(3) | {"failures_by_kind": {}}, {"report_error": "no space left"}]
        assert len(results) == 4 and results.last == result(3)


def test_the_first_distinct_errors_are_kept() -> None:
    with CommitResults() as results:
        for number in range(20):
            results.add(result(number, "no space left" if number % 2 else None))
        results.add(result(1, "no space left"))
        assert results.errors == [f"task t{number}: no space left" for number in (1, 3, 5, 7, 9)]


def test_a_line_that_a_signal_has_interrupted_is_written_again() -> None:
    class Interrupted:
        """Writes half of a line once."""

        def __init__(self, file: Any) -> None:
            self._file = file
            self._is_first = True

        def write(self, data: bytes) -> int:
            if self._is_first:
                self._is_first = False
                self._file.write(data[: len(data) // 2])
                raise KeyboardInterrupt
            return int(self._file.write(data))

        def __getattr__(self, name: str) -> Callable[..., Any]:
            return getattr(self._file, name)  # type: ignore[no-any-return]

    with CommitResults() as results:
        results.add(result(0))
        results._file = Interrupted(results._file)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            results.add(result(1))
        assert [each["task_id"] for each in results] == ["t0"]
        results.add(result(2))
        assert [each["task_id"] for each in results] == ["t0", "t2"]
