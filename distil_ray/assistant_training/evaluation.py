"""A trained student judged on speech that it has never seen, and put where runs find it.

Beside the assistant in use, if it hears through the main model's encoder too (one with an encoder of its own cannot be
asked about these states), and beside none. As a recognizer as well: how far its words are from the main model's, and
both from the references, where there are any.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distil_ray.assistant_training.draft_metrics import DRAFTS, Worth, right_drafts, weigh
from distil_ray.assistant_training.plot import draw
from distil_ray.assistant_training.student_decoder import StudentDecoder
from distil_ray.assistant_training.teacher import Example, Teacher
from distil_ray.assistant_training.trainer import History
from distil_ray.assistant_training.word_errors import compare_words
from distil_ray.output.run_context import Run
from distil_ray.pipeline.assistant_selection import student_uri
from distil_ray.pipeline.model_setup import StorageFolderReader
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.device import choose_slots
from distil_ray.recognition.native.speculation_cost import measure_assistant, measure_costs
from distil_ray.recognition.native.speculative import draft_vocabulary, load_assistant, shares_encoder
from distil_ray.storage.storage import join
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.model import load_model
from distil_ray.whisper.student import create_student

REPORT, PLOT = "training.json", "training.svg"
COPY_BYTES = 1 << 20
POINTS = 400  # of the loss, that are kept

Figures = dict[str, Any]


class Judge:
    """Asks students about held-out speech; `sounds` are rows of `SOUND`, `examples` what was heard in them."""

    def __init__(self, run: Run, teacher: Teacher, sounds: list[Figures], examples: list[Example]) -> None:
        self._run, self._teacher, self._sounds, self._examples = run, teacher, sounds, examples
        size = teacher.model.module.config.vocab_size
        self._drafted = draft_vocabulary(teacher.tokens, size).to(teacher.model.device)

    def agreement(self, student: StudentDecoder) -> float:
        """The share of tokens that a student says as the main model did."""
        return weigh("", self._right(student), None).agreement

    def judge(self, student: StudentDecoder, history: History, training: str, in_use: str | None) -> Figures:
        """The figures of a student, with which it is uploaded; `in_use`: the folder of the assistant so far."""
        with tempfile.TemporaryDirectory(prefix="distil-ray-student-") as temporary:
            folder = Path(temporary)
            create_student(self._teacher.folder, folder, len(student.layers), trained=student.checkpoint())
            worths, batch_size = self._weigh(folder, student, in_use)
            figures = self._figures(worths, history, batch_size)
            figures |= {"layers": len(student.layers), "compared_with": in_use}
            figures |= compare_words(folder, self._run, self._sounds)
            (folder / REPORT).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
            (folder / PLOT).write_text(draw(history), encoding="utf-8")
            self._upload(folder, student_uri(self._run.config.assistant.uri or "", training))
        return figures

    def _weigh(self, folder: Path, student: StudentDecoder, in_use: str | None) -> tuple[list[Worth], int]:
        """What the student in `folder` is worth, and the assistant so far; and the batch size at which passes were
        timed: the main model's once for both, each assistant's own."""
        main, assistant = self._teacher.decoder, self._drafting(folder)
        per_slot = main.bytes_per_slot() + assistant.bytes_per_slot()
        rows, _ = choose_slots(self._teacher.options.batch_size, self._teacher.model.device, per_slot)
        positions = round(sum(len(one.states) for one in self._examples) / len(self._examples))
        costs = measure_costs(main, assistant, rows, positions, DRAFTS)
        worths = [weigh("new", self._right(student), costs)]
        if in_use is not None:
            local = fetch_weights(
                in_use, None, self._run.config.model.cache_dir, StorageFolderReader(self._run.storage)
            )
            if (before := self._load(local)) is not None:
                its_costs = measure_assistant(costs, self._drafting(local), rows, positions)
                worths.append(weigh("in use", self._right(before), its_costs))
        return worths, rows

    def _right(self, student: StudentDecoder) -> list[Any]:
        return right_drafts(student, self._examples, self._teacher, self._drafted)

    def _drafting(self, folder: Path) -> Decoder:
        """An assistant's decoder as a run loads it."""
        teacher = self._teacher
        return load_assistant(folder, teacher.folder, teacher.model, teacher.tokens, teacher.options).decoder

    def _load(self, folder: Path) -> StudentDecoder | None:
        """An assistant as a student in float32; None where it has an encoder of its own."""
        main, threads = self._teacher.model, self._teacher.options.threads
        module = load_model(folder, device=main.device.type, dtype="float32", threads=threads).module
        if not shares_encoder(main.module, module):
            return None
        return StudentDecoder(module, list(range(module.config.decoder_layers))).to(main.device)

    def _figures(self, worths: Sequence[Worth], history: History, batch_size: int) -> Figures:
        thinned = history.losses[:: max(1, len(history.losses) // POINTS)]
        return {
            "held_out": {
                "num_chunks": len(self._examples),
                "audio_s": round(sum(one.seconds for one in self._examples), 1),
            },
            "assistants": [asdict(worth) for worth in worths],
            "batch_size": batch_size,
            "device": self._teacher.model.device_name,
            "dtype": self._teacher.model.dtype_name,
            "training": asdict(replace(history, losses=thinned)),
        }

    def _upload(self, folder: Path, uri: str) -> None:
        storage = self._run.storage
        for path in sorted(folder.iterdir()):
            with path.open("rb") as source, storage.create(join(uri, path.name)) as sink:
                shutil.copyfileobj(source, sink, COPY_BYTES)
