"""Conclusions from the measurements of the gpu command, as sentences: what is wrong, what is slow, and what to try."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.gpu.methods import AHEAD, DEFAULT, FLOAT8
from benchmarks.gpu.report import Report, shares

Level = Literal["bad", "warn", "good"]

IDLE_SHARE = 0.1  # of the time in which the device waits for the host
LOW_ENCODER_SHARE = 0.4  # of the matrix rate that the device reaches in a plain product
LOW_STEPS_SHARE = 0.4  # of the memory bandwidth of a copy
MASK_COST = 1.5  # time of attention with a mask, divided by the time without
WER_TOLERANCE = 0.001
NEAR_BEST = 0.97  # a smaller batch is preferred if it reaches this share of the highest RTFx
WORTH_IT = 1.03  # speed beside the default from which a method is recommended
MISSING_PACKAGE = "No module named"
SWITCHED_OFF = ("plain products", "CUDA graphs: off", "switched off", "out of memory")  # in warnings of recognizers


@dataclass(frozen=True, slots=True)
class Finding:
    """A conclusion.

    Attributes:
        level: "bad" if results are wrong, "warn" if something is slow or missing, "good" otherwise.
        text: What was measured.
        advice: What to do about it; empty if nothing.
    """

    level: Level
    text: str
    advice: str = ""


def find_conclusions(report: Report) -> list[Finding]:
    """Returns the conclusions from a report, the gravest first."""
    found = [
        *_exactness(report),
        *_methods(report),
        *_error_rates(report),
        *_speeds(report),
        *_phases(report),
        *_attention(report),
        *_compared_methods(report),
        *_parts(report),
        *_left_out(report),
    ]
    return sorted(found, key=lambda finding: ("bad", "warn", "good").index(finding.level))


def best_batches(report: Report) -> list[dict[str, Any]]:
    """Returns, for each model and window, the native speed at the smallest batch that is nearly as fast as the best."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for speed in report.speeds():
        if speed["engine"] == "native":
            groups.setdefault((speed["model"], speed["window"]), []).append(speed)
    best = []
    for speeds in groups.values():
        least = NEAR_BEST * max(speed["rtfx"] for speed in speeds)
        best.append(min((speed for speed in speeds if speed["rtfx"] >= least), key=lambda speed: speed["batch_size"]))
    return best


def _exactness(report: Report) -> Iterator[Finding]:
    compared = [each for each in report.found if each.get("measure") == "tokens"]
    for each in compared:
        if each["differing"]:
            yield Finding(
                "bad",
                f"{each['model']}, {each['window']} windows: in float32, {each['differing']} of {each['chunks']} chunks"
                " have other tokens than on the CPU.",
                "Do not use this GPU for exact transcripts before the cause is known: attach gpu.json to an issue.",
            )
    if compared and not any(each["differing"] for each in compared):
        num = sum(each["chunks"] for each in compared)
        yield Finding("good", f"In float32, all {num} compared chunks have the tokens of the CPU.")
    if not compared:
        yield Finding("warn", "Tokens were not compared with those of the CPU.", "Give real weights: models=…")


def _methods(report: Report) -> Iterator[Finding]:
    """Warnings of the recognizers about methods that are not used, each once."""
    texts = [text for each in report.found if each.get("measure") == "warnings" for text in each["warnings"]]
    for text in dict.fromkeys(texts):
        if any(words in text for words in SWITCHED_OFF):
            yield Finding("warn", f"A recognizer reports: {text}", "Attach gpu.json to an issue.")


def _error_rates(report: Report) -> Iterator[Finding]:
    rates: dict[str, dict[str, float]] = {}
    for each in report.found:
        if each.get("measure") == "errors":
            rates.setdefault(each["model"], {})[each["dtype"]] = each["wer"]
    for model, by_dtype in rates.items():
        for dtype, wer in by_dtype.items():
            difference = wer - by_dtype.get("float32", wer)
            if dtype != "float32" and difference > WER_TOLERANCE:
                yield Finding(
                    "warn",
                    f"{model}: WER is {100 * wer:.2f} % in {dtype}, {100 * difference:.2f} points above float32.",
                    "Measure more clips (speech=…, num_clips=…); if it stays, set model.dtype to another type.",
                )


def _speeds(report: Report) -> Iterator[Finding]:
    baselines: dict[str, dict[str, Any]] = {}
    for speed in report.speeds():
        if speed["engine"] != "native" and speed["rtfx"] > baselines.get(speed["model"], {"rtfx": 0.0})["rtfx"]:
            baselines[speed["model"]] = speed
    for speed in best_batches(report):
        memory = f", {speed['peak_gib']:.1f} GiB of GPU memory" if speed.get("peak_gib") else ""
        text = (
            f"{speed['model']}, {speed['window']} windows: RTFx {speed['rtfx']:,.0f} with"
            f" decoding.batch_size={speed['batch_size']}{memory}"
        )
        other = baselines.get(speed["model"])
        if other is None:
            yield Finding("good", f"{text}.")
            continue
        ratio = speed["rtfx"] / other["rtfx"]
        text += f"; {ratio:.1f} times as fast as {other['engine']} in batches of {other['batch_size']}."
        if ratio < 1:
            yield Finding("warn", text, "The native recognizer should not be slower: attach gpu.json to an issue.")
        else:
            yield Finding("good", text)


def _phases(report: Report) -> Iterator[Finding]:
    for speed in report.speeds():
        phases = speed.get("phases")
        if phases and phases["rest"] > IDLE_SHARE * phases["all"]:
            yield Finding(
                "warn",
                f"{speed['model']}, {speed['window']} windows: the GPU waits for the host in"
                f" {100 * phases['rest'] / phases['all']:.0f} % of the time.",
                "Increase decoding.batch_size, and look for other programs on the CPUs.",
            )
    for share in shares(report):
        where = f"{share['model']}, {share['window']} windows, batch of {share['batch_size']}"
        if share["encoder_share"] is not None and share["encoder_share"] < LOW_ENCODER_SHARE:
            yield Finding(
                "warn",
                f"{where}: the encoder reaches {100 * share['encoder_share']:.0f} % of the rate of a matrix product.",
                "Norms and activations are passes over memory: compiling the encoder's layers may help.",
            )
        if share["steps_share"] is not None and share["steps_share"] < LOW_STEPS_SHARE:
            yield Finding(
                "warn",
                f"{where}: decoding steps reach {100 * share['steps_share']:.0f} % of the memory bandwidth.",
                "A larger batch reads the weights less often; the kernel's blocks may not suit this GPU.",
            )


def _attention(report: Report) -> Iterator[Finding]:
    for each in report.found:
        if each.get("measure") != "attention":
            continue
        cost = each["with_mask_s"] / each["without_s"]
        if cost > MASK_COST:
            yield Finding(
                "warn",
                f"Attention over short windows takes {cost:.1f} times as long with its mask as without.",
                "Compare chunking.window=full: it uses no mask.",
            )


def _compared_methods(report: Report) -> Iterator[Finding]:
    """The methods that are off by default, each beside the default of the same model."""
    compared = [each for each in report.found if each.get("measure") == "method"]
    defaults = {each["model"]: each for each in compared if each["method"] == DEFAULT and "rtfx" in each}
    for each in compared:
        if each["method"] == DEFAULT:
            continue
        where, default = f"{each['model']}, {each['method']}", defaults.get(each["model"])
        if default is None or "failed" in each:
            reason = each.get("failed", "nor was the default")
            yield Finding("warn", f"{where}: not measured ({reason}).", "Leave it off.")
        elif each["refused"]:
            yield Finding("warn", f"{where}: not used here ({'; '.join(each['refused'])}).", "Leave it off.")
        else:
            yield _compare(where, each, default)


def _compare(where: str, found: dict[str, Any], default: dict[str, Any]) -> Finding:
    """Returns the conclusion about one method."""
    ratio = found["rtfx"] / default["rtfx"]
    text = (
        f"{where}: {ratio:.2f} times as fast as without (RTFx {found['rtfx']:,.0f} instead of {default['rtfx']:,.0f}),"
        f" {found['load_s'] - default['load_s']:+.0f} s to load"
    )
    wer = 0.0
    if "wer" in found and "wer" in default:  # tokens of random weights are nearly as likely as others
        wer = found["wer"] - default["wer"]
        text += (
            f"; {found['differing']} of {found['chunks']} chunks have other tokens, WER is {100 * found['wer']:.2f} %"
            f" instead of {100 * default['wer']:.2f} %"
        )
    if found["differing"] and found["method"].startswith(AHEAD):
        return Finding("warn", f"{text}.", "It must not change tokens: leave it off, and attach gpu.json to an issue.")
    if ratio < WORTH_IT:
        return Finding("good", f"{text}.", "Leave it off.")
    if wer > WER_TOLERANCE:
        return Finding("warn", f"{text}.", "Leave it off, unless more clips (num_clips=…) show that its WER is as low.")
    if FLOAT8 in found["method"]:
        return Finding("good", f"{text}.", "Turn it on if the WER of your checkpoint on your speech is as low.")
    return Finding("good", f"{text}.", "Turn it on where a run is much longer than loading.")


def _parts(report: Report) -> Iterator[Finding]:
    """The speed that is lost at the ends of parts."""
    parts = [each for each in report.found if each.get("measure") == "part"]
    if len(parts) < 2:
        return
    *shorter, longest = parts
    for each in shorter:
        share = each["rtfx"] / longest["rtfx"]
        advice = "Set plan.part_audio_s and plan.task_audio_s to more." if share < 1 / WORTH_IT else ""
        yield Finding(
            "good",
            f"{each['model']}: parts of {each['part_s']:.0f} s reach {100 * share:.0f} % of the speed of one part of"
            f" {longest['part_s']:.0f} s ({each['steps']} steps instead of {longest['steps']}).",
            advice,
        )


def _left_out(report: Report) -> Iterator[Finding]:
    for each in report.left_out:
        if MISSING_PACKAGE not in each["reason"]:  # the other programs are not required
            yield Finding("warn", f"Not measured: {each['job']}: {each['reason']}.")
