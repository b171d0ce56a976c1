"""`ExportSettings`, the options of an export besides `output.uri`, `storage` and `max_failed_fraction`.

Imports no format, so that ``--help`` answers at once.
"""

from dataclasses import MISSING, dataclass

from distil_ray.cli.options import option
from distil_ray.errors import SettingsError
from distil_ray.languages import language_code
from distil_ray.registry import EXPORTERS

TRANSCRIPTS, DATASET = (
    "transcripts",
    "dataset",
)  # values of `of`: the transcripts, or the training data set made of them
STATUSES = ("ok", "partial", "empty")  # failed rows have no transcript


def _describe_formats() -> str:
    listed = ", ".join(f"{name} ({text})" for name, text in EXPORTERS.describe().items())
    return f"format to write: {listed}; or an import path, my_package.module:FORMAT"


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """The options of an export.

    Raises:
        SettingsError: An option has a value that no export can have.
    """

    format: str = option(MISSING, _describe_formats())
    to: str = option(MISSING, "folder to write to, local or any fsspec URL")
    of: str = option(TRANSCRIPTS, "transcripts, or dataset: the training data set made by distil-ray pseudo-label")
    status: tuple[str, ...] = option(STATUSES, "export recordings with these statuses")
    where: tuple[str, ...] = option(
        (),
        "column:value conditions on the output or its metadata, separated by commas; all must hold"
        " (language:en,speaker:12)",
    )
    shard_mb: int = option(512, "webdataset, nemo_tarred: MB (10^6 bytes) after which a new shard is begun")
    overwrite: bool = option(False, "replace existing files with the same names at the target")

    def __post_init__(self) -> None:
        try:
            EXPORTERS.check(self.format)
        except ValueError as error:
            raise SettingsError(f"format={self.format}: {error}") from error
        if self.of not in (TRANSCRIPTS, DATASET):
            raise SettingsError(f"of={self.of}: must be {TRANSCRIPTS} or {DATASET}")
        if self.of == DATASET and (self.where or self.status != STATUSES):
            raise SettingsError("of=dataset: status and where select transcripts; the data set is exported whole")
        if not self.to:
            raise SettingsError("to=: must name a folder (found an empty string)")
        for status in self.status:
            if status not in STATUSES:
                hint = "; runs/*/failed.csv lists the failed ones" if status == "failed" else ""
                raise SettingsError(f"status={status}: must be among {', '.join(STATUSES)}{hint}")
        for condition in self.where:
            if not all(condition.partition(":")[::2]):
                raise SettingsError(f"where={condition}: must be column:value, such as language:en")

    @property
    def conditions(self) -> tuple[tuple[str, str], ...]:
        """`where` as pairs of column and value; names of languages become codes."""
        pairs = (condition.partition(":")[::2] for condition in self.where)
        return tuple((name, (name == "language" and language_code(value)) or value) for name, value in pairs)
