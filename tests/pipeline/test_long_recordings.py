"""A recording's length does not show in the memory that decoding it takes."""

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from distil_ray.types import SAMPLE_RATE
from tests.pipeline.long_recordings import measure
from tests.support.clips import load_samples

LONGER = 20  # times
PARTS = "plan.part_audio_s=30"


@pytest.fixture(scope="session")
def minute() -> NDArray[np.int16]:
    return np.resize(load_samples("sonnet-1"), 60 * SAMPLE_RATE)


def write_flac(path: Path, minute: NDArray[np.int16], times: int) -> None:
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        for _ in range(times):
            file.write(minute)


def write_m4a(path: Path, minute: NDArray[np.int16], times: int) -> None:
    """The same packets again and again; the index of all of them stands at the end."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = cast(Any, container.add_stream("aac", rate=SAMPLE_RATE, layout="mono"))
        frame = av.AudioFrame.from_ndarray(minute[None].astype(np.float32) / 32768, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        packets = [*stream.encode(frame), *stream.encode(None)][1:-1]
        for number in range(times * len(packets)):
            packet = packets[number % len(packets)]
            packet.pts = packet.dts = number * 1024
            packet.stream = stream
            container.mux(packet)


@pytest.mark.parametrize("write", [write_flac, pytest.param(write_m4a, marks=pytest.mark.slow)])
def test_twenty_minutes_take_the_memory_of_one(minute: NDArray[np.int16], tmp_path: Path, write: Any) -> None:
    write(tmp_path / "short.flac", minute, 1)
    write(tmp_path / "long.flac", minute, LONGER)
    short, long = measure(tmp_path / "short.flac", PARTS), measure(tmp_path / "long.flac", PARTS)
    assert long.seconds > 0.99 * LONGER * short.seconds
    assert long.num_parts > 30
    assert long.child_mib < short.child_mib + 4
    assert long.worker_mib < short.worker_mib + 12  # all of it would be 37 MiB
