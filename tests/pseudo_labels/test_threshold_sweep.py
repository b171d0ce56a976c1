"""The threshold sweep: hours kept, precision and recall of each filter."""

import csv
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from distil_ray.config import LabelFiltersConfig
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.pseudo_labels.threshold_sweep import (
    METRIC_COLUMNS,
    UtteranceMetrics,
    draw_sweep,
    evaluate_thresholds,
    sweep_thresholds,
)
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.pseudo_labels.conftest import Set


def _measured(**columns: list[float]) -> UtteranceMetrics:
    size = len(next(iter(columns.values())))
    nothing = {name: [float("nan")] * size for name in METRIC_COLUMNS}
    return UtteranceMetrics(
        {name: np.array(cells, np.float64) for name, cells in (nothing | columns).items()}, frozenset()
    )


def test_precision_and_recall_count_labels_with_a_reference() -> None:
    nan = float("nan")
    measured = _measured(
        duration_s=[3600.0] * 5,
        wer=[0.0, 0.5, 0.5, 0.0, nan],
        edits=[0, 5, 5, 0, nan],
        num_ref_words=[10, 10, 10, 10, nan],
        avg_logprob=[-0.1, -0.9, -0.2, -0.9, -0.9],
    )

    points = {
        (p.filter, p.threshold): p for p in evaluate_thresholds(measured, LabelFiltersConfig(min_avg_logprob=-0.5))
    }

    point = points["min_avg_logprob", -0.5]
    assert point.is_configured
    assert (point.num_rejected, point.hours_kept, point.hours_share) == (3, 2.0, 0.4)
    assert (point.precision, point.recall) == (0.5, 0.5)
    assert point.wer_kept == 5 / 20
    assert points["max_wer", 0.5 if ("max_wer", 0.5) in points else 0.6].num_rejected == 0
    assert points["max_wer", 0.1].wer_kept == 0
    assert not any(name == "min_acceptance_rate" for name, _ in points)


def test_untranscribed_speech_is_evaluated_as_a_filter() -> None:
    measured = _measured(
        duration_s=[3600.0] * 4, wer=[0.0, 0.4, 0.0, 0.3], edits=[0, 4, 0, 3], num_ref_words=[10] * 4,
        unheard_s=[0.0, 4.2, 0.3, 0.8],
    )  # fmt: skip

    points = [point for point in evaluate_thresholds(measured, LabelFiltersConfig()) if point.filter == "max_unheard_s"]

    (point,) = (point for point in points if point.is_configured)
    assert (point.threshold, point.num_rejected, point.precision, point.recall) == (1.0, 1, 1.0, 0.5)
    assert {point.threshold: point.num_rejected for point in points}[0.5] == 2


def test_a_filter_that_keeps_nothing_is_drawn() -> None:
    measured = _measured(
        duration_s=[3600.0] * 2, wer=[1.0, 1.2], edits=[5, 6], num_ref_words=[5, 5], avg_logprob=[-0.1] * 2
    )

    points = list(evaluate_thresholds(measured, LabelFiltersConfig()))
    drawing = draw_sweep(points)

    assert {point.hours_kept for point in points if point.filter == "max_wer"} == {0.0}
    assert "max_wer" in drawing and drawing.count("2 h") == len({point.filter for point in points})


def test_a_sweep_writes_a_table_and_a_plot_but_no_data_set(labels: Set) -> None:
    labels.transcribe(*range(4))
    labels.transcribe(4, 5, task=1, text=" Quite wrong all of it", avg_logprob=-2.0)
    console = Console(file=io.StringIO(), width=80)

    code = sweep_thresholds(load_config(None, [f"output.uri={labels.output}", *labels.words]), console)

    assert code == ExitCode.DONE
    read = Storage().read
    rows = list(csv.DictReader(io.StringIO(read(join(labels.dataset, "sweep.csv")).decode())))
    configured = next(row for row in rows if row["filter"] == "max_wer" and row["is_configured"] == "True")
    assert (configured["num_rejected"], configured["wer_kept"]) == ("2", "0.0")
    assert ElementTree.fromstring(read(join(labels.dataset, "sweep.svg"))).tag.endswith("svg")
    assert "max_wer" in console.file.getvalue()  # type: ignore[attr-defined]
    assert labels.files("data") == {}


def test_a_sweep_of_an_output_without_text_is_an_error(labels: Set) -> None:
    labels.transcribe(0, status="failed", chunks=[])

    with pytest.raises(SettingsError, match="none of its transcripts has text"):
        sweep_thresholds(load_config(None, [f"output.uri={labels.output}", *labels.words]), Console(file=io.StringIO()))
