"""What the benchmarks can be told: one record a command, filled from `key=value` words (cli/options.py)."""

from dataclasses import MISSING, dataclass

from distil_ray.cli.options import describe_options, option


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """The cost of the pipeline itself, with a recognizer that answers at once."""

    hours: float = option(4.0, "hours of audio of the larger of two runs")
    start_fraction: float = option(0.25, "share of it in the smaller run; the difference is free of start-up")
    formats: tuple[str, ...] = option(("flac", "mp3", "wav"), "formats to measure")
    recording_s: float = option(60.0, "seconds of a recording")
    audio: str = option("", "folder, glob or manifest of real speech to repeat; default: the demo's samples")
    report: str = option(".bench/reports", "folder for pipeline.json")


@dataclass(frozen=True, slots=True)
class PlanningSettings:
    """What a huge listing costs before anything is recognized: reading the ledger, making the plan."""

    recordings: tuple[int, ...] = option((100_000, 1_000_000), "recordings listed, each number in turn")
    done_share: float = option(0.5, "share of them that the output holds, which has as many rows as are listed")
    folder: str = option("", "where outputs and plans are made; default: a temporary folder")
    report: str = option(".bench/reports", "folder for planning.json")


@dataclass(frozen=True, slots=True)
class EnginesSettings:
    """Our recognizers beside other programs: same weights, same audio, same machine."""

    engines: tuple[str, ...] = option(("all",), "names or groups (all, native, hf, fw), separated by commas")
    clips: str = option("", "folder, glob or manifest of speech with references; default: the demo's samples")
    num_clips: int = option(48, "short clips (3 to 30 s) at most")
    num_long: int = option(4, "long recordings (more than 45 s) at most")
    long_s: float = option(600.0, "seconds that a long recording may have")
    model: str = option("packaged:whisper-base", "checkpoint: packaged:..., local folder, hub id")
    language: str = option("en", "language of the speech")
    threads: int = option(1, "threads of every engine")
    rounds: int = option(3, "times that every engine runs, in turn; medians are reported")
    install: bool = option(True, "install engines that are not there; false leaves them out")
    cache_dir: str = option(".bench", "folder for environments, converted weights and WAV files")
    report: str = option(".bench/reports", "folder for engines.json, engines.svg, engines-texts.jsonl")


@dataclass(frozen=True, slots=True)
class ModelsSettings:
    """Two checkpoints beside each other: generation time, parameters, decoder parameters."""

    main: str = option(MISSING, "the larger checkpoint: packaged:..., local folder, hub id")
    student: str = option(MISSING, "the smaller one")
    engine: str = option("full", "what recognizes: a name of the engines that runs in this environment")
    clips: str = option("", "folder, glob or manifest of speech with references; default: the demo's samples")
    num_clips: int = option(48, "short clips (3 to 30 s) at most")
    language: str = option("en", "language of the speech")
    threads: int = option(1, "threads")
    rounds: int = option(3, "times that both run, in turn; medians are reported")
    cache_dir: str = option(".bench", "folder for WAV files")
    report: str = option(".bench/reports", "folder for models.json")


@dataclass(frozen=True, slots=True)
class ExactnessSettings:
    """Our recognizer beside transformers' own generate and pipeline, token for token."""

    models: tuple[str, ...] = option(
        ("packaged:whisper-tiny.en", "packaged:whisper-base"), "checkpoints: packaged:..., local folder, hub id"
    )
    clips: str = option("", "folder, glob or manifest of speech; default: the demo's samples")
    column: str = option("set", "column of the manifest that tells the parts of the corpus apart")
    sets: tuple[str, ...] = option((), "values of it to take; default: all")
    share: float = option(1.0, "share of each set's recordings, chosen by a seed")
    checks: tuple[str, ...] = option(
        ("tokens", "languages", "overlap"), "what to compare; bfloat16, int8 and drafts too"
    )
    assistant: str = option("", "checkpoint that drafts, for checks=drafts")
    chunk_s: tuple[float, ...] = option((15.0, 30.0), "seconds of a chunk at most, each length in turn")
    overlap_s: float = option(15.0, "seconds of a chunk at most where chunks overlap")
    batch_sizes: tuple[int, ...] = option((1, 3, 32), "chunks at once, each number in turn")
    small_share: float = option(1.0, "share of the chunks that all but the largest batch size get")
    num_uncached: int = option(8, "chunks computed with nothing remembered, which shows that remembering is harmless")
    num_rounded: int = option(40, "recordings that bfloat16 and int8 are tried on")
    window: str = option("full", "windows that bfloat16, int8 and drafts are tried in: full or gated")
    threads: int = option(1, "threads")
    cache_dir: str = option(".bench", "folder for what transformers said, which is computed once")
    report: str = option(".bench/reports", "folder for exactness.json")


@dataclass(frozen=True, slots=True)
class TimesSettings:
    """The times of words beside known edges of utterances: ours as given out and as aligned, and other programs'."""

    recordings: str = option(
        MISSING, "folder, glob or manifest of recordings; beside each NAME.segments.jsonl: start, end, text"
    )
    names: tuple[str, ...] = option((), "file names without extension to take; default: all")
    models: tuple[str, ...] = option(
        ("packaged:whisper-tiny.en", "packaged:whisper-base"), "checkpoints: packaged:..., local folder, hub id"
    )
    recognizers: tuple[str, ...] = option(("native",), "ours: native, transformers")
    windows: tuple[str, ...] = option(("gated", "full"), "windows: full, gated")
    strategies: tuple[str, ...] = option(("quiet",), "how recordings are cut: quiet, overlap")
    baselines: tuple[str, ...] = option((), "other programs: fw-float32, fw-int8, openai-float32")
    chunk_s: float = option(30.0, "seconds of a chunk at most")
    language: str = option("en", "language of the speech")
    threads: int = option(1, "threads")
    install: bool = option(True, "install peers that are not there; false leaves them out")
    cache_dir: str = option(".bench", "folder for environments, converted weights and WAV files")
    report: str = option(".bench/reports", "folder for times.json")


@dataclass(frozen=True, slots=True)
class SpeculativeSettings:
    """Our recognizer with assistants that draft, beside itself without: tokens, passes, CPU seconds of the decoder."""

    model: str = option("packaged:whisper-base", "main checkpoint: packaged:..., local folder, hub id")
    assistants: tuple[str, ...] = option(
        ("dropped", "random"), "checkpoints, or two layers of the model's own (dropped), or two random ones (random)"
    )
    clips: str = option("", "folder, glob or manifest of speech with references; default: the demo's samples")
    num_clips: int = option(32, "clips (3 to 30 s) at most")
    language: str = option("en", "language of the speech")
    batch_sizes: tuple[int, ...] = option((1, 4, 16, 32), "chunks at once, each number in turn")
    speculative: str = option("on", "on or auto")
    window: str = option("full", "windows: full or gated")
    timestamps: str = option("none", "none, segment or word")
    rounds: int = option(1, "times that each is measured, in turn; the least counts")
    generate: bool = option(True, "transformers' assisted generation too, chunk by chunk")
    threads: int = option(1, "threads")
    cache_dir: str = option(".bench", "folder for students and WAV files")
    report: str = option(".bench/reports", "folder for speculative.json")


@dataclass(frozen=True, slots=True)
class PassesSettings:
    """What a decoder's pass costs, by shape: random weights, no speech; and the speed-up that follows from it."""

    d_model: int = option(1280, "width; 1280 is large-v3's, 512 base's")
    heads: int = option(20, "heads; 20 and 8")
    layers: int = option(32, "decoder layers of the main model; 32 and 6")
    drafting_layers: int = option(2, "decoder layers of the assistant")
    vocabulary: int = option(51866, "entries; 51866 and 51865")
    batch_sizes: tuple[int, ...] = option((1, 4, 16, 64), "rows at once, each number in turn")
    drafts: tuple[int, ...] = option((1, 2, 3, 4, 5, 8), "drafts a pass to try; the best is told")
    acceptance: float = option(0.75, "chance that a draft is kept, if all before it were")
    tokens: int = option(60, "tokens of a chunk, which its prompt's pass and its window are spread over")
    positions: int = option(1500, "encoder positions of a window")
    device: str = option("cpu", "cpu or cuda")
    dtype: str = option("float32", "float32, or bfloat16 or float16 on a GPU")
    threads: int = option(1, "threads")
    report: str = option(".bench/reports", "folder for passes.json")


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """The GPU path: speed beside the chip's limits and other programs, and the CPU's tokens; in bounded time.

    Needs torch, transformers, numpy and rich, nothing of Ray.
    """

    models: tuple[str, ...] = option((), "folders of real weights; the first is timed too; all are compared with a CPU")
    speech: str = option(
        "", "for them: folder of WAV or FLAC files (16 kHz mono), or JSON lines with uri and reference"
    )
    num_clips: int = option(48, "clips (30 s at most) of it")
    shapes: tuple[str, ...] = option(
        ("distil-large-v3", "large-v3", "large-v3-turbo"), "shapes to time with random weights; also tiny-shape"
    )
    chunk_s: float = option(15.0, "seconds of a made-up chunk")
    tokens_per_s: float = option(4.0, "tokens forced for each of its seconds")
    batch_sizes: tuple[int, ...] = option((256, 64, 128, 32, 512), "chunks at once, for ours; phases at the first")
    baseline_batch_sizes: tuple[int, ...] = option((64, 128, 16, 32), "chunks at once, for the others")
    device: str = option("cuda", "cuda, or cpu to try it out")
    dtype: str = option("bfloat16", "bfloat16, float16 or float32")
    budget_s: float = option(540.0, "seconds for all of it; what does not fit is left out, the least important first")
    report: str = option(".bench/reports", "folder for gpu.json")


COMMANDS: dict[str, type] = {
    "pipeline": PipelineSettings,
    "planning": PlanningSettings,
    "engines": EnginesSettings,
    "models": ModelsSettings,
    "exactness": ExactnessSettings,
    "times": TimesSettings,
    "speculative": SpeculativeSettings,
    "passes": PassesSettings,
    "gpu": GpuSettings,
}


def describe_commands() -> str:
    """Every command with its settings and defaults, for --help."""
    lines = []
    for name, kind in COMMANDS.items():
        lines += ["", f"{name}: {(kind.__doc__ or '').strip()}", *describe_options(kind)]
    return "\n".join(lines)
