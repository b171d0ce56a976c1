"""What a comparison with transformers found: a line a result, a table of all, and exactness.json."""

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
    """One check on one set: how many chunks (or recordings) were compared, and which differ."""

    model: str
    set: str
    check: str
    compared: int
    differences: tuple[Difference, ...]
    wer: tuple[float, float] | None = None  # of both sides, where rounding is the question

    @property
    def num_faults(self) -> int:
        """Differences that are more than ties; none is where sixteen bits round."""
        return 0 if self.wer else sum(not difference.is_tie for difference in self.differences)


def format_result(result: CheckResult) -> str:
    """A line a result, and one for each difference."""
    number = len(result.differences)
    lines = [f"{result.model}, {result.set}, {result.check}: {number} of {result.compared} differ"]
    if result.wer:
        lines[0] += f", WER {100 * result.wer[0]:.2f} and {100 * result.wer[1]:.2f} %"
    for each in result.differences:
        verdict = "a tie" if each.is_tie else "a fault" if result.wer is None else "rounding"
        why = "" if each.margin is None else f" ({verdict}: margin {each.margin:.1e})"
        lines.append(f"  {each.name}, after {each.at} tokens: {each.reference!r}, ours {each.native!r}{why}")
    return "\n".join(lines)


def table(results: Sequence[CheckResult]) -> Table:
    """A row a check of a model, over all sets."""
    grid = Table("model", "check", title="Chunks that differ from transformers")
    for heading in ("compared", "differ", "of these faults"):
        grid.add_column(heading, justify="right")
    for model, check in dict.fromkeys((result.model, result.check) for result in results):
        mine = [result for result in results if (result.model, result.check) == (model, check)]
        mine = [result for result in mine if result.set == "all"] or mine  # or else counted twice
        differing = sum(len(result.differences) for result in mine)
        faults = sum(result.num_faults for result in mine)
        grid.add_row(model, check, str(sum(result.compared for result in mine)), str(differing), str(faults))
    return grid


def write_report(settings: ExactnessSettings, results: Sequence[CheckResult]) -> None:
    """exactness.json, anew after each result, so that what a killed run has found is there."""
    report = Path(settings.report)
    report.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine.describe_machine(),
        "settings": asdict(settings),
        "results": [asdict(result) | {"num_faults": result.num_faults} for result in results],
    }
    (report / "exactness.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
