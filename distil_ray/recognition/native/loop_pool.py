"""The decoding loops of a recognizer: created when needed, over one cache, with fewer slots if memory runs out."""

from collections.abc import Callable

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.cuda_graphs import RecorderFactory
from distil_ray.recognition.native.decoding_loop import DecodingLoop
from distil_ray.recognition.native.device import is_out_of_memory, release_memory
from distil_ray.recognition.native.hypotheses_loop import BeamLoop, BestOfLoop
from distil_ray.recognition.native.kv_cache import KVCache
from distil_ray.recognition.native.slot_loop import LoopParts, SlotLoop
from distil_ray.recognition.native.speculative import Speculation


class LoopPool:
    """The loops for greedy decoding or beams, and for samples. They are kept between calls, and share a cache.

    Attributes:
        loops: The loops, by whether texts are sampled and by their number.
        parts: Of the recognizer.
        num_slots: Chunks that are decoded at once.
    """

    def __init__(
        self,
        parts: LoopParts,
        options: RecognizerOptions,
        num_slots: int,
        new_recorder: RecorderFactory | None,
        speculation: Speculation | None,
        warn: Callable[[str], None],
    ) -> None:
        """Allocates nothing yet.

        Args:
            parts: Of the recognizer.
            options: How to decode.
            num_slots: Chunks that are decoded at once.
            new_recorder: Of `cuda_graphs.recorder_factory`; None: steps are not recorded.
            speculation: Drafts for greedy decoding; None without an assistant.
            warn: Called with a message when the slots become fewer. A method of the recognizer would close a cycle of
                references, and weights and caches would not be freed with it.
        """
        self.loops: dict[tuple[bool, int], SlotLoop] = {}
        self.parts, self._options, self.num_slots = parts, options, num_slots
        self._new_recorder, self._speculation, self._warn = new_recorder, speculation, warn
        self._cache: KVCache | None = None

    def run(self, work: Callable[[SlotLoop], None], is_sampled: bool = False) -> None:
        """Calls `work` with a loop; where memory runs out, again with half of the slots, for what is still missing."""
        while not self._try(work, is_sampled):
            # Only here: the traceback of the error would keep the tensors of the loops alive.
            self.resize(self.num_slots // 2)
            self._warn(f"out of memory: decoding.batch_size is now {self.num_slots}")
            release_memory(self.parts.decoder.device)

    def resize(self, num_slots: int) -> None:
        """Frees loops and cache; those of the next call have `num_slots` slots."""
        self.loops.clear()
        self._cache, self.num_slots = None, num_slots

    def _try(self, work: Callable[[SlotLoop], None], is_sampled: bool) -> bool:
        """Calls `work`; returns False if memory ran out and the number of slots can still be halved."""
        try:
            work(self._loop(is_sampled))
        except (RuntimeError, MemoryError) as error:
            if self.num_slots == 1 or not is_out_of_memory(error):
                raise
            return False
        return True

    def _loop(self, is_sampled: bool) -> SlotLoop:
        """Returns the loop for sampled tasks or for others."""
        options, parts = self._options, self.parts
        if self._cache is None:
            self._cache = parts.decoder.new_cache(self.num_slots, max(options.num_beams, options.best_of))
        num_texts = options.best_of if is_sampled else options.num_beams
        key = is_sampled and num_texts > 1, num_texts
        if key not in self.loops:
            if num_texts == 1:
                self.loops[key] = DecodingLoop(parts, self._cache, self._warn, self._new_recorder, self._speculation)
            elif is_sampled:
                self.loops[key] = BestOfLoop(parts, self._cache, num_texts)
            else:
                self.loops[key] = BeamLoop(parts, self._cache, options)
        return self.loops[key]
