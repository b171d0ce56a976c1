"""The report of the gpu command: measurements as JSON, and tables with the share of the limit of the chip."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.gpu.shapes import ModelShape
from benchmarks.gpu.work import Workload, minimum_work

LARGE, DISTILLED = "large-v3", "distil-large-v3"


@dataclass(frozen=True, slots=True)
class Report:
    """All measurements of a run.

    Attributes:
        found: Records as the measurements gave them.
        left_out: Jobs that failed or did not fit, with the reason.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    found: list[dict[str, Any]]
    left_out: list[dict[str, str]]

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = asdict(self) | {"shares": list(shares(self)), "ratios": ratios(self)}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def speeds(self) -> list[dict[str, Any]]:
        return [each for each in self.found if each.get("measure") == "speed" and "rtfx" in each]


def shares(report: Report) -> Iterator[dict[str, Any]]:
    """Yields, for each native speed, the shortest time that the chip allows divided by the measured time."""
    rates = {name: each[name] for each in report.found for name in ("operations_per_s", "bytes_per_s") if name in each}
    shapes = {each["model"].split(" ")[-1]: each["shape"] for each in report.found if each.get("measure") == "model"}
    for each in report.speeds():
        if len(rates) == 2 and "load" in each and each["model"] in shapes:
            work = minimum_work(ModelShape(**shapes[each["model"]]), Workload(**each["load"]))
            phases = each.get("phases", {})
            yield {
                **{name: each[name] for name in ("model", "window", "batch_size")},
                "share_of_limit": work.shortest_s(rates["operations_per_s"], rates["bytes_per_s"]) / each["wall_s"],
                "encoder_share": _rate(
                    work.operations / rates["operations_per_s"], phases, "encoder", "keys_and_values", "prefill"
                ),
                "steps_share": _rate(work.step_bytes / rates["bytes_per_s"], phases, "steps"),
            }


def ratios(report: Report) -> dict[str, float]:
    """Returns the speed-up of the distilled shape over the large one, by engine and window, at the best batch sizes."""
    best: dict[tuple[str, str, str], float] = {}
    for each in report.speeds():
        key = each["engine"], each["window"], each["model"]
        best[key] = max(best.get(key, 0.0), each["rtfx"])
    return {
        f"{engine}, {window} windows": best[engine, window, DISTILLED] / rtfx
        for (engine, window, model), rtfx in best.items()
        if model == LARGE and (engine, window, DISTILLED) in best
    }


def describe_record(record: dict[str, Any]) -> str | None:
    """Returns a measurement as a line of progress; None for records that only the report needs."""
    kind = record.get("measure")
    if kind == "speed":
        name = f"{record['engine']}, {record['window']} windows, {_batch(record)} chunks together"
        return f"{name}: {record['failed']}" if "failed" in record else f"{name}: RTFx {record['rtfx']:,.1f}"
    if kind == "method":
        result = record["failed"] if "failed" in record else f"RTFx {record['rtfx']:,.1f}"
        return f"{record['method']}: {result}"
    if kind == "part":
        return f"parts of {record['part_s']:.0f} s: RTFx {record['rtfx']:,.1f}, {record['steps']} steps"
    if kind == "tokens":
        return f"{record['window']} windows: {record['differing']} of {record['chunks']} chunks differ from the CPU"
    if kind == "errors":
        return f"{record['dtype']}: WER {100 * record['wer']:.2f} %"
    return record["name"] if kind == "device" else None


def _batch(speed: dict[str, Any]) -> str:
    """Returns the batch size as requested, and the number of slots if memory allowed fewer."""
    asked, slots = speed["batch_size"], speed.get("slots", speed["batch_size"])
    return str(asked) if slots == asked else f"{asked}, in memory {slots}"


def make_tables(report: Report) -> Iterator[Table]:
    """Yields the tables: speeds; phases; tokens, word errors, ratios and what was left out."""
    limit = {(s["model"], s["window"], s["batch_size"]): s["share_of_limit"] for s in shares(report)}
    grid = Table("model", "engine", "windows", title="Audio seconds per second (RTFx), from samples to texts")
    for heading in ("batch", "RTFx", "% of the limit", "peak GiB"):
        grid.add_column(heading, justify="right")
    for each in sorted(report.speeds(), key=lambda each: (each["model"], -each["rtfx"])):
        share = limit.get((each["model"], each["window"], each["batch_size"])) if each["engine"] == "native" else None
        grid.add_row(
            *(each[name] for name in ("model", "engine", "window")),
            *(_batch(each), f"{each['rtfx']:,.0f}"),
            *("" if share is None else f"{100 * share:.0f}", f"{each['peak_gib']:.1f}" if each["peak_gib"] else ""),
        )
    yield grid
    yield _phases(report)
    yield _methods(report)
    words = Table("measurement", "result", title="Other measurements")
    for each in report.found:
        if each.get("measure") == "tokens":
            differing = f"{each['differing']} of {each['chunks']} chunks differ from the CPU"
            words.add_row(f"{each['model']}, float32, {each['window']}", differing)
        if each.get("measure") == "errors":
            words.add_row(f"{each['model']}, {each['dtype']}, WER", f"{100 * each['wer']:.2f} %")
    for name, ratio in ratios(report).items():
        words.add_row(f"{DISTILLED} : {LARGE}, {name}", f"{ratio:.1f} times faster")
    for each in report.left_out:
        words.add_row(f"left out: {each['job']}", each["reason"])
    yield words


def _methods(report: Report) -> Table:
    """Returns the table of the methods that are off by default, and of parts of several lengths."""
    grid = Table("model", "settings", title="Beside the default, in short windows")
    for heading in ("batch", "RTFx", "load, s", "other tokens", "WER, %"):
        grid.add_column(heading, justify="right")
    for each in report.found:
        batch = str(each.get("batch_size"))
        if each.get("measure") == "method" and "rtfx" in each:
            name = f"{each['method']} (not used)" if each["refused"] else each["method"]
            wer = f"{100 * each['wer']:.2f}" if "wer" in each else ""
            differing = f"{each['differing']} of {each['chunks']}"
            grid.add_row(each["model"], name, batch, f"{each['rtfx']:,.0f}", f"{each['load_s']:.0f}", differing, wer)
        if each.get("measure") == "part":
            unused = f"{100 * each['unused']:.0f} % of slots unused"
            name = f"parts of {each['part_s']:.0f} s: {each['steps']} steps, {unused}"
            grid.add_row(each["model"], name, batch, f"{each['rtfx']:,.0f}", "", "", "")
    return grid


def _phases(report: Report) -> Table:
    """Returns the table of phases, one row per timed speed, in percent."""
    timed = [each for each in report.speeds() if "phases" in each]
    names = [name for name in (timed[0]["phases"] if timed else {}) if name != "all"]
    grid = Table("model", "windows", "batch", *names, title="Time by phase, %")
    for each in timed:
        parts = (f"{100 * each['phases'][name] / each['phases']['all']:.0f}" for name in names)
        grid.add_row(each["model"], each["window"], str(each["batch_size"]), *parts)
    return grid


def _rate(shortest_s: float, phases: dict[str, float], *names: str) -> float | None:
    taken = sum(phases.get(name, 0.0) for name in names)
    return shortest_s / taken if taken else None
