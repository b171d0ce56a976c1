"""What an export can be told beside `output.uri` and `storage`: form, target, which recordings.

Loads nothing heavy, so that --help answers at once.
"""

import difflib
from dataclasses import MISSING, dataclass

from distil_ray.errors import SettingsError
from distil_ray.key_values import setting

FORMATS = ("srt", "vtt", "txt", "jsonl", "nemo", "lhotse", "ctm", "webdataset")
STATUSES = ("ok", "partial", "empty")  # failed rows have no transcript


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """An output in another form. Raises `SettingsError` for what cannot be one."""

    format: str = setting(MISSING, f"one of {', '.join(FORMATS)}")
    to: str = setting(MISSING, "folder to write to, local or any fsspec URL")
    status: tuple[str, ...] = setting(STATUSES, "recordings of which status")
    where: tuple[str, ...] = setting(
        (),
        "column:value, of the output or of its metadata, several with commas: all must hold (language:en,speaker:12)",
    )
    shard_mb: int = setting(512, "webdataset: MB (10^6 bytes) after which a new shard is begun")
    overwrite: bool = setting(False, "replace what stands at the target under the same names")

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            nearest = difflib.get_close_matches(self.format, FORMATS, 1, 0.4)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise SettingsError(f"format={self.format}: must be one of {', '.join(FORMATS)}{hint}")
        if not self.to:
            raise SettingsError("to=: an empty string is no folder")
        for status in self.status:
            if status not in STATUSES:
                hint = "; runs/*/quarantine.csv lists the failed ones" if status == "failed" else ""
                raise SettingsError(f"status={status}: must be among {', '.join(STATUSES)}{hint}")
        for word in self.where:
            if not all(word.partition(":")[::2]):
                raise SettingsError(f"where={word}: must be column:value, such as language:en")

    @property
    def conditions(self) -> tuple[tuple[str, str], ...]:
        """`where` as pairs of column and value."""
        return tuple((column, value) for column, _, value in (word.partition(":") for word in self.where))
