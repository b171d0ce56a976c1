"""Evaluation of a student on held-out speech, and upload of the student with the results.

The student is compared with the current assistant, if that one shares the main model's encoder, and with decoding
without an assistant. Its own transcripts are compared with those of the main model, and both with references if there
are any.

Computing the acceptance of drafts needs no decoding: given the main model's tokens, the student predicts each next one.
A draft is accepted if all drafts before it were accepted, so these predictions determine the number of steps that k
drafts at a time would have taken. The speedup follows from the cost model (`recognition/native/speculation_cost.py`)
with steps timed at the batch size of the run.
"""

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.assistant_training.dataset import collate
from distil_ray.assistant_training.student_decoder import StudentDecoder
from distil_ray.assistant_training.teacher import Example, Teacher
from distil_ray.assistant_training.trainer import LOSS_WINDOW_STEPS, History
from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.wer import Score, Scorer, pooled_rate
from distil_ray.output.run_context import Run
from distil_ray.pipeline.assistant_selection import student_uri
from distil_ray.pipeline.model_setup import StorageFolderReader
from distil_ray.pipeline.transcribe_stage import make_recognizer_options
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.device import choose_slots
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.native.speculation_cost import (
    SpeculationCosts,
    measure_assistant,
    measure_costs,
    predict_speedup,
)
from distil_ray.recognition.native.speculative import draft_vocabulary, load_assistant, shares_encoder
from distil_ray.report.charts import Point, svg_document, svg_grid_line, svg_line, svg_text
from distil_ray.storage.uris import join
from distil_ray.types import EDITS, SAMPLE_RATE
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.model import load_model
from distil_ray.whisper.student import create_student
from distil_ray.whisper.tokenizer import Tokens

WIDTH, HEIGHT, MARGIN, GAP = 720, 180, 48, 40  # pixels; of a panel


def draw_history(history: History) -> str:
    """Returns the plot of a training as SVG text: two panels over the same steps."""
    losses = [(float(step), loss) for step, loss in history.losses]
    agreement = [(float(step), 100 * share) for step, _, share in history.checks]
    steps = max(1.0, float(history.step))
    x_label = f"step (of {history.step:,}; {history.elapsed_s:,.0f} s)"
    panels = [
        *_panel(
            f"loss, mean of {LOSS_WINDOW_STEPS} steps",
            losses,
            steps,
            max([loss for _, loss in losses], default=1.0),
            GAP,
        ),
        *_panel("held-out tokens predicted correctly, %", agreement, steps, 100.0, 2 * GAP + HEIGHT),
        svg_text(WIDTH / 2, 3 * GAP + 2 * HEIGHT - 14, x_label, anchor="middle"),
    ]
    height = 3 * GAP + 2 * HEIGHT
    return svg_document(WIDTH, height, panels)


def _panel(title: str, points: Sequence[Point], most_x: float, most_y: float, top: float) -> list[str]:
    lines = [svg_text(MARGIN, top - 8, title)]
    for share in (0.0, 0.5, 1.0):
        y = top + HEIGHT * (1 - share)
        lines.append(svg_grid_line(MARGIN, WIDTH - 16, y))
        lines.append(svg_text(MARGIN - 6, y + 4, f"{share * most_y:.3g}", anchor="end"))
    width = WIDTH - 16 - MARGIN
    lines.append(svg_line([(MARGIN + width * x / most_x, top + HEIGHT * (1 - y / most_y)) for x, y in points]))
    return lines


NUM_DRAFTS = tuple(range(2, 9))  # numbers of drafts that are evaluated
BATCH_SIZE = 8  # examples that are evaluated at once


@dataclass(frozen=True, slots=True)
class DraftMetrics:
    """Results of one assistant on held-out speech.

    Attributes:
        agreement: Share of tokens, including end tokens, that it predicts as the main model chose them.
        passes: Forward passes of the main model, by the number of drafts.
        tokens_per_pass: Tokens per forward pass of the main model, by the number of drafts.
        best_drafts: The number of drafts with the highest speedup.
        speed_up: Expected speedup with that number; None if nothing was timed.
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
def correct_drafts(
    student: StudentDecoder, examples: Iterable[Example], teacher: Teacher, drafted: Tensor
) -> list[NDArray[np.bool_]]:
    """Returns for each example which of its tokens after the first, and the end token, the student predicts correctly.

    The first token is left out because the forward pass of the prompt determines it.

    Args:
        student: Student to evaluate; set to evaluation mode.
        examples: Examples of the teacher.
        teacher: Main model, for its logits rules.
        drafted: Ids that an assistant may draft, int64, on the student's device.

    Returns:
        Arrays of shape (num_tokens,), in the order of the examples.
    """
    student.eval()
    found: dict[int, NDArray[np.bool_]] = {}
    device = student.embeddings.device
    known = sorted(enumerate(examples), key=lambda pair: len(pair[1].states))
    rules = {times: teacher.rules(times).for_vocabulary(drafted) for times in (False, True)}
    for begin in range(0, len(known), BATCH_SIZE):
        numbers, some = zip(*known[begin : begin + BATCH_SIZE], strict=True)
        batch = collate(some, teacher.tokens.eot).to(device, torch.float32)
        hidden = student(batch.ids, batch.states, batch.mask).flatten(0, 1)[batch.loss_indices]
        logits = torch.split(student.logits(hidden, drafted), [len(one.tokens) + 1 for one in some])
        for number, one, text_logits in zip(numbers, some, logits, strict=True):
            text = torch.tensor(one.tokens, device=device)
            chosen = drafted[rules[teacher.has_timestamps(one.prompt)].apply_to_text(text_logits, text).argmax(dim=-1)]
            wanted = torch.tensor([*one.tokens, teacher.tokens.eot], device=device)
            found[number] = (chosen == wanted)[1:].cpu().numpy()
    return [found[number] for number in range(len(found))]


def num_passes(right: NDArray[np.bool_], drafts: int) -> int:
    """Returns the number of the main model's forward passes over a text.

    Args:
        right: Which drafts are correct, shape (num_tokens,).
        drafts: Number of drafts per pass.
    """
    passes = position = 0
    while position < len(right):
        wrong = np.flatnonzero(~right[position : position + drafts])
        position += (int(wrong[0]) if len(wrong) else drafts) + 1
        passes += 1
    return passes


def compute_draft_metrics(
    name: str, right: Sequence[NDArray[np.bool_]], costs: SpeculationCosts | None
) -> DraftMetrics:
    """Returns the results of an assistant.

    Args:
        name: Name of the assistant in the report.
        right: Results of `correct_drafts`.
        costs: Costs of forward passes at the batch size of the run; None if they were not measured.
    """
    tokens = sum(map(len, right))
    passes = {drafts: sum(num_passes(one, drafts) for one in right) for drafts in NUM_DRAFTS}
    per_pass = {drafts: tokens / number for drafts, number in passes.items()}
    best, speed_up = max(per_pass, key=per_pass.__getitem__), None
    if costs is not None:
        gains = {
            drafts: predict_speedup(costs, per_pass[drafts], drafts, round(tokens / len(right)))
            for drafts in NUM_DRAFTS
        }
        best = max(gains, key=gains.__getitem__)
        speed_up = gains[best]
    return DraftMetrics(
        name=name,
        num_chunks=len(right),
        num_tokens=tokens,
        agreement=float(np.concatenate(right).mean()),
        passes=passes,
        tokens_per_pass=per_pass,
        best_drafts=best,
        speed_up=speed_up,
    )


MAX_TRANSCRIBED_S = 600.0  # seconds of held-out audio that a student transcribes

Row = dict[str, Any]


def compute_word_errors(folder: Path, run: Run, audio_rows: Sequence[Row]) -> Row:
    """Transcribes held-out audio with a student and returns its word error rates.

    Args:
        folder: Model folder of the student.
        run: Run whose settings are used.
        audio_rows: Rows of `AUDIO_SCHEMA`, of which the first `MAX_TRANSCRIBED_S` seconds are transcribed.

    Returns:
        ``{"words": {...}}`` with ``wer_to_main``, the rate against the transcripts of the main model; ``wer`` and
        ``main_wer``, the rates of student and main model against the references, over recordings that have a reference
        and all of their chunks here, None without any; ``normalizer``, name and version of the normalizer; ``audio_s``.
    """
    rows = _first_rows(audio_rows)
    recognizer = NativeRecognizer(folder, make_recognizer_options(run))
    pcm = [np.frombuffer(row["pcm"], np.int16) for row in rows]
    languages = [row["language"] or recognizer.languages[0] for row in rows]
    student_texts = [each.text for each in recognizer.transcribe(pcm, languages)]
    tokens, scorer = Tokens.load(folder), Scorer(run.config.scoring)
    text_languages = ["en" if run.config.decoding.task == "translate" else language for language in languages]
    main_texts = [tokens.decode(row["tokens"]) for row in rows]
    pairs = zip(student_texts, main_texts, text_languages, strict=True)
    to_main = [scorer.score(student, main, language) for student, main, language in pairs]
    recordings = _whole_recordings(rows, main_texts, student_texts)
    return {
        "words": {
            "audio_s": round(sum(map(len, pcm)) / SAMPLE_RATE, 1),
            "wer_to_main": _pooled_wer(to_main),
            "wer": _pooled_wer(
                scorer.score(student, reference, language) for student, _, reference, language in recordings
            ),
            "main_wer": _pooled_wer(
                scorer.score(main, reference, language) for _, main, reference, language in recordings
            ),
            "normalizer": SEPARATOR.join(sorted({score.normalizer for score in to_main})) or None,
        }
    }


def _first_rows(audio_rows: Sequence[Row]) -> list[Row]:
    chosen: list[Row] = []
    seconds = 0.0
    for row in audio_rows:
        if chosen and seconds >= MAX_TRANSCRIBED_S:
            break
        chosen.append(row)
        seconds += len(row["pcm"]) / 2 / SAMPLE_RATE
    return chosen


def _whole_recordings(
    rows: Sequence[Row], main_texts: Sequence[str], student_texts: Sequence[str]
) -> list[tuple[str, str, str, str | None]]:
    """Returns (student's text, main model's text, reference, language) of recordings whose chunks are all in `rows`."""
    chunks: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        chunks[row["recording_id"]].append(number)
    found = []
    for numbers in chunks.values():
        first = rows[numbers[0]]
        student, main = (" ".join(texts[number] for number in numbers) for texts in (student_texts, main_texts))
        is_whole = "".join(main.split()) == "".join((first["text"] or "").split())  # some languages have no blanks
        if first["reference"] is not None and is_whole:
            found.append((student, main, first["reference"], first["language"]))
    return found


def _pooled_wer(scores: Iterable[Score]) -> float | None:
    counted = [score for score in scores if score.num_ref_words is not None]
    edits = sum(getattr(score, name) or 0 for score in counted for name in EDITS)
    return pooled_rate(edits, sum(score.num_ref_words or 0 for score in counted))


REPORT, PLOT = "training.json", "training.svg"
COPY_BYTES = 1 << 20
MAX_PLOT_POINTS = 400  # losses that are stored

Figures = dict[str, Any]


class StudentEvaluator:
    """Evaluates students on held-out speech.

    Args:
        run: Run whose settings are used.
        teacher: The main model.
        audio_rows: Held-out audio, rows of `AUDIO_SCHEMA`.
        examples: The teacher's examples of these rows.
    """

    def __init__(self, run: Run, teacher: Teacher, audio_rows: list[Figures], examples: list[Example]) -> None:
        self._run, self._teacher, self._audio_rows, self._examples = run, teacher, audio_rows, examples
        size = teacher.model.module.config.vocab_size
        self._drafted = draft_vocabulary(teacher.tokens, size).to(teacher.model.device)

    def agreement(self, student: StudentDecoder) -> float:
        """Returns the share of tokens that a student predicts as the main model chose them."""
        return compute_draft_metrics("", self._correct_drafts(student), None).agreement

    def evaluate(
        self, student: StudentDecoder, history: History, training: str, current_assistant: str | None
    ) -> Figures:
        """Evaluates a trained student, uploads it with the results, and returns them.

        Args:
            student: The student.
            history: History of its training.
            training: Name of the training, of which the student's folder is named.
            current_assistant: Folder of the assistant to compare it with, or None.
        """
        with tempfile.TemporaryDirectory(prefix="distil-ray-student-") as temporary:
            folder = Path(temporary)
            create_student(self._teacher.folder, folder, len(student.layers), trained=student.checkpoint())
            metrics, batch_size = self._measure(folder, student, current_assistant)
            figures = self._figures(metrics, history, batch_size)
            figures |= {"layers": len(student.layers), "compared_with": current_assistant}
            figures |= compute_word_errors(folder, self._run, self._audio_rows)
            (folder / REPORT).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
            (folder / PLOT).write_text(draw_history(history), encoding="utf-8")
            self._upload(folder, student_uri(self._run.config.assistant.uri or "", training))
        return figures

    def _measure(
        self, folder: Path, student: StudentDecoder, current_assistant: str | None
    ) -> tuple[list[DraftMetrics], int]:
        """Returns the draft metrics of the student in `folder` and of the current assistant, and the batch size.

        The batch size is the one at which steps were timed. The steps of the main model are timed once, those of each
        assistant separately.
        """
        main, assistant = self._teacher.decoder, self._load_draft_decoder(folder)
        per_slot = main.bytes_per_slot() + assistant.bytes_per_slot()
        rows, _ = choose_slots(self._teacher.options.batch_size, self._teacher.model.device, per_slot)
        positions = round(sum(len(one.states) for one in self._examples) / len(self._examples))
        costs = measure_costs(main, assistant, rows, positions, NUM_DRAFTS)
        metrics = [compute_draft_metrics("new", self._correct_drafts(student), costs)]
        if current_assistant is not None:
            local = fetch_weights(
                current_assistant, None, self._run.config.model.cache_dir, StorageFolderReader(self._run.storage)
            )
            if (current := self._load_student(local)) is not None:
                current_costs = measure_assistant(costs, self._load_draft_decoder(local), rows, positions)
                metrics.append(compute_draft_metrics("in use", self._correct_drafts(current), current_costs))
        return metrics, rows

    def _correct_drafts(self, student: StudentDecoder) -> list[Any]:
        return correct_drafts(student, self._examples, self._teacher, self._drafted)

    def _load_draft_decoder(self, folder: Path) -> Decoder:
        """Returns the decoder of an assistant as a run loads it."""
        teacher = self._teacher
        return load_assistant(folder, teacher.folder, teacher.model, teacher.tokens, teacher.options).decoder

    def _load_student(self, folder: Path) -> StudentDecoder | None:
        """Returns an assistant as a student in float32; None if it does not share the main model's encoder."""
        main, threads = self._teacher.model, self._teacher.options.threads
        module = load_model(folder, device=main.device.type, dtype="float32", threads=threads).module
        if not shares_encoder(main.module, module):
            return None
        return StudentDecoder(module, list(range(module.config.decoder_layers))).to(main.device)

    def _figures(self, metrics: Sequence[DraftMetrics], history: History, batch_size: int) -> Figures:
        losses = history.losses[:: max(1, len(history.losses) // MAX_PLOT_POINTS)]
        return {
            "held_out": {
                "num_chunks": len(self._examples),
                "audio_s": round(sum(one.audio_s for one in self._examples), 1),
            },
            "assistants": [asdict(one) for one in metrics],
            "batch_size": batch_size,
            "device": self._teacher.model.device_name,
            "dtype": self._teacher.model.dtype_name,
            "training": asdict(replace(history, losses=losses)),
        }

    def _upload(self, folder: Path, uri: str) -> None:
        storage = self._run.storage
        for path in sorted(folder.iterdir()):
            with path.open("rb") as source, storage.create(join(uri, path.name)) as sink:
                shutil.copyfileobj(source, sink, COPY_BYTES)
