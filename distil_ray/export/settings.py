"""`ExportSettings`, the options of an export besides `output.uri`, `storage` and `max_failed_fraction`.

Imports no format, so that ``--help`` answers at once.
"""

from dataclasses import MISSING, dataclass, fields
from typing import Self

from distil_ray.cli.options import option
from distil_ray.errors import SettingsError
from distil_ray.export.cues import CueSettings
from distil_ray.languages import language_code
from distil_ray.registry import EXPORTERS

TRANSCRIPTS, DATASET = (
    "transcripts",
    "dataset",
)  # values of `of`: the transcripts, or the training data set made of them
RECORDING, CALL = "recording", "call"  # values of `group`
NUMBERS, EMAILS, NAMES = "numbers", "emails", "names_in"  # items of `redact`, the last with =FILE
STATUSES = ("ok", "doubtful", "partial", "empty")  # failed rows have no transcript


def _describe_formats() -> str:
    listed = ", ".join(f"{name} ({text})" for name, text in EXPORTERS.describe().items())
    return f"format to write: {listed}; or an import path, my_package.module:FORMAT"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a column of the output or a key of its metadata: it has a value, or does not have it.

    A column that is a list (``quality_flags``, ``languages``) has each of its items.
    """

    column: str
    value: str
    excludes: bool

    @classmethod
    def parse(cls, words: str) -> Self:
        """Parses ``column:value`` or ``-column:value``."""
        column, _, value = words.removeprefix("-").partition(":")
        code = language_code(value) if column in ("language", "languages") else None
        return cls(column, code or value, words.startswith("-"))

    def holds(self, found: object) -> bool:
        """Returns True if a row whose column holds `found` is to be exported."""
        has_value = self.value in found if isinstance(found, list) else self.value == str(found)
        return has_value != self.excludes

    def __str__(self) -> str:
        return f"{'-' * self.excludes}{self.column}:{self.value}"


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
        "column:value conditions on the output or its metadata, separated by commas; all must hold. A minus excludes:"
        " language:en,-speaker:12,-quality_flags:low_logprob. A name that no recording has is an error",
    )
    group: str = option(
        RECORDING,
        "recording, or call: the recordings that share a call_id (the channels of a file) are written together, with"
        " the turns of their speakers",
    )
    turn_pause_s: float = option(2.0, "group=call: longest pause in seconds between phrases of one turn")
    redact: tuple[str, ...] = option(
        (),
        "numbers, emails, names_in=FILE (a name per line), separated by commas: mask them in all texts, silence them in"
        " exported audio, and leave out references and metadata",
    )
    min_number_words: int = option(
        2, "redact=numbers: English number words in a row that are masked; digits always are"
    )
    max_line_width: int = option(
        42,
        "srt, vtt, tsv, ass: longest line in columns; East Asian wide characters take two; 0: a line per cue",
        allows_zero=True,
    )
    max_lines: int = option(2, "srt, vtt, tsv, ass: most lines of a cue; 0: no limit", allows_zero=True)
    max_words: int = option(
        0,
        "srt, vtt, tsv, ass: most words of a cue, or characters in scripts without blanks; 0: no limit",
        allows_zero=True,
    )
    max_chars_per_s: float = option(
        17.0,
        "srt, vtt, tsv, ass: reading speed in columns per second; a cue stays longer, or is divided, to keep it;"
        " 0: no limit",
        allows_zero=True,
    )
    min_cue_s: float = option(
        0.833,
        "srt, vtt, tsv, ass: shortest time of a cue in seconds, where the next cue leaves room; 0: no limit",
        allows_zero=True,
    )
    max_cue_s: float = option(
        7.0, "srt, vtt, tsv, ass: longest time of a cue in seconds; 0: no limit", allows_zero=True
    )
    highlight_words: bool = option(
        False, "vtt, ass: mark every word with its time, so that players can highlight it; needs word times"
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
        self._check_content()
        if self.of == DATASET and (self.where or self.status != STATUSES):
            raise SettingsError("of=dataset: status and where select transcripts; the data set is exported whole")
        if not self.to:
            raise SettingsError("to=: must name a folder (found an empty string)")
        for status in self.status:
            if status not in STATUSES:
                hint = "; runs/*/failed.csv lists the failed ones" if status == "failed" else ""
                raise SettingsError(f"status={status}: must be among {', '.join(STATUSES)}{hint}")
        for condition in self.where:
            if not all(condition.removeprefix("-").partition(":")[::2]):
                raise SettingsError(f"where={condition}: must be column:value or -column:value, such as language:en")

    def _check_content(self) -> None:
        """Raises `SettingsError` for a wrong value of `group`, `redact` or a limit of cues."""
        if self.group not in (RECORDING, CALL):
            raise SettingsError(f"group={self.group}: must be {RECORDING} or {CALL}")
        if self.of == DATASET and self.group == CALL:
            raise SettingsError("of=dataset: has no calls; group=call applies to transcripts")
        for kind in self.redact:
            name, _, file = kind.partition("=")
            if kind not in (NUMBERS, EMAILS) and (name != NAMES or not file):
                raise SettingsError(f"redact={kind}: must be among {NUMBERS}, {EMAILS}, {NAMES}=FILE")
        _ = self.cues  # raises for a limit that no cue can have
        if self.of == DATASET and self.redact:
            raise SettingsError("of=dataset: cannot be redacted; redact applies to transcripts")

    @property
    def cues(self) -> CueSettings:
        """The limits of subtitle cues."""
        return CueSettings(**{one.name: getattr(self, one.name) for one in fields(CueSettings)})

    @property
    def names_file(self) -> str | None:
        """The file of names to redact; None if there is none."""
        return next((kind.partition("=")[2] for kind in self.redact if kind.startswith(f"{NAMES}=")), None)

    @property
    def conditions(self) -> tuple["Condition", ...]:
        """`where`, parsed; names of languages become codes."""
        return tuple(Condition.parse(words) for words in self.where)
