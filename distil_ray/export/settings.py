"""What an export can be told beside `output.uri` and `storage`: form, target, which recordings.

Loads nothing heavy, so that --help answers at once.
"""

import difflib
from dataclasses import MISSING, dataclass

from distil_ray.cli.options import option
from distil_ray.errors import SettingsError
from distil_ray.export.registry import DATASET, FORMATS, TRANSCRIPTS, names_of
from distil_ray.languages import language_code

STATUSES = ("ok", "partial", "empty")  # failed rows have no transcript


def _titles(subject: str) -> str:
    return ", ".join(f"{one.name} ({one.title})" for one in FORMATS if one.subject == subject)


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """An output in another form. Raises `SettingsError` for what cannot be one."""

    format: str = option(MISSING, f"{_titles(TRANSCRIPTS)}; of the dataset {_titles(DATASET)}")
    to: str = option(MISSING, "folder to write to, local or any fsspec URL")
    of: str = option(
        TRANSCRIPTS, f"transcripts, or dataset: what jobs/pseudo_label.py made ({', '.join(names_of(DATASET))})"
    )
    status: tuple[str, ...] = option(STATUSES, "recordings of which status")
    where: tuple[str, ...] = option(
        (),
        "column:value, of the output or of its metadata, several with commas: all must hold (language:en,speaker:12)",
    )
    shard_mb: int = option(512, "webdataset, nemo_tarred: MB (10^6 bytes) after which a new shard is begun")
    overwrite: bool = option(False, "replace what stands at the target under the same names")

    def __post_init__(self) -> None:
        known = tuple(dict.fromkeys(one.name for one in FORMATS))
        if self.format not in known:
            nearest = difflib.get_close_matches(self.format, known, 1, 0.4)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise SettingsError(f"format={self.format}: must be one of {', '.join(known)}{hint}")
        if self.of not in (TRANSCRIPTS, DATASET):
            raise SettingsError(f"of={self.of}: must be {TRANSCRIPTS} or {DATASET}")
        if self.of == DATASET and self.format not in names_of(DATASET):
            raise SettingsError(f"format={self.format}: of the data set there are {' and '.join(names_of(DATASET))}")
        if self.of == DATASET and (self.where or self.status != STATUSES):
            raise SettingsError("of=dataset: status and where choose transcripts; the data set is exported whole")
        if self.of == TRANSCRIPTS and self.format not in names_of(TRANSCRIPTS):
            raise SettingsError(
                f"format={self.format}: is a form of the training data set (of=dataset); of the transcripts there are"
                f" {', '.join(names_of(TRANSCRIPTS))}"
            )
        if not self.to:
            raise SettingsError("to=: an empty string is no folder")
        for status in self.status:
            if status not in STATUSES:
                hint = "; runs/*/failed.csv lists the failed ones" if status == "failed" else ""
                raise SettingsError(f"status={status}: must be among {', '.join(STATUSES)}{hint}")
        for word in self.where:
            if not all(word.partition(":")[::2]):
                raise SettingsError(f"where={word}: must be column:value, such as language:en")

    @property
    def conditions(self) -> tuple[tuple[str, str], ...]:
        """`where` as pairs of column and value."""
        pairs = (word.partition(":")[::2] for word in self.where)
        return tuple((name, (name == "language" and language_code(value)) or value) for name, value in pairs)
