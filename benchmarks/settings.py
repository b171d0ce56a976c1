"""Settings of the benchmarks: one dataclass per command, filled from `key=value` arguments (cli/options.py)."""

from dataclasses import MISSING, dataclass

from distil_ray.cli.options import describe_options, option


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """CPU cost of the pipeline itself, with a recognizer that does nothing."""

    hours: float = option(4.0, "hours of audio of the larger of two runs")
    start_fraction: float = option(0.25, "share of it in the smaller run; the difference of both excludes the start-up")
    formats: tuple[str, ...] = option(("flac", "mp3", "wav"), "formats to measure")
    recording_s: float = option(60.0, "seconds of a recording")
    audio: str = option("", "folder, glob or manifest of real speech to repeat; default: the demo's samples")
    report: str = option(".bench/reports", "folder for pipeline.json")


@dataclass(frozen=True, slots=True)
class PlanningSettings:
    """Time and memory before recognition begins, for very many recordings: reading the ledger, making the plan."""

    recordings: tuple[int, ...] = option((100_000, 1_000_000), "recordings listed, each number in turn")
    done_share: float = option(0.5, "share of them that is already in the output, which has as many rows")
    folder: str = option("", "folder for outputs and plans; default: a temporary folder")
    report: str = option(".bench/reports", "folder for planning.json")


@dataclass(frozen=True, slots=True)
class ScaleSettings:
    """Requests to the store by layout of the input, their price for a large corpus, and the cost of a large ledger."""

    layouts: tuple[str, ...] = option(("files", "manifest", "tar", "parquet"), "layouts of the input to measure")
    hours: float = option(1_000_000.0, "hours of the corpus whose cost is computed")
    recording_s: float = option(36.0, "seconds of one of its recordings")
    block_s: float = option(1200.0, "seconds of audio in a file of transcripts: plan.task_audio_s")
    part_s: float = option(600.0, "seconds of audio in a part of it: plan.part_audio_s")
    shard_recordings: int = option(1000, "recordings of one of its shards")
    group_recordings: int = option(100, "recordings of a row group, if its shards are Parquet files")
    write_price: float = option(0.005, "dollars per 1000 PUT and LIST requests")
    read_price: float = option(0.0004, "dollars per 1000 GET and HEAD requests; DELETE is free")
    blocks: tuple[int, ...] = option((1000, 4000), "blocks of the outputs whose ledger is read")
    indexed_blocks: tuple[int, ...] = option((4000, 40_000), "the same, of outputs that have an index of it")
    block_rows: int = option(10, "rows of one of these blocks")
    start_recordings: tuple[int, ...] = option(
        (100_000, 1_000_000), "done recordings of the runs whose start is measured"
    )
    start_new: int = option(10_000, "new recordings of each of these runs")
    latency_s: float = option(0.02, "seconds that the simulated store waits before it answers")
    parts: tuple[str, ...] = option(
        ("requests", "ledger"),
        "what to measure: requests, ledger, start, nights, skew, actors, plain_ray, object_store",
    )
    small_run: bool = option(True, "skew: also do a small run on a local Ray")
    actors: tuple[int, ...] = option((4, 16, 48), "actors: recognizers of the runs on a faked cluster")
    actor_rates: tuple[float, ...] = option((2.0, 8.0), "actors: parts a second of each of these numbers")
    actor_executors: tuple[int, ...] = option((1,), "actors: processes that schedule, of each of these runs")
    actor_s: float = option(30.0, "actors: seconds of these runs in which all recognizers work")
    actor_part_s: float = option(1.0, "actors: seconds of audio of a part, which travels through the object store")
    actor_nodes: int = option(3, "actors: nodes of the faked cluster, beside the head")
    store_s: float = option(3600.0, "seconds of audio of the run whose bytes in Ray's object store are counted")
    nights: int = option(60, "nightly runs to simulate")
    night_new: int = option(100, "new recordings of such a night")
    night_changed: int = option(5, "its changed recordings", allows_zero=True)
    night_deleted: int = option(1, "its deleted recordings", allows_zero=True)
    night_block_rows: int = option(30, "recordings in a file of its transcripts")
    report: str = option(".bench/reports", "folder for scale.json and scale.md")


@dataclass(frozen=True, slots=True)
class EnginesSettings:
    """Speed and WER of this recognizer and of other programs: same weights, same audio, same machine."""

    engines: tuple[str, ...] = option(("all",), "names or groups (all, native, hf, fw), separated by commas")
    clips: str = option("", "folder, glob or manifest of speech with references; default: the demo's samples")
    num_clips: int = option(48, "short clips (3 to 30 s) at most")
    num_long: int = option(4, "long recordings (more than 45 s) at most")
    long_s: float = option(600.0, "maximum duration of a long recording, seconds")
    model: str = option("packaged:whisper-base", "checkpoint: packaged:..., local folder, hub id")
    language: str = option("en", "language of the speech")
    threads: int = option(1, "CPU threads of every engine")
    rounds: int = option(3, "rounds; every engine runs once per round, and medians are reported")
    install: bool = option(True, "install missing engines; false leaves them out")
    cache_dir: str = option(".bench", "folder for environments, converted weights and WAV files")
    report: str = option(".bench/reports", "folder for engines.json, engines.svg, engines-texts.jsonl")


@dataclass(frozen=True, slots=True)
class AccuracySettings:
    """WER of this package in its modes and of other programs with their defaults: same weights, same recordings.

    Transcripts are stored, so that a measurement can be interrupted and extended.
    """

    clips: str = option("", "folder, glob or manifest of speech with references; default: the demo's samples")
    column: str = option("set", "column of the manifest that divides the corpus into sets")
    sets: tuple[str, ...] = option((), "values of this column to use; default: all")
    share: float = option(1.0, "share of the recordings of each set, chosen at random with a fixed seed")
    num_clips: int = option(100_000, "recordings of each set at most, of the same choice")
    max_s: float = option(36_000.0, "maximum duration of a recording, seconds")
    models: tuple[str, ...] = option(
        ("packaged:whisper-base", "packaged:whisper-tiny.en"), "checkpoints: packaged:..., local folder, hub id"
    )
    engines: tuple[str, ...] = option((), "distil_ray, faster-whisper, openai-whisper, transformers; default: all")
    modes: tuple[str, ...] = option((), "modes of these engines (benchmarks/accuracy/modes.py); default: all")
    language: str = option("given", "given: that of the recording is told; detected: every engine detects it")
    transcribe: bool = option(True, "transcribe what is missing; false compares what is stored")
    again: tuple[str, ...] = option((), "engines whose stored transcripts are made anew")
    threads: int = option(1, "CPU threads of every engine")
    install: bool = option(True, "install missing engines; false leaves them out")
    cache_dir: str = option(".bench", "folder for environments, converted weights, WAV files and transcripts")
    report: str = option(".bench/reports", "folder for accuracy.json, accuracy.md, accuracy-texts.jsonl")


@dataclass(frozen=True, slots=True)
class FormatsSettings:
    """A checkpoint in every format: read by this package, and run in the program that each format belongs to.

    The tokens of the programs are compared with those of transformers in float32.
    """

    model: str = option("packaged:whisper-base", "checkpoint: packaged:..., local folder, hub id")
    clips: str = option("", "folder, glob or manifest of speech with references; default: the demo's samples")
    column: str = option("set", "column of the manifest that divides the corpus into sets")
    sets: tuple[str, ...] = option((), "values of this column to use; default: all")
    num_clips: int = option(48, "clips of each set (up to 30 s) at most, chosen at random with a fixed seed")
    language: str = option("en", "language of the speech")
    max_tokens: int = option(200, "maximum number of tokens of a clip")
    read: bool = option(True, "read the files with this package")
    run: bool = option(True, "run the files in other programs")
    programs: tuple[str, ...] = option((), "programs to run, beside transformers; default: all")
    threads: int = option(1, "CPU threads of every program")
    install: bool = option(True, "install missing programs; false leaves them out")
    cache_dir: str = option(".bench", "folder for environments, written files and WAV files")
    report: str = option(".bench/reports", "folder for formats.json")


@dataclass(frozen=True, slots=True)
class ModelsSettings:
    """Two checkpoints compared: generation time, parameters, decoder parameters."""

    main: str = option(MISSING, "the larger checkpoint: packaged:..., local folder, hub id")
    student: str = option(MISSING, "the smaller one")
    engine: str = option("full", "engine that recognizes; one that runs in this environment")
    clips: str = option("", "folder, glob or manifest of speech with references; default: the demo's samples")
    num_clips: int = option(48, "short clips (3 to 30 s) at most")
    language: str = option("en", "language of the speech")
    threads: int = option(1, "threads")
    rounds: int = option(3, "rounds; both run once per round, and medians are reported")
    cache_dir: str = option(".bench", "folder for WAV files")
    report: str = option(".bench/reports", "folder for models.json")


@dataclass(frozen=True, slots=True)
class ExactnessSettings:
    """Tokens of the native recognizer compared with those of transformers' generate and pipeline."""

    models: tuple[str, ...] = option(
        ("packaged:whisper-tiny.en", "packaged:whisper-base"), "checkpoints: packaged:..., local folder, hub id"
    )
    clips: str = option("", "folder, glob or manifest of speech; default: the demo's samples")
    column: str = option("set", "column of the manifest that divides the corpus into sets")
    sets: tuple[str, ...] = option((), "values of this column to use; default: all")
    share: float = option(1.0, "share of the recordings of each set, chosen at random with a fixed seed")
    checks: tuple[str, ...] = option(
        ("tokens", "languages", "overlap"), "what to compare; also possible: beams, sequential, bfloat16, int8, drafts"
    )
    assistant: str = option("", "assistant checkpoint, for checks=drafts")
    chunk_s: tuple[float, ...] = option((15.0, 30.0), "maximum chunk lengths in seconds, each in turn")
    overlap_s: float = option(15.0, "maximum length of overlapping chunks, seconds")
    batch_sizes: tuple[int, ...] = option((1, 3, 32), "batch sizes, each in turn")
    num_beams: tuple[int, ...] = option((2, 5), "numbers of beams for checks=beams, each in turn")
    small_share: float = option(1.0, "share of the chunks for every batch size but the largest")
    num_uncached: int = option(8, "chunks computed without the cache, to prove that the cache changes nothing")
    num_rounded: int = option(40, "recordings for the checks of bfloat16 and int8")
    window: str = option("full", "windows for the checks of bfloat16, int8 and drafts: full or gated")
    threads: int = option(1, "threads")
    cache_dir: str = option(".bench", "folder for the results of transformers, which are computed once")
    report: str = option(".bench/reports", "folder for exactness.json")


@dataclass(frozen=True, slots=True)
class TimesSettings:
    """Word timestamps compared with known edges of utterances: the native recognizer's and other programs'."""

    recordings: str = option(
        MISSING, "folder, glob or manifest of recordings; beside each NAME.segments.jsonl: start, end, text"
    )
    names: tuple[str, ...] = option((), "file names without extension to use; default: all")
    models: tuple[str, ...] = option(
        ("packaged:whisper-tiny.en", "packaged:whisper-base"), "checkpoints: packaged:..., local folder, hub id"
    )
    recognizers: tuple[str, ...] = option(("native",), "recognizers of this package: native, transformers")
    windows: tuple[str, ...] = option(("gated", "full"), "windows: full, gated")
    strategies: tuple[str, ...] = option(("quiet",), "chunking strategies: quiet, overlap")
    baselines: tuple[str, ...] = option((), "other programs: fw-float32, fw-int8, openai-float32")
    chunk_s: float = option(30.0, "maximum chunk length, seconds")
    language: str = option("en", "language of the speech")
    threads: int = option(1, "threads")
    install: bool = option(True, "install missing programs; false leaves them out")
    cache_dir: str = option(".bench", "folder for environments, converted weights and WAV files")
    report: str = option(".bench/reports", "folder for times.json")


@dataclass(frozen=True, slots=True)
class SpeculativeSettings:
    """Decoding with an assistant compared with decoding without: tokens, steps, CPU seconds of the decoder."""

    model: str = option("packaged:whisper-base", "main checkpoint: packaged:..., local folder, hub id")
    assistants: tuple[str, ...] = option(
        ("dropped", "random"), "checkpoints, or two layers of the model's own (dropped), or two random ones (random)"
    )
    clips: str = option("", "folder, glob or manifest of speech with references; default: the demo's samples")
    num_clips: int = option(32, "clips (3 to 30 s) at most")
    language: str = option("en", "language of the speech")
    batch_sizes: tuple[int, ...] = option((1, 4, 16, 32), "batch sizes, each in turn")
    speculative: str = option("on", "on or auto")
    window: str = option("full", "windows: full or gated")
    timestamps: str = option("none", "none, segment or word")
    rounds: int = option(1, "rounds; the lowest time counts")
    generate: bool = option(True, "also measure transformers' assisted generation, chunk by chunk")
    threads: int = option(1, "threads")
    cache_dir: str = option(".bench", "folder for students and WAV files")
    report: str = option(".bench/reports", "folder for speculative.json")


@dataclass(frozen=True, slots=True)
class PassesSettings:
    """Cost of a decoder step by shape, with random weights and no speech; and the predicted speed-up."""

    d_model: int = option(1280, "width; 1280 is large-v3's, 512 base's")
    heads: int = option(20, "heads; 20 and 8")
    layers: int = option(32, "decoder layers of the main model; 32 and 6")
    drafting_layers: int = option(2, "decoder layers of the assistant")
    vocabulary: int = option(51866, "entries; 51866 and 51865")
    batch_sizes: tuple[int, ...] = option((1, 4, 16, 64), "batch sizes, each in turn")
    drafts: tuple[int, ...] = option((1, 2, 3, 4, 5, 8), "numbers of drafts per step to try; the best one is reported")
    acceptance: float = option(0.75, "probability that a draft is accepted, given that all before it were")
    tokens: int = option(60, "tokens per chunk, over which the cost of the prefill is spread")
    positions: int = option(1500, "encoder positions of a window")
    device: str = option("cpu", "cpu or cuda")
    dtype: str = option("float32", "float32, or bfloat16 or float16 on a GPU")
    threads: int = option(1, "threads")
    report: str = option(".bench/reports", "folder for passes.json")


# Methods of the native recognizer that are off by default, those that take long to load last.
GPU_METHODS = (
    "model.encode_ahead=true",
    "model.dtype=float8",
    "model.compile_encoder=true",
    "model.dtype=float8 model.compile_encoder=true",
)


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """The GPU path compared with the limits of the chip, with other programs, and with the tokens of the CPU.

    Needs torch, transformers, numpy and rich, but not Ray. Runs within a time budget.
    """

    models: tuple[str, ...] = option(
        (), "folders of real weights; all are compared with the CPU, and the first one is also timed"
    )
    speech: str = option(
        "", "speech for the models: folder of WAV or FLAC files (16 kHz mono), or JSON lines with uri and reference"
    )
    num_clips: int = option(48, "maximum number of clips (up to 30 s each)")
    shapes: tuple[str, ...] = option(
        ("distil-large-v3", "large-v3", "large-v3-turbo"),
        "model shapes to time with random weights; also possible: tiny-shape",
    )
    chunk_s: float = option(15.0, "duration of a synthetic chunk, seconds")
    tokens_per_s: float = option(4.0, "tokens to generate per second of it")
    batch_sizes: tuple[int, ...] = option(
        (256, 64, 128, 32, 512), "batch sizes of the native recognizer; phases are timed at the first"
    )
    baseline_batch_sizes: tuple[int, ...] = option((64, 128, 16, 32), "batch sizes of the other programs")
    part_s: tuple[float, ...] = option((3600.0, 7200.0), "seconds of audio in a part, ascending, as plan.part_audio_s")
    methods: tuple[str, ...] = option(GPU_METHODS, "settings to compare with the default, some of these")
    device: str = option("cuda", "cuda; cpu only to test the benchmark itself")
    dtype: str = option("auto", "auto, bfloat16, float16 or float32; auto is that of model.dtype=auto on this device")
    budget_s: float = option(540.0, "time budget in seconds; what does not fit is left out, the least important first")
    report: str = option(".bench/reports", "folder for gpu.json")


@dataclass(frozen=True, slots=True)
class GpuCheckSettings(GpuSettings):
    """A check of a GPU with the packaged weights: its tokens compared with the CPU's, its speed, and what to try.

    Writes gpu.html, a page with plots, beside gpu.json.
    """

    models: tuple[str, ...] = option(
        ("packaged:whisper-base", "packaged:whisper-tiny.en"),
        "real weights, as in model.name; all are compared with the CPU, and the first one is also timed",
    )
    speech: str = option("", "folder, glob or manifest of English speech with references; default: the demo's samples")


COMMANDS: dict[str, type] = {
    "pipeline": PipelineSettings,
    "planning": PlanningSettings,
    "scale": ScaleSettings,
    "engines": EnginesSettings,
    "accuracy": AccuracySettings,
    "formats": FormatsSettings,
    "models": ModelsSettings,
    "exactness": ExactnessSettings,
    "times": TimesSettings,
    "speculative": SpeculativeSettings,
    "passes": PassesSettings,
    "gpu": GpuSettings,
    "gpu-check": GpuCheckSettings,
}


def describe_commands() -> str:
    """Returns every command with its settings and defaults, for --help."""
    lines = []
    for name, kind in COMMANDS.items():
        lines += ["", f"{name}: {(kind.__doc__ or '').strip()}", *describe_options(kind)]
    return "\n".join(lines)
