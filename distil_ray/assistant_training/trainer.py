"""Optimization of a student in plain torch: from batches to weights.

The loss is the Kullback-Leibler divergence from the teacher's most likely tokens (renormalized over those) plus the
cross-entropy with the token that it chose. Both use a part of the vocabulary: all tokens of the training data and the
most frequent others. About 10,000 of 51,865 entries are enough; the product with all of them would be a third of the
work. AdamW with a warm-up and a cosine decay to zero; progress is the share of the steps or of the time budget,
whichever is larger, so that a training with a budget decays completely too.

This module does not know where batches come from or where checkpoints go.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distil_ray.assistant_training.dataset import Batch
from distil_ray.assistant_training.student_decoder import StudentDecoder
from distil_ray.config import AssistantConfig

NUM_FREQUENT_TOKENS = 8192  # first entries of the vocabulary, which is ordered by the merges of the tokenizer
WARMUP_FRACTION = 0.05  # of the training
MAX_GRAD_NORM = 1.0  # of all gradients of a step together
WEIGHT_DECAY = 0.01
MIN_CHECK_PAUSE_FACTOR = 4  # pause after a check, in durations of the check: checks take a fifth of the time at most
LOSS_WINDOW_STEPS = 20  # steps whose mean loss is reported

ComputeAgreement = Callable[[], float]  # returns the share of held-out tokens that the student predicts correctly
OnCheckpoint = Callable[[dict[str, Any], "History"], None]


@dataclass(slots=True)
class History:
    """Progress of a training.

    Attributes:
        step: Optimizer steps so far.
        elapsed_s: Seconds of training so far.
        audio_s: Seconds of audio in all batches so far.
        losses: (step, mean loss of the last `LOSS_WINDOW_STEPS` steps) after each step.
        checks: (step, elapsed seconds, agreement) of each check on held-out audio.
    """

    step: int = 0
    elapsed_s: float = 0.0
    audio_s: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)
    checks: list[tuple[int, float, float]] = field(default_factory=list)

    @property
    def loss(self) -> float:
        return self.losses[-1][1] if self.losses else math.nan

    @property
    def has_decreased(self) -> bool:
        """True if the last loss is lower than the first."""
        return len(self.losses) > 1 and self.losses[-1][1] < self.losses[0][1]


def loss_vocabulary(token_ids: Iterable[int], eot: int, suppressed: Iterable[int]) -> Tensor:
    """Returns the ids that the loss is computed over, int64, sorted: those of the data, frequent ones, the end."""
    ids = ({*token_ids, *range(min(NUM_FREQUENT_TOKENS, eot))} - set(suppressed)) | {eot, *token_ids}
    return torch.tensor(sorted(ids))


class DistillationLoss:
    """The distillation loss over a part of the vocabulary."""

    def __init__(self, ids: Tensor, size: int, kl_weight: float, token_weight: float) -> None:
        """Creates the loss.

        Args:
            ids: Result of `loss_vocabulary`.
            size: Size of the whole vocabulary.
            kl_weight: Weight of the KL divergence.
            token_weight: Weight of the cross-entropy.
        """
        self.ids = ids
        self._index = torch.full((size,), -1, device=ids.device)
        self._index[ids] = torch.arange(len(ids), device=ids.device)
        self._kl_weight, self._token_weight = kl_weight, token_weight

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """Returns the mean over the positions of a batch; `logits`: float32, shape (num_positions, len(ids))."""
        logprobs = logits.log_softmax(dim=-1)
        indices = self._index[batch.top_ids]
        known = batch.top_probs * (indices >= 0)
        target_probs = known / known.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        student_logprobs = logprobs.gather(1, indices.clamp(min=0))
        divergence = (torch.xlogy(target_probs, target_probs) - target_probs * student_logprobs).sum(dim=-1).mean()
        cross_entropy = functional.nll_loss(logprobs, self._index[batch.target])
        return self._kl_weight * divergence + self._token_weight * cross_entropy


def fit(
    student: StudentDecoder,
    batches: Iterator[Batch],
    loss: DistillationLoss,
    settings: AssistantConfig,
    check: ComputeAgreement,
    on_checkpoint: OnCheckpoint,
    *,
    state: dict[str, Any] | None = None,
    autocast: torch.dtype | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    all_reduce_min: Callable[[float], float] = lambda seconds: seconds,
) -> History:
    """Trains a student until `settings.steps` or `settings.budget_s` is reached.

    The agreement is checked and a checkpoint is made every `settings.eval_interval_s` seconds, less often if checks
    take long, and at the end.

    Args:
        student: Student to train, in place.
        batches: Endless batches.
        loss: The loss.
        settings: Settings of the training.
        check: Returns the agreement on held-out audio.
        on_checkpoint: Called with a checkpoint and the history after each check.
        state: Checkpoint to resume from, if any.
        autocast: Data type of automatic mixed precision; None for float32.
        wrap: Wraps a module so that it shares gradients with other processes.
        all_reduce_min: Returns the minimum of a number over all processes.

    Returns:
        The history of the training.
    """
    device = student.embeddings.device
    module = wrap(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    history = History() if state is None else _load_checkpoint(state, student, optimizer)
    torch.manual_seed(settings.seed + history.step)  # of dropout: a resumed training has other noise than its beginning
    earlier_s, began = history.elapsed_s, time.monotonic()
    next_check_s, recent = earlier_s + settings.eval_interval_s, list[float]()
    student.train()
    while (progress := _progress(history, settings)) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _lr_factor(progress)
        batch = next(batches).to(device, torch.float32)
        with _autocast(device, autocast):
            hidden = module(batch.ids, batch.states, batch.mask).flatten(0, 1)[batch.loss_indices]
            logits = student.logits(hidden, loss.ids)
        value = loss(logits, batch)
        _descend(value, student, optimizer)
        recent = [*recent[-LOSS_WINDOW_STEPS + 1 :], float(value.detach())]
        history.step += 1
        history.audio_s += batch.audio_s
        history.losses.append((history.step, sum(recent) / len(recent)))
        history.elapsed_s = all_reduce_min(earlier_s + time.monotonic() - began)
        if history.elapsed_s >= next_check_s or _progress(history, settings) >= 1.0:
            history.checks.append((history.step, history.elapsed_s, check()))
            on_checkpoint(_make_checkpoint(student, optimizer, history), history)
            student.train()
            # the maximum over all processes, so that all of them check at the same step
            checked_s = -all_reduce_min(began - time.monotonic() - earlier_s)
            pause_s = MIN_CHECK_PAUSE_FACTOR * (checked_s - history.elapsed_s)
            next_check_s = checked_s + max(settings.eval_interval_s, pause_s)
    student.eval()
    return history


def _descend(loss: Tensor, student: StudentDecoder, optimizer: torch.optim.Optimizer) -> None:
    """Updates the weights of a student by the gradients of a loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(student.parameters(), MAX_GRAD_NORM)
    optimizer.step()


def _make_checkpoint(student: StudentDecoder, optimizer: torch.optim.Optimizer, history: History) -> dict[str, Any]:
    return {"student": student.state_dict(), "optimizer": optimizer.state_dict(), "history": asdict(history)}


def _load_checkpoint(state: dict[str, Any], student: StudentDecoder, optimizer: torch.optim.Optimizer) -> History:
    """Restores student and optimizer from a checkpoint; returns its history."""
    student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    return History(**state["history"])


def _progress(history: History, settings: AssistantConfig) -> float:
    by_time = 0.0 if settings.budget_s is None else history.elapsed_s / settings.budget_s
    return max(history.step / settings.steps, by_time)


def _lr_factor(progress: float) -> float:
    """Returns the learning rate as a fraction of its peak."""
    if progress < WARMUP_FRACTION:
        return (progress + WARMUP_FRACTION / 10) / (WARMUP_FRACTION * 1.1)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP_FRACTION) / (1 - WARMUP_FRACTION)))


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
