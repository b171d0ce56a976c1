"""The report of the exactness command: one line per result, a table, and exactness.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from benchmarks import machine
from benchmarks.exactness.checks import Difference
from benchmarks.settings import ExactnessSettings


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check on one set: number of compared chunks (or recordings), and the differences."""

    model: str
    set: str
    check: str
    compared: int
    differences: tuple[Difference, ...]
    wer: tuple[float, float] | None = None  # of both sides, where rounding is the question

    @property
    def num_faults(self) -> int:
        """Number of differences that are more than ties; 0 where rounding is expected."""
        return 0 if self.wer else sum(not difference.is_tie for difference in self.differences)


def format_result(result: CheckResult) -> str:
    """Returns one line for the result, and one for each difference."""
    number = len(result.differences)
    lines = [f"{result.model}, {result.set}, {result.check}: {number} of {result.compared} differ"]
    if result.wer:
        lines[0] += f", WER {100 * result.wer[0]:.2f} and {100 * result.wer[1]:.2f} %"
    for each in result.differences:
        verdict = "a tie" if each.is_tie else "a fault" if result.wer is None else "rounding"
        why = "" if each.margin is None else f" ({verdict}: margin {each.margin:.1e})"
        lines.append(f"  {each.name}, after {each.at} tokens: {each.reference!r}, native {each.native!r}{why}")
    return "\n".join(lines)


def table(results: Sequence[CheckResult]) -> Table:
    """Returns the table, one row per check and model, over all sets."""
    grid = Table("model", "check", title="Chunks that differ from transformers")
    for heading in ("compared", "differ", "faults"):
        grid.add_column(heading, justify="right")
    for model, check in dict.fromkeys((result.model, result.check) for result in results):
        mine = [result for result in results if (result.model, result.check) == (model, check)]
        mine = [result for result in mine if result.set == "all"] or mine  # or else counted twice
        differing = sum(len(result.differences) for result in mine)
        faults = sum(result.num_faults for result in mine)
        grid.add_row(model, check, str(sum(result.compared for result in mine)), str(differing), str(faults))
    return grid


def write_report(settings: ExactnessSettings, results: Sequence[CheckResult]) -> None:
    """Writes exactness.json; called after each result, so that a killed run keeps its results."""
    report = Path(settings.report)
    report.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine.describe_machine(),
        "settings": asdict(settings),
        "results": [asdict(result) | {"num_faults": result.num_faults} for result in results],
    }
    (report / "exactness.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
