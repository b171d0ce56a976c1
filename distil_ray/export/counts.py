"""What became of the recordings of an export, in counts, and what the last lines say of it."""

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console

from distil_ray.cli.console import format_duration, log_field
from distil_ray.errors import RunError
from distil_ray.export.transcripts import Transcript


@dataclass(slots=True)
class Account:
    """Exported recordings and their audio; those that had no place in the form or no audio left, by reason."""

    num_exported: int = 0
    audio_s: float = 0.0
    num_files: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def num_passed_over(self) -> int:
        return self.passed_over.total()

    def count(self, transcript: Transcript, reason_against: str | None) -> None:
        if reason_against is None:
            self.num_exported += 1
            self.audio_s += transcript.duration_s
        else:
            self.passed_over[reason_against] += 1
            self.examples.setdefault(reason_against, transcript.recording_id)

    def require_some(self) -> None:
        """Raises `RunError` if nothing was exported: a file without anything in it would look like success."""
        if not self.num_exported:
            reasons = "; ".join(f"{name}: {reason}" for reason, name in self.examples.items())
            raise RunError(f"nothing was exported, and nothing written ({reasons or 'no recording was chosen'})")

    def print(self, form: str, folder: str, left_out: Counter[str], console: Console) -> None:
        for reason, count in self.passed_over.most_common():
            log_field("passed over", f"{count:,} recordings, such as {self.examples[reason]}: {reason}", console)
        if left_out:
            words = ", ".join(f"{reason} {count:,}" for reason, count in left_out.most_common())
            log_field("left out", f"{left_out.total():,} recordings: {words}", console)
        files = f"{self.num_files:,} file{'s' * (self.num_files != 1)}"
        what = f"{self.num_exported:,} recordings, {format_duration(self.audio_s)} of audio"
        log_field("exported", f"{what}, as {form}: {files} in {folder}", console)
