"""What an assistant is worth: asked about held-out speech, place by place, and what follows for a decoder's passes.

A draft is kept as long as every one before it was. So whether an assistant, shown the main model's own tokens so far,
says the next one tells exactly how many passes k drafts at a time would have taken; no decoding is needed for it. Its
tokens stand under the same rules, and it may draft the ids that it may in a run. What that gains in time is the cost
model's to say (recognition/cost.py), from passes that are timed here at the run's batch size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.assistant_training.dataset import collate
from distil_ray.assistant_training.student_decoder import StudentDecoder
from distil_ray.assistant_training.teacher import Example, Teacher
from distil_ray.recognition.native.speculation_cost import SpeculationCosts, predict_speedup

DRAFTS = tuple(range(2, 9))  # numbers of drafts that are told
ROWS = 8  # examples at once


@dataclass(frozen=True, slots=True)
class Worth:
    """Figures of one assistant over held-out speech.

    ``agreement``: share of tokens, end tokens among them, that it says as the main model did; ``tokens_per_pass`` and
    ``passes`` by the number of drafts; ``speed_up``: the expected one at the best of them, None if nothing was timed.
    """

    name: str
    num_chunks: int
    num_tokens: int
    agreement: float
    passes: dict[int, int]
    tokens_per_pass: dict[int, float]
    best_drafts: int
    speed_up: float | None

    def figures(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def right_drafts(
    student: StudentDecoder, examples: Iterable[Example], teacher: Teacher, drafted: Tensor
) -> list[NDArray[np.bool_]]:
    """For each example, shape (num_tokens,), whether every token behind the first, and the end, is drafted rightly.

    The first comes of the prompt's pass. `drafted`: the ids that an assistant may choose, on the student's device.
    """
    student.eval()
    found: dict[int, NDArray[np.bool_]] = {}
    device = student.embeddings.device
    known = sorted(enumerate(examples), key=lambda pair: len(pair[1].states))
    rules = {times: teacher.rules(times).for_vocabulary(drafted) for times in (False, True)}
    for begin in range(0, len(known), ROWS):
        numbers, some = zip(*known[begin : begin + ROWS], strict=True)
        batch = collate(some, teacher.tokens.eot).to(device, torch.float32)
        hidden = student(batch.ids, batch.states, batch.mask).flatten(0, 1)[batch.places]
        logits = torch.split(student.logits(hidden, drafted), [len(one.tokens) + 1 for one in some])
        for number, one, mine in zip(numbers, some, logits, strict=True):
            text = torch.tensor(one.tokens, device=device)
            chosen = drafted[rules[teacher.has_times(one.prompt)].apply_to_text(mine, text).argmax(dim=-1)]
            wanted = torch.tensor([*one.tokens, teacher.tokens.eot], device=device)
            found[number] = (chosen == wanted)[1:].cpu().numpy()
    return [found[number] for number in range(len(found))]


def num_passes(right: NDArray[np.bool_], drafts: int) -> int:
    """Passes of the main model over a text of which these drafts are right, `drafts` of them at a time."""
    passes = place = 0
    while place < len(right):
        wrong = np.flatnonzero(~right[place : place + drafts])
        place += (int(wrong[0]) if len(wrong) else drafts) + 1
        passes += 1
    return passes


def weigh(name: str, right: Sequence[NDArray[np.bool_]], costs: SpeculationCosts | None) -> Worth:
    """Figures from what was drafted rightly; `costs`: of passes at the run's batch size, if they are known."""
    tokens = sum(map(len, right))
    passes = {drafts: sum(num_passes(one, drafts) for one in right) for drafts in DRAFTS}
    per_pass = {drafts: tokens / number for drafts, number in passes.items()}
    best, speed_up = max(per_pass, key=per_pass.__getitem__), None
    if costs is not None:
        gains = {
            drafts: predict_speedup(costs, per_pass[drafts], drafts, round(tokens / len(right))) for drafts in DRAFTS
        }
        best = max(gains, key=gains.__getitem__)
        speed_up = gains[best]
    return Worth(
        name=name,
        num_chunks=len(right),
        num_tokens=tokens,
        agreement=float(np.concatenate(right).mean()),
        passes=passes,
        tokens_per_pass=per_pass,
        best_drafts=best,
        speed_up=speed_up,
    )
