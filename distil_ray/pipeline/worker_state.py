"""State of the recognizer actors of a run: loading the model, ready, or the part in recognition and its progress.

The result of a part arrives when the whole part is recognized, which can take a minute on a CPU. Until then an actor
publishes its state every `PUBLISH_INTERVAL_S`, and the driver shows it (`progress.py`). States serve the display only;
a lost one has no other effect. The module does not import Ray; `ray_key_value.py` transports the states.
"""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

logger = logging.getLogger(__name__)

PUBLISH_INTERVAL_S = 2.0
MAX_PROCESSED = 0.95  # of a part in recognition: `processed_s` is an estimate


class WorkerPhase(StrEnum):
    """Phase of a recognizer actor."""

    LOADING = "loading"
    READY = "ready"
    TRANSCRIBING = "transcribing"


@dataclass(frozen=True, slots=True)
class WorkerState:
    """State of one actor.

    Attributes:
        phase: Value of `WorkerPhase`.
        task_id: Task of the part in recognition.
        part_index: Number of that part in its task.
        audio_s: Audio seconds of the part.
        processed_s: Audio seconds of it that are processed, estimated; 0 for a recognizer that does not report it.
    """

    phase: str
    task_id: str | None = None
    part_index: int | None = None
    audio_s: float = 0.0
    processed_s: float = 0.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        return cls(**json.loads(text))


class StatePublisher:
    """Publishes the state of this process from a thread, whenever it has changed.

    Args:
        publish: Stores a state where the driver reads it. Its exceptions are logged.
    """

    def __init__(self, publish: Callable[[WorkerState], None]) -> None:
        self._publish = publish
        self._phase = WorkerPhase.LOADING
        self._part: dict[str, Any] = {}
        self._processed: Callable[[], float] = _nothing
        self._changed = threading.Event()
        threading.Thread(target=self._run, name="worker state", daemon=True).start()

    def set_ready(self) -> None:
        """The model is loaded, and no part is in recognition."""
        self._set(WorkerPhase.READY, {}, _nothing)

    def set_transcribing(self, task_id: str, part_index: int, audio_s: float, processed: Callable[[], float]) -> None:
        """A part is in recognition. `processed` returns the audio seconds of it that are processed."""
        part = {"task_id": task_id, "part_index": part_index, "audio_s": audio_s}
        self._set(WorkerPhase.TRANSCRIBING, part, processed)

    def _set(self, phase: WorkerPhase, part: dict[str, Any], processed: Callable[[], float]) -> None:
        self._phase, self._part, self._processed = phase, part, processed
        self._changed.set()

    def _state(self) -> WorkerState:
        part, processed_s = self._part, self._processed()
        limit_s = MAX_PROCESSED * part.get("audio_s", 0.0)
        return WorkerState(self._phase, **part, processed_s=round(min(processed_s, limit_s), 1))

    def _run(self) -> None:
        published = None
        while True:
            try:
                state = self._state()
                if state != published:
                    self._publish(state)
                    published = state
            except Exception:
                logger.debug("the state of this worker could not be published", exc_info=True)
            self._changed.wait(PUBLISH_INTERVAL_S)
            self._changed.clear()


def _nothing() -> float:
    return 0.0
