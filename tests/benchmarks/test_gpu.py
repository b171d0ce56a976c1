"""The GPU's benchmark, tried out on a CPU: what it finds, what it counts, and what it survives."""

import ast
import importlib.util
import io
import json
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from transformers import WhisperConfig, WhisperForConditionalGeneration

from benchmarks.gpu import baselines, command, limits, native
from benchmarks.gpu.check import check_gpu, render_page
from benchmarks.gpu.command import measure_gpu, plan_jobs, run_in_subprocess
from benchmarks.gpu.findings import find_conclusions
from benchmarks.gpu.report import Report, make_tables, ratios, shares
from benchmarks.gpu.shapes import SHAPES, ModelShape
from benchmarks.gpu.speech import count_word_errors, normalize_words, read_clips
from benchmarks.gpu.work import Workload, decoder_weights, encoder_operations, minimum_work
from benchmarks.gpu.worker import Job, run_job
from benchmarks.settings import GpuCheckSettings, GpuSettings
from distil_ray.cli.options import parse_options
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.recognition.base import RecognizerOptions
from tests.support.clips import load_samples, manifest_rows

ROOT = Path(__file__).resolve().parents[2]
SMALL = ModelShape(128, 2, 2, num_mel_bins=80, vocab_size=300)
ON_A_CPU = ["device=cpu", "dtype=float32", "shapes=tiny-shape", "batch_sizes=1", "baseline_batch_sizes=1"]
ON_A_CPU += ["methods=model.encode_ahead=true,model.dtype=float8"]  # compiling takes a minute


def write_wav(path: Path, seconds: float, rate: int = 16_000) -> None:
    noise = np.random.default_rng(0).integers(-2000, 2000, round(seconds * rate)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(noise.tobytes())


@pytest.mark.slow
def test_every_measurement_gives_figures_on_a_cpu(
    whisper_tiny_en: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (native, baselines):
        monkeypatch.setattr(module, "TIMED_S", 0.0)
    monkeypatch.setattr(limits, "TRIES", 1)
    (clip,) = manifest_rows("cards-005")
    (tmp_path / "clips.jsonl").write_text(json.dumps(clip))
    words = [*ON_A_CPU, "chunk_s=1", "tokens_per_s=3", "part_s=3,6", f"speech={tmp_path / 'clips.jsonl'}"]
    settings = parse_options(GpuSettings, [*words, f"models={whisper_tiny_en}", f"report={tmp_path}"])
    console = Console(file=io.StringIO())

    def here(job: Job) -> Iterator[dict[str, Any]]:
        if job.kind in ("limits", "exact", "parts") or job.is_random:
            yield from run_job(job)

    assert measure_gpu(settings, console, here) == ExitCode.DONE

    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["left_out"] == []
    speeds = [found for found in report["found"] if found.get("measure") == "speed"]
    assert [(each["engine"], each["window"]) for each in speeds] == [
        ("native", "gated"),
        ("native", "full"),
        ("generate, growing cache", "full"),
        ("generate, static cache", "full"),
    ]
    assert not any("failed" in each for each in speeds)
    assert all(each["tokens"] == 3 * each["audio_s"] for each in speeds[:2])  # as many as were forced
    assert all(set(each["phases"]) > {"copy", "log_mel", "encoder", "prefill", "steps"} for each in speeds[:2])
    assert [each["share_of_limit"] > 0 for each in report["shares"]] == [True, True]
    default, ahead, float8 = (found for found in report["found"] if found.get("measure") == "method")
    assert [bool(each["refused"]) for each in (default, ahead, float8)] == [False, True, False]
    assert default["differing"] == ahead["differing"] == 0
    parts = [found for found in report["found"] if found.get("measure") == "part"]
    assert [each["part_s"] for each in parts] == [3.0, 6.0, 24.0]
    assert all(each["rtfx"] > 0 and each["steps"] > 0 for each in parts)
    (full, gated) = (found for found in report["found"] if found.get("measure") == "tokens")
    assert full["differing"] == gated["differing"] == 0
    assert [found["wer"] < 0.5 for found in report["found"] if found.get("measure") == "errors"] == [True]


@pytest.mark.parametrize(
    ("program", "limit_s", "reason"),
    [
        ("raise SystemExit('no compiler\\nfor this')", 20.0, "exit code 1: for this"),
        ("import time; time.sleep(60)", 1.0, "ended after 1 s"),
    ],
)
def test_a_measurement_that_dies_or_hangs_fails_alone(
    monkeypatch: pytest.MonkeyPatch, program: str, limit_s: float, reason: str
) -> None:
    found_first = 'print("a word of its own"); print("{\\"measure\\": 1}", flush=True); '
    monkeypatch.setattr(command, "WORKER", [sys.executable, "-c", found_first + program])
    began = time.monotonic()

    assert list(run_in_subprocess(Job("native", "tiny-shape", limit_s, "cpu", "float32"))) == [
        {"measure": 1},
        {"failed": reason},
    ]
    assert time.monotonic() - began < 30


def test_what_does_not_fit_into_the_time_is_left_out_and_said_so(tmp_path: Path) -> None:
    settings = parse_options(GpuSettings, [*ON_A_CPU, "budget_s=0.001", f"report={tmp_path}"])
    assert measure_gpu(settings, Console(file=io.StringIO()), lambda job: iter([])) == ExitCode.DONE
    left_out = json.loads((tmp_path / "gpu.json").read_text())["left_out"]
    assert [each["job"] for each in left_out] == [
        "limits",
        "native tiny-shape",
        "methods tiny-shape",
        "generate tiny-shape",
    ]
    assert all("no time left of budget_s=0.001" in each["reason"] for each in left_out)


def test_other_tokens_than_the_cpus_fail_the_run(tmp_path: Path) -> None:
    settings = parse_options(GpuSettings, [*ON_A_CPU, f"report={tmp_path}"])
    found = {"measure": "tokens", "model": "base", "window": "full", "chunks": 3, "differing": 1}
    assert measure_gpu(settings, Console(file=io.StringIO()), lambda job: iter([found])) == ExitCode.FAILED


def test_the_default_run_has_all_that_is_asked_for_most_important_first() -> None:
    settings = GpuSettings(models=("whisper-base",), speech="clips")
    assert [job.name for job in plan_jobs(settings)][:3] == ["limits", "native distil-large-v3", "exact whisper-base"]
    assert {job.name for job in plan_jobs(settings)} >= {
        "generate large-v3",
        "native large-v3-turbo",
        "ctranslate2 whisper-base",
    }
    forced = [job for job in plan_jobs(settings) if job.is_random]
    assert {(job.chunk_s, job.tokens) for job in forced} == {(15.0, 60)}


def small_module() -> Any:
    return WhisperForConditionalGeneration(
        WhisperConfig(
            d_model=128,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=512,
            decoder_ffn_dim=512,
            num_mel_bins=80,
            vocab_size=300,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=0,
        )
    )


def test_operations_of_a_window_are_those_that_torch_counts() -> None:
    module = small_module()
    module.config._attn_implementation = "eager"  # torch counts no fused attention
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module.model.encoder(torch.zeros(1, 80, 3000))
    assert encoder_operations(SMALL, 1500) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_step_reads_all_weights_but_those_of_the_windows_keys_and_values() -> None:
    decoder = small_module().model.decoder
    linear = [m for name, m in decoder.named_modules() if isinstance(m, torch.nn.Linear)]
    heard = [layer.encoder_attn for layer in decoder.layers]
    unread = sum(each.weight.numel() for one in heard for each in (one.k_proj, one.v_proj))
    expected = sum(m.weight.numel() for m in linear) - unread + decoder.embed_tokens.weight.numel()
    assert decoder_weights(SMALL) == expected


def test_more_rows_together_read_the_weights_less_often() -> None:
    few, many = (Workload(64, 800, 88, 60, rows, 2) for rows in (16, 64))
    shape = SHAPES["distil-large-v3"]
    saved = minimum_work(shape, few).step_bytes - minimum_work(shape, many).step_bytes
    assert saved == 3 * 60 * decoder_weights(shape) * 2
    assert minimum_work(shape, few).operations == minimum_work(shape, many).operations


def test_shares_and_ratios_follow_from_what_was_found() -> None:
    shape = {name: getattr(SHAPES["large-v3"], name) for name in ModelShape.__slots__}
    load = {"chunks": 1, "positions": 800, "silent": 0, "tokens": 0, "rows": 1, "number_bytes": 2}
    speed = {"measure": "speed", "engine": "native", "window": "gated", "batch_size": 1, "wall_s": 2.0, "load": load}
    found: list[dict[str, Any]] = [
        {"measure": "limits", "operations_per_s": minimum_work(SHAPES["large-v3"], Workload(**load)).operations},
        {"measure": "limits", "bytes_per_s": 1.0},
        {"measure": "model", "model": "native large-v3", "shape": shape},
        {**speed, "model": "large-v3", "rtfx": 100.0},
        {**speed, "model": "distil-large-v3", "rtfx": 250.0},
        {**speed, "model": "distil-large-v3", "rtfx": 300.0, "engine": "other"},
    ]
    report = Report({}, {}, found, [])
    (share,) = shares(report)
    assert share["share_of_limit"] == pytest.approx(0.5)
    assert ratios(report) == {"native, gated windows": 2.5}


def test_a_chosen_batch_size_is_that_of_the_loop(whisper_tiny_en: Path) -> None:
    options = RecognizerOptions(dtype="float32", window="gated", batch_size=1)
    recognizer = native.MeasuredRecognizer(whisper_tiny_en, options, is_random=False)
    pcm = load_samples("cards-001")
    one = native.transcribe(recognizer, [pcm])
    recognizer.choose("gated", 2)
    assert native.transcribe(recognizer, [pcm, pcm]) == 2 * one
    assert recognizer.slots == 2
    assert [loop._cache.slots for loop in recognizer._loops.loops.values()] == [2]


SPEED = {"measure": "speed", "model": "large-v3", "engine": "native", "window": "gated", "peak_gib": 1.0, "wall_s": 1.0}
ALL_GOOD: list[dict[str, Any]] = [
    {"measure": "device", "name": "NVIDIA Test"},
    {"measure": "tokens", "model": "base", "window": "full", "chunks": 4, "differing": 0},
    {"measure": "errors", "model": "base", "dtype": "float32", "wer": 0.05},
    {"measure": "errors", "model": "base", "dtype": "bfloat16", "wer": 0.0505},
    {"measure": "warnings", "model": "base", "warnings": ["model.attention=auto: sdpa"]},
    {"measure": "attention", "with_mask_s": 1.1, "without_s": 1.0},
    {**SPEED, "batch_size": 64, "rtfx": 990.0, "phases": {"encoder": 0.7, "steps": 0.25, "rest": 0.05, "all": 1.0}},
    {**SPEED, "batch_size": 256, "rtfx": 1000.0},
    {**SPEED, "batch_size": 16, "rtfx": 500.0, "engine": "generate, static cache", "window": "full"},
]


METHOD = {"measure": "method", "model": "base", "window": "gated", "batch_size": 256, "chunks": 48, "refused": []}
DEFAULT = {**METHOD, "method": "default", "rtfx": 1000.0, "load_s": 5.0, "differing": 0, "wer": 0.05}
FLOAT8 = {**DEFAULT, "method": "model.dtype=float8", "rtfx": 1300.0, "differing": 3, "wer": 0.0502, "load_s": 7.0}
AHEAD = {**DEFAULT, "method": "model.encode_ahead=true", "rtfx": 1200.0}
PART = {
    "measure": "part",
    "model": "base",
    "batch_size": 256,
    "part_s": 3600.0,
    "rtfx": 700.0,
    "steps": 900,
    "unused": 0.4,
}
LONG_PART = {**PART, "part_s": 14400.0, "rtfx": 1000.0, "steps": 600}


@pytest.mark.parametrize(
    ("records", "level", "text", "advice"),
    [
        (
            [DEFAULT, FLOAT8],
            "good",
            "base, model.dtype=float8: 1.30 times as fast as without (RTFx 1,300 instead of 1,000), +2 s to load;"
            " 3 of 48 chunks have other tokens, WER is 5.02 % instead of 5.00 %.",
            "Turn it on if the WER",
        ),
        ([DEFAULT, {**FLOAT8, "wer": 0.06}], "warn", "WER is 6.00 % instead of 5.00 %", "Leave it off, unless"),
        ([DEFAULT, {**FLOAT8, "rtfx": 1010.0}], "good", "1.01 times as fast", "Leave it off."),
        ([DEFAULT, {**FLOAT8, "refused": ["it differs"]}], "warn", "not used here (it differs)", "Leave it off."),
        ([DEFAULT, {**METHOD, "method": "x", "failed": "no compiler"}], "warn", "not measured (no compiler)", "Leave"),
        ([{**DEFAULT, "rtfx": 1.0, "model": "other"}, AHEAD], "warn", "nor was the default", "Leave it off."),
        ([DEFAULT, AHEAD], "good", "1.20 times as fast", "Turn it on where"),
        ([DEFAULT, {**AHEAD, "differing": 1}], "warn", "1 of 48 chunks have other tokens", "It must not change tokens"),
        ([PART, LONG_PART], "good", "parts of 3600 s reach 70 % of the speed of one part of 14400 s (900", "Set plan."),
        ([{**PART, "rtfx": 990.0}, LONG_PART], "good", "reach 99 % of the speed", ""),
    ],
)
def test_each_method_and_length_of_parts_has_a_verdict(
    records: list[dict[str, Any]], level: str, text: str, advice: str
) -> None:
    report = Report({}, {}, [*ALL_GOOD, *records], [])
    (found,) = (each for each in find_conclusions(report) if text in each.text)
    assert found.level == level
    assert found.advice.startswith(advice) and bool(found.advice) == bool(advice)
    (table,) = (each for each in make_tables(report) if str(each.title).startswith("Beside the default"))
    assert table.row_count == sum("rtfx" in each for each in records)


def test_a_run_without_faults_has_only_good_conclusions_and_the_smallest_of_the_fast_batches() -> None:
    found = find_conclusions(Report({}, {}, ALL_GOOD, []))
    assert {finding.level for finding in found} == {"good"}
    texts = " ".join(finding.text for finding in found)
    assert "all 4 compared chunks have the tokens of the CPU" in texts
    assert "RTFx 990 with decoding.batch_size=64, 1.0 GiB of GPU memory; 2.0 times as fast as generate" in texts


@pytest.mark.parametrize(
    ("record", "level", "text"),
    [
        ({"measure": "tokens", "model": "b", "window": "gated", "chunks": 3, "differing": 1}, "bad", "1 of 3 chunks"),
        ({"measure": "errors", "model": "base", "dtype": "float16", "wer": 0.06}, "warn", "6.00 % in float16, 1.00"),
        ({"measure": "warnings", "warnings": ["CUDA graphs: off (no memory)"]}, "warn", "CUDA graphs: off (no memory)"),
        ({"measure": "attention", "with_mask_s": 3.0, "without_s": 1.0}, "warn", "3.0 times as long with its mask"),
        (
            {**SPEED, "batch_size": 64, "rtfx": 1.0, "phases": {"steps": 0.6, "rest": 0.4, "all": 1.0}},
            "warn",
            "waits for the host in 40 %",
        ),
        (
            {**SPEED, "batch_size": 8, "rtfx": 2000.0, "engine": "generate, growing cache", "window": "full"},
            "warn",
            "0.5 times as fast as generate, growing cache",
        ),
    ],
)
def test_each_fault_has_a_sentence(record: dict[str, Any], level: str, text: str) -> None:
    (first, *_) = find_conclusions(Report({}, {}, [*ALL_GOOD, record], []))
    assert first.level == level and text in first.text and first.advice


def test_the_page_has_the_conclusions_and_a_plot_of_each_engine_and_escapes_names() -> None:
    machine = {"processor": "p", "arithmetic": ["avx2"], "cpus": 2, "memory_gib": 1, "date": "d", "packages": {}}
    left_out = [{"job": "native <b>", "reason": "ended after 60 s"}]
    page = render_page(Report(machine, {"dtype": "bfloat16", "chunk_s": 15.0}, ALL_GOOD, left_out)).decode()
    assert "This GPU works; something is slow or was not measured" in page
    assert "Not measured: native &lt;b&gt;: ended after 60 s." in page
    assert page.count("<svg") == 4  # speed and memory of two programs
    assert "RTFx: 2 batch sizes, last value 1,000" in page


@pytest.mark.slow
def test_the_check_of_a_gpu_writes_its_page(tmp_path: Path, clips: Path) -> None:
    words = [*ON_A_CPU, "chunk_s=1", "tokens_per_s=3", "models=packaged:whisper-tiny.en", "num_clips=1", "part_s=3,6"]
    settings = parse_options(GpuCheckSettings, [*words, f"speech={clips / 'manifest.jsonl'}", f"report={tmp_path}"])
    console = Console(file=io.StringIO(), width=200)
    assert check_gpu(settings, console) == ExitCode.DONE
    assert "tokens of the CPU" in (tmp_path / "gpu.html").read_text()
    left_out = json.loads((tmp_path / "gpu.json").read_text())["left_out"]
    if importlib.util.find_spec("ctranslate2") is None:
        assert [job["job"].split()[0] for job in left_out] == ["ctranslate2"], left_out
    else:
        assert left_out == []


def test_clips_are_read_from_a_folder_or_a_manifest_and_others_are_passed_over(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", 1.0)
    write_wav(tmp_path / "b.wav", 1.0, rate=8000)
    write_wav(tmp_path / "c.wav", 31.0)
    (tmp_path / "list.jsonl").write_text('{"uri": "a.wav", "text": "Hello."}\n')
    (clip,) = read_clips(str(tmp_path), 10)
    assert (len(clip.pcm), str(clip.pcm.dtype), clip.reference) == (16_000, "int16", None)
    assert read_clips(str(tmp_path / "list.jsonl"), 10)[0].reference == "Hello."


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("shapes=enormous", "shapes=enormous: known are distil-large-v3"),
        ("methods=model.faster=true", "methods=model.faster=true: known are model.encode_ahead=true, "),
        ("models=/nowhere", "models=/nowhere: no model folder"),
        ("device=cuda", "device=cuda: there is no GPU"),
    ],
)
def test_a_setting_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch, word: str, reason: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = parse_options(GpuSettings, [*ON_A_CPU, word])
    with pytest.raises(SettingsError, match=reason):
        measure_gpu(settings, Console(file=io.StringIO()), lambda job: iter([]))


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_word_errors_are_those_of_the_cheapest_alignment(reference: list[str], found: list[str]) -> None:
    assert count_word_errors(reference, found) == Levenshtein.distance(reference, found)


def test_words_are_folded() -> None:
    assert normalize_words("Don’t, he said: “NO!” 3.5") == ["don't", "he", "said", "no", "3", "5"]


def test_it_imports_only_packages_of_the_recognizer() -> None:
    """What the benchmark's own modules import, and what those do: no Ray, storage, decoding, tables or scoring."""
    allowed = {"torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "rich"}
    optional = {"soundfile", "ctranslate2", "triton", "langcodes", "rapidfuzz"}  # imported where they are used
    seen, waiting = set[str](), ["benchmarks.gpu.command", "benchmarks.settings"]
    foreign = set()
    while waiting:
        module = waiting.pop()
        path = ROOT / f"{module.replace('.', '/')}.py"
        if module in seen or not path.is_file():
            continue
        seen.add(module)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            waiting += [name for name in names if name.startswith(("distil_ray", "benchmarks"))]
            foreign |= {name.partition(".")[0] for name in names}
    assert foreign - {"distil_ray", "benchmarks", ""} - set(sys.stdlib_module_names) <= allowed | optional
    assert "distil_ray.recognition.native.recognizer" in seen
