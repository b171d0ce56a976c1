"""Time limits of parts, after which the process of a recognizer is ended.

The limits of the settings allow for the slowest model on the slowest device: half an hour for ten minutes of audio on a
GPU that needs three seconds. A recognizer that hangs would keep a run waiting for that long, several times over. Once a
process has recognized speech, its own speed therefore gives a shorter limit. A process that replaces one that was ended
has recognized nothing yet: the limit of its predecessor, doubled for the warm-up, applies to the same part.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from distil_ray.config import ResourcesConfig
from distil_ray.types import SAMPLE_RATE

MIN_LIMIT_S = 60.0  # of measured limits: a garbage collection, a busy node or store takes seconds
MIN_SHARE = 0.1  # of the limit of the settings, below which measured limits do not go
WARM_UP = 2.0  # factor of the limit that a predecessor had
MIN_SPEECH_S = 1.0  # of a part whose speed counts: silence and failed chunks take no time


class PartTimeLimits:
    """Time limits of the parts of one process.

    Args:
        resources: Settings: `recognizer_timeout_s`, `recognizer_timeout_factor`, `recognizer_max_slowdown`.
    """

    def __init__(self, resources: ResourcesConfig) -> None:
        self._resources = resources
        self._slowest = 0.0  # seconds per second of speech, over the parts so far

    def limit_s(self, audio_s: float, earlier_limits_s: Sequence[float] = ()) -> float:
        """Returns the limit of a part in seconds.

        Args:
            audio_s: Seconds of its audio.
            earlier_limits_s: Limits at which earlier processes were ended that worked on the same audio.
        """
        most_s = self._resources.recognizer_limit_s(audio_s)
        slowdown = self._resources.recognizer_max_slowdown
        if not slowdown:
            return most_s
        if self._slowest:
            least_s = max(MIN_LIMIT_S, MIN_SHARE * most_s)
            return min(most_s, max(least_s, slowdown * self._slowest * audio_s))
        return min([most_s, *(WARM_UP * earlier_s for earlier_s in earlier_limits_s)])

    def add(self, result: pa.Table, elapsed_s: float) -> None:
        """Takes the speed of a part into account.

        Args:
            result: Its row of PART_RESULT.
            elapsed_s: Seconds that it took.
        """
        chunks, hypotheses = (result[name].combine_chunks().flatten() for name in ("chunks", "hypotheses"))
        has_text = pc.not_equal(hypotheses.field("text"), "")
        speech_s = (pc.sum(chunks.field("num_samples").filter(has_text), min_count=0).as_py() or 0) / SAMPLE_RATE
        if speech_s >= MIN_SPEECH_S:
            self._slowest = max(self._slowest, elapsed_s / speech_s)
