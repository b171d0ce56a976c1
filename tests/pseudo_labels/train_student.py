"""Trains a student on a data set for a few dozen steps, by the rules of the training script.

    python -m tests.pseudo_labels.train_student TEACHER_FOLDER DATA_SET_FOLDER [STEPS]

TEACHER_FOLDER is a checkpoint (English-only); DATA_SET_FOLDER the `dataset` of an output that it has labeled. The
student has two of the teacher's decoder layers; its encoder is frozen. Told are the loss on the labels before and
after, and the word error rate of the student's greedy output against the teacher's words on the same clips.
"""

import io
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from distil_ray.config import ScoringConfig
from distil_ray.evaluation.wer import Scorer, pooled_rate
from distil_ray.whisper.student import create_student
from tests.pseudo_labels.trainer import Trainer

IGNORED = -100
BATCH = 4
RATE = 1e-4  # distil-whisper's own
TIMESTAMPS, PROMPTED = 0.2, 0.2  # the trainer's probabilities
SEED = 0


@dataclass(frozen=True)
class Example:
    features: Any  # (80, 3000)
    states: Any  # what the frozen encoder makes of them, (1500, width)
    row: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """Loss on the labels, and WER of the greedy output against the teacher's words, before and after training."""

    losses: tuple[float, float]
    rates: tuple[float, float]


def train(teacher: Path, dataset: Path, steps: int, limit: int | None = None, *, evaluate: bool = True) -> Outcome:
    """Trains a student on at most `limit` examples. Without `evaluate` it is not decoded, and the rates are 0."""
    torch.manual_seed(SEED)
    trainer = Trainer.of(teacher, is_multilingual=False)
    with tempfile.TemporaryDirectory() as folder:
        create_student(teacher, Path(folder), 2)
        student = WhisperForConditionalGeneration.from_pretrained(folder)
    examples = _examples(dataset, teacher, student, limit)
    spoken = examples if evaluate else []
    before = _loss(student, trainer, examples), _rate(student, trainer, spoken)
    student.model.encoder.requires_grad_(False)
    _fit(student, trainer, examples, steps)
    after = _loss(student, trainer, examples), _rate(student, trainer, spoken)
    return Outcome((before[0], after[0]), (before[1], after[1]))


def _examples(dataset: Path, teacher: Path, student: Any, limit: int | None) -> list[Example]:
    extractor = WhisperFeatureExtractor.from_pretrained(str(teacher))
    rows = [row for path in sorted((dataset / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    examples = []
    for row in rows[:limit]:
        samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        features = extractor(samples, sampling_rate=rate, return_tensors="pt").input_features
        with torch.no_grad():
            states = student.model.encoder(features).last_hidden_state
        examples.append(Example(features[0], states[0], row))
    return examples


def _batch(trainer: Trainer, examples: Sequence[Example], rng: np.random.Generator | None) -> tuple[Any, Any, Any]:
    """Returns (encoder states, decoder inputs, labels); without `rng`, labels have no timestamps and no prompt."""
    rows = [
        trainer.labels(
            example.row,
            timestamps=rng is not None and rng.random() < TIMESTAMPS,
            prompted=rng is not None and rng.random() < PROMPTED,
        )
        for example in examples
    ]
    width = max(map(len, rows)) - 1
    inputs = torch.full((len(rows), width), trainer.ids("<|endoftext|>")[0])
    labels = torch.full((len(rows), width), IGNORED)
    start = trainer.ids("<|startoftranscript|>")[0]
    for number, ids in enumerate(rows):
        inputs[number, : len(ids) - 1] = torch.tensor(ids[:-1])
        labels[number, : len(ids) - 1] = torch.tensor(ids[1:])
        labels[number, : ids.index(start)] = IGNORED  # the prompt, and the token that begins the transcript
    return torch.stack([example.states for example in examples]), inputs, labels


def _loss_of(student: Any, batch: tuple[Any, Any, Any]) -> Any:
    states, inputs, labels = batch
    hidden = student.model.decoder(input_ids=inputs, encoder_hidden_states=states).last_hidden_state
    return torch.nn.functional.cross_entropy(student.proj_out(hidden).flatten(0, 1), labels.flatten())


def _fit(student: Any, trainer: Trainer, examples: list[Example], steps: int) -> None:
    rng = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    student.train()
    for _ in range(steps):
        chosen = [examples[place] for place in rng.choice(len(examples), min(BATCH, len(examples)), replace=False)]
        loss = _loss_of(student, _batch(trainer, chosen, rng))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
    student.eval()


def _loss(student: Any, trainer: Trainer, examples: list[Example]) -> float:
    student.eval()
    with torch.no_grad():
        losses = [float(_loss_of(student, _batch(trainer, [example], None))) for example in examples]
    return float(np.mean(losses))


def _rate(student: Any, trainer: Trainer, examples: list[Example]) -> float:
    """Returns the pooled WER of greedy decoding without timestamps against the text of the labels."""
    scorer = Scorer(ScoringConfig())
    edits = words = 0
    for example in examples:
        ids = student.generate(example.features[None], max_new_tokens=200, num_beams=1, do_sample=False)
        text = trainer.tokenizer.decode(ids[0], skip_special_tokens=True)
        score = scorer.score(text, example.row["transcript"], "en")
        edits += (score.substitutions or 0) + (score.deletions or 0) + (score.insertions or 0)
        words += score.num_ref_words or 0
    return pooled_rate(edits, words) or 0.0


if __name__ == "__main__":
    outcome = train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 60)
    print(f"loss  {outcome.losses[0]:.3f} before, {outcome.losses[1]:.3f} after")
    print(f"WER against the teacher  {100 * outcome.rates[0]:.1f} % before, {100 * outcome.rates[1]:.1f} % after")
