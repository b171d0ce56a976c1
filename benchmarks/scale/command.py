"""The `scale` command: requests to the store by what a run has, and what they cost for a corpus of a given size.

Small runs over each layout of the input are counted by a proxy before an S3 server on loopback. They differ in the
number of recordings, of blocks (files of transcripts), of blocks that travel in two parts, and of shards, so that the
share of each follows from a system of linear equations. Then the ledger is read of outputs with many blocks, from a
store with latency (`ledger.py`). Other parts are the start of a run over such an output (`start.py`), a year of nightly
runs (`nights.py`), uneven recordings (`skew.py`), many recognizers under one driver (`actors.py`), the requests of a
plain Ray script (`plain_ray.py`), and the bytes in Ray's object store (`object_store.py`).
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.scale.actors import actors_table, driver_table, fit_driver, measure_actors
from benchmarks.scale.corpus import LAYOUTS, SHARDED, write_input
from benchmarks.scale.counting import CountingProxy, Kind, Traffic, kind_of
from benchmarks.scale.large_shard import measure_shards, shards_table
from benchmarks.scale.ledger import LedgerCost, measure_ledger
from benchmarks.scale.nights import measure_nights, nights_table
from benchmarks.scale.object_store import measure_object_store, object_store_table
from benchmarks.scale.plain_ray import measure_plain_ray, plain_ray_table
from benchmarks.scale.proxy import Request
from benchmarks.scale.runs import MODEL, run_configs
from benchmarks.scale.skew import measure_skew
from benchmarks.scale.start import measure_starts, start_table
from benchmarks.scale.tail import tail_table
from benchmarks.settings import ScaleSettings
from distil_ray.config.loader import dump_config, load_config
from distil_ray.demo.endpoint import serve_bucket
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.output.ledger import TRANSCRIPTS
from distil_ray.readers.durations import HEAD_BYTES, MAX_REMOTE_READS

PART_S = 30.0
RECORDING_S = 1.0
ROWS_A_GROUP = 15
HEADERS = "headers"  # name of the reads of durations, of which a run makes at most MAX_REMOTE_READS
UNITS = ("run", "recording", "row group", "block", "block of two parts", "shard")
Measured = tuple[Sequence[Any], list[Table]]  # results for the report, and tables of them
ROW_GROUPS = "parquet"  # the layout whose recordings are read by row groups


@dataclass(frozen=True, slots=True)
class Shape:
    """A run to be counted: numbers of `UNITS`. A block has whole row groups."""

    recordings: int
    blocks: int
    split: int = 0
    shards: int = 1

    def row(self, layout: str) -> list[int]:
        """Returns its row of the system of equations: the numbers of `layout_units`."""
        numbers = (1, self.recordings, self.recordings // ROWS_A_GROUP, self.blocks, self.split, self.shards)
        counts = dict(zip(UNITS, numbers, strict=True))
        return [counts[unit] for unit in layout_units(layout)]


def layout_units(layout: str) -> list[str]:
    """Returns those of `UNITS` that the requests of a layout depend on."""
    other = "recording" if layout == ROW_GROUPS else "row group"
    return [unit for unit in UNITS if unit != other and (unit != "shard" or layout in SHARDED)]


SHAPES = (Shape(60, 2), Shape(120, 4), Shape(120, 2, split=2), Shape(60, 4))  # too few blocks for an index of them
MORE_SHARDS = Shape(180, 6, shards=3)


@dataclass(frozen=True, slots=True)
class LayoutCost:
    """Requests of a layout.

    Attributes:
        layout: One of `LAYOUTS`.
        requests: By unit (`UNITS`) and kind.
        input_reads: Of these, reads of the input, by unit; the listing left out.
        headers_per_recording: Reads of durations, up to `MAX_REMOTE_READS` a run; not in `requests`.
        existing: Requests per block that the output already holds, in a run that finds nothing to do.
        overhead_bytes: Bytes from and to the store per recording that are not its audio.
        counted: Of each run: its shape, and its requests by kind and by purpose.
    """

    layout: str
    requests: dict[str, dict[str, float]]
    input_reads: dict[str, float]
    headers_per_recording: float
    existing: dict[str, float]
    overhead_bytes: float
    counted: list[dict[str, Any]]


def measure_scale(settings: ScaleSettings, console: Console) -> ExitCode:
    """Prints the tables and writes scale.json and scale.md.

    Raises:
        SettingsError: A layout or a part is unknown.
        RunError: A run fails.
    """
    for name, values, known in (("layouts", settings.layouts, LAYOUTS), ("parts", settings.parts, PARTS)):
        if unknown := [value for value in values if value not in known]:
            raise SettingsError(f"{name}={unknown[0]}: must be among {', '.join(known)}")
    facts = machine.describe_machine()
    costs, results, tables = [], dict[str, Sequence[Any]](), list[Table]()
    if "requests" in settings.parts:
        for layout in settings.layouts:
            console.print(f"counting the requests of {layout} …", style="dim")
            costs.append(measure_layout(layout))
        tables += [requests_table(costs), corpus_table(costs, settings)]
    for part, measure in _MEASURES.items():
        if part in settings.parts:
            results[part], found = measure(settings)
            tables += found
    for table in tables:
        console.print(table)
    console.print(machine.format_machine(facts), style="dim")
    _write(Path(settings.report), settings, facts, costs, results, tables)
    return ExitCode.DONE


def _ledgers(settings: ScaleSettings) -> Measured:
    sizes = [*((blocks, False) for blocks in settings.blocks), *((blocks, True) for blocks in settings.indexed_blocks)]
    ledgers = [measure_ledger(blocks, has_index, settings) for blocks, has_index in sizes]
    return ledgers, [ledger_table(ledgers, settings)]


def _starts(settings: ScaleSettings) -> Measured:
    starts = measure_starts(settings)
    return starts, [start_table(starts, settings)]


def _nights(settings: ScaleSettings) -> Measured:
    nights = measure_nights(settings)
    return nights, [nights_table(nights, settings)]


def _skew(settings: ScaleSettings) -> Measured:
    return [], [*measure_skew(settings), tail_table(), shards_table(measure_shards())]


def _actors(settings: ScaleSettings) -> Measured:
    actors = measure_actors(settings)
    driver = [driver_table(fit_driver(actors))] if 1 in settings.actor_executors else []
    return actors, [actors_table(actors), *driver]


def _object_store(settings: ScaleSettings) -> Measured:
    return [], [object_store_table(measure_object_store(settings.store_s))]


def _plain_ray(settings: ScaleSettings) -> Measured:
    return [], [plain_ray_table(measure_plain_ray(settings.layouts))]


_MEASURES: dict[str, Callable[[ScaleSettings], Measured]] = {
    "ledger": _ledgers,
    "start": _starts,
    "nights": _nights,
    "skew": _skew,
    "actors": _actors,
    "object_store": _object_store,
    "plain_ray": _plain_ray,
}
PARTS = ("requests", *_MEASURES)


def measure_layout(layout: str, shapes: Sequence[Shape] | None = None) -> LayoutCost:
    """Counts the requests of runs of several shapes over one layout, and of a rerun of each."""
    part_s = PART_S
    if layout == "manifest":  # with twice as many recordings, so that their files are found by listings
        part_s, shapes = 2 * PART_S, [replace(shape, recordings=2 * shape.recordings) for shape in shapes or SHAPES]
    shapes = shapes or (*SHAPES, *([MORE_SHARDS] if layout in SHARDED else []))
    with TemporaryDirectory(prefix="distil-ray-scale-") as folder:
        root = Path(folder)
        inputs = [_write_input(layout, shape, root / "bucket" / str(number)) for number, shape in enumerate(shapes)]
        bucket = f"scale-{uuid4().hex}"  # moto keeps the buckets of a process
        with serve_bucket(bucket, root / "bucket") as endpoint:
            proxy = CountingProxy(endpoint.url, name_request)
            with proxy.serving() as url:
                configs = [
                    _write_config(shape, part_s, f"s3://{bucket}/{number}", path, url, root / f"{number}.yaml")
                    for number, (shape, path) in enumerate(zip(shapes, inputs, strict=True))
                ]
                first, again = (run_configs(configs, endpoint.environment, proxy) for _ in range(2))
    return solve(layout, shapes, first, again)


def name_request(request: Request, key: str) -> str:
    """Returns ``number of the run/purpose`` of a request, by its key and its range."""
    number, _, path = key.partition("/")[2].partition("/")
    place, _, rest = path.partition("/")
    if place == "input":
        is_header = kind_of(request) is Kind.RANGED_GET and _range_size(request) == HEAD_BYTES
        is_header = is_header and not path.endswith(".parquet")  # whose footer is as large
        return f"{number}/{HEADERS if is_header else 'listing' if request.is_listing else 'input'}"
    folder = rest.split("/")[2:3] if rest.startswith("runs/") and rest.count("/") > 2 else [rest.split("/")[0]]
    known = {"plan", "parts", "indexes", TRANSCRIPTS}
    return f"{number}/{folder[0] if folder and folder[0] in known else 'run files'}"


def _range_size(request: Request) -> int:
    begin, _, end = (request.header("Range") or "").removeprefix("bytes=").partition("-")
    return int(end) - int(begin) + 1 if begin and end else 0


def solve(
    layout: str,
    shapes: Sequence[Shape],
    first: Mapping[str, Traffic],
    again: Mapping[str, Traffic],
) -> LayoutCost:
    """Returns the requests per unit from the traffic of runs by ``number/purpose``; `again`: of their reruns."""
    rows, units = np.array([shape.row(layout) for shape in shapes], float), layout_units(layout)
    totals = [_by_kind(first, number, without=HEADERS) for number in range(len(shapes))]
    shares = {kind: np.linalg.solve(rows, [float(total[kind]) for total in totals]) for kind in Kind}
    requests = {
        unit: {kind.value: round(float(share[i]), 3) + 0.0 for kind, share in shares.items() if abs(share[i]) > 1e-6}
        for i, unit in enumerate(units)
    }
    reads = [float(first.get(f"{number}/input", Traffic()).requests.total()) for number in range(len(shapes))]
    input_reads = dict(zip(units, np.linalg.solve(rows, reads).round(3).tolist(), strict=True))
    reruns = [_by_kind(again, number) for number in range(len(shapes))]
    few, many = reruns[0], reruns[3]  # the same recordings in more blocks
    existing = {
        kind.value: (many[kind] - few[kind]) / (shapes[3].blocks - shapes[0].blocks)
        for kind in Kind
        if many[kind] != few[kind]
    }
    headers = first.get(f"0/{HEADERS}", Traffic()).requests.total() / shapes[0].recordings
    moved = [sum(each.bytes_read + each.bytes_written for each in _of_run(first, number)) for number in range(2)]
    per_recording = (moved[1] - moved[0]) / (shapes[1].recordings - shapes[0].recordings)
    counted = [
        {
            "shape": asdict(shape),
            "requests": {kind.value: count for kind, count in _by_kind(first, number).items()},
            "purposes": {
                name.partition("/")[2]: {kind.value: count for kind, count in each.requests.items()}
                for name, each in sorted(first.items())
                if name.startswith(f"{number}/")
            },
        }
        for number, shape in enumerate(shapes)
    ]
    return LayoutCost(layout, requests, input_reads, headers, existing, per_recording - _audio_bytes(), counted)


def _audio_bytes() -> int:
    return round(RECORDING_S * 32_000) + 44  # 16-bit samples and the header of a WAV


def _of_run(traffic: Mapping[str, Traffic], number: int) -> list[Traffic]:
    return [each for name, each in traffic.items() if name.startswith(f"{number}/")]


def _by_kind(traffic: Mapping[str, Traffic], number: int, without: str = "") -> Counter[Kind]:
    chosen = (each for name, each in traffic.items() if name.startswith(f"{number}/") and name != f"{number}/{without}")
    return sum((each.requests for each in chosen), Counter[Kind]())


def predict_requests(cost: LayoutCost, settings: ScaleSettings) -> dict[str, float]:
    """Returns the requests by kind of one run over `settings.hours` of audio."""
    counts = _count_units(settings)
    recordings, blocks = counts["recording"], counts["block"]
    total = Counter[str]()
    for unit, shares in cost.requests.items():
        for kind, share in shares.items():
            total[kind] += share * counts[unit]  # type: ignore[assignment]
    total[Kind.RANGED_GET.value] += min(cost.headers_per_recording * recordings, MAX_REMOTE_READS)  # type: ignore[assignment]
    files = counts["shard"] if cost.layout in SHARDED else recordings
    total[Kind.LIST.value] += files / 1000 + 3 * blocks / 1000  # type: ignore[assignment]
    return {kind.value: max(float(total[kind.value]), 0.0) for kind in Kind}


def _count_units(settings: ScaleSettings) -> dict[str, float]:
    """Returns how many of each of `UNITS` a run over the corpus of the settings has."""
    recordings = settings.hours * 3600 / settings.recording_s
    blocks = settings.hours * 3600 / settings.block_s
    more_parts = max(settings.block_s / settings.part_s, 1.0) - 1.0  # of a block, beyond the first
    shards = recordings / settings.shard_recordings
    groups = recordings / settings.group_recordings
    return dict(zip(UNITS, (1.0, recordings, groups, blocks, blocks * more_parts, shards), strict=True))


def price(requests: Mapping[str, float], settings: ScaleSettings) -> float:
    """Returns the dollars of requests by kind."""
    writes = sum(requests[kind] for kind in (Kind.PUT, Kind.CONDITIONAL_PUT, Kind.LIST))
    reads = sum(requests[kind] for kind in (Kind.GET, Kind.RANGED_GET, Kind.HEAD))
    return (writes * settings.write_price + reads * settings.read_price) / 1000


def _write_input(layout: str, shape: Shape, folder: Path) -> str:
    return write_input(layout, shape.recordings, shape.shards, RECORDING_S, folder / "input", ROWS_A_GROUP)


def _write_config(shape: Shape, part_s: float, root_uri: str, path: str, url: str, config: Path) -> Path:
    overrides = [
        f"input.uri={root_uri}/input/{path}",
        f"output.uri={root_uri}/output",
        f"storage.endpoint_url={url}",
        "run_id=run",
        f"model.name={MODEL}",
        "decoding.language=en",
        f"plan.task_recordings={shape.recordings // shape.blocks}",
        f"plan.part_audio_s={part_s}",
        "report.write=false",  # the page reads some blocks for examples, which few blocks could not tell from all
    ]
    config.write_text(dump_config(load_config(None, overrides)), encoding="utf-8")
    return config


def requests_table(costs: Sequence[LayoutCost]) -> Table:
    """Returns the requests per unit, one row per layout and unit."""
    grid = Table(title="Requests")
    grid.add_column("layout")
    grid.add_column("per")
    for kind in Kind:
        grid.add_column(kind.value, justify="right")
    for cost in costs:
        rows = {**cost.requests, "block of an earlier run": cost.existing}
        if cost.headers_per_recording:
            rows[f"recording, at most {MAX_REMOTE_READS} a run"] = {Kind.RANGED_GET: cost.headers_per_recording}
        for unit, shares in rows.items():
            grid.add_row(cost.layout, unit, *(_number(shares.get(kind, 0)) for kind in Kind))
    return grid


def corpus_table(costs: Sequence[LayoutCost], settings: ScaleSettings) -> Table:
    """Returns what one run over the corpus of the settings needs, one row per layout."""
    recordings = settings.hours * 3600 / settings.recording_s
    grid = Table(
        title=f"One run over {settings.hours:,.0f} hours in {recordings:,.0f} recordings of {settings.recording_s:g} s"
        f" and {settings.hours * 3600 / settings.block_s:,.0f} blocks (computed)"
    )
    grid.add_column("layout")
    for heading in (
        *("requests", "per recording", "reads of the input per recording", "writes and listings"),
        *("dollars", "dollars per 1,000 hours", "bytes per recording besides audio"),
    ):
        grid.add_column(heading, justify="right")
    for cost in costs:
        requests = predict_requests(cost, settings)
        total, dollars = sum(requests.values()), price(requests, settings)
        written = sum(requests[kind] for kind in (Kind.PUT, Kind.CONDITIONAL_PUT, Kind.LIST))
        counts = _count_units(settings)
        reads = sum(count * counts[unit] for unit, count in cost.input_reads.items()) / recordings
        grid.add_row(
            *(cost.layout, f"{total:,.0f}", f"{total / recordings:.3f}", f"{reads:.3f}", f"{written:,.0f}"),
            *(f"{dollars:,.2f}", f"{dollars * 1000 / settings.hours:.4f}", f"{cost.overhead_bytes:,.0f}"),
        )
    return grid


def ledger_table(ledgers: Sequence[LedgerCost], settings: ScaleSettings) -> Table:
    """Returns the cost of reading ledgers, one row per size."""
    grid = Table(title=f"Ledger of {settings.block_rows} rows a block, {settings.latency_s * 1000:g} ms a request")
    for heading in ("blocks", "index", "rows", "requests", "wall s", "CPU s", "peak MiB", "bytes per row", "MiB read"):
        grid.add_column(heading, justify="right")
    for each in ledgers:
        grid.add_row(
            *(f"{each.blocks:,}", "yes" if each.indexed else "no", f"{each.rows:,}", f"{each.requests:,}"),
            *(
                f"{each.wall_s:.1f}",
                f"{each.cpu_s:.1f}",
                f"{each.peak_mib:.0f}",
                f"{each.bytes_per_row:.0f}",
                f"{each.read_mib:.1f}",
            ),
        )
    return grid


def _number(value: float) -> str:
    return "" if not value else f"{value:.3f}".rstrip("0").rstrip(".")


def _write(
    report: Path,
    settings: ScaleSettings,
    facts: dict[str, Any],
    costs: Sequence[LayoutCost],
    results: Mapping[str, Sequence[Any]],
    tables: Sequence[Table],
) -> None:
    content = {
        "machine": facts,
        "settings": asdict(settings),
        "layouts": [asdict(cost) | {"corpus": predict_requests(cost, settings)} for cost in costs],
        **{part: [asdict(each) for each in found] for part, found in results.items()},
    }
    report.mkdir(parents=True, exist_ok=True)
    (report / "scale.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    parts = [f"# Scale\n\n{machine.format_machine(facts)}\n", *map(_markdown, tables)]
    (report / "scale.md").write_text("\n".join(parts), encoding="utf-8")


def _markdown(table: Table) -> str:
    """Returns a table as Markdown."""
    headings = [str(column.header) for column in table.columns]
    cells = zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
    rows = [headings, ["---"] * len(headings), *cells]
    return f"## {table.title}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
