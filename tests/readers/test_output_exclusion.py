"""An output that lies in its input is left out of the listing, and the files that were left out are counted."""

from collections import Counter
from pathlib import Path

import pytest

from distil_ray.config import InputConfig
from distil_ray.evaluation import statistics_index
from distil_ray.output import ledger_index
from distil_ray.output.forgotten import FORGOTTEN_FOLDER
from distil_ray.output.lease import LEASE
from distil_ray.output.ledger import TRANSCRIPTS
from distil_ray.output.run_context import RUNS_FOLDER
from distil_ray.pseudo_labels.dataset_schema import DATA, DATASET, PLAN, REJECTED_FOLDER
from distil_ray.readers.index_cache import INDEX_FOLDER, IndexCache
from distil_ray.readers.listing import list_recordings
from distil_ray.readers.output_exclusion import IGNORED_AS, OUTPUT_NAMES
from distil_ray.storage.storage import Storage


def _write(root: str, names: list[str]) -> None:
    for name in names:
        Storage().put(f"{root}/{name}", b"RIFF")


def _list(input_uri: str, output_uri: str) -> tuple[list[str], Counter[str]]:
    listing = list_recordings(InputConfig(uri=(input_uri,)), Storage(), IndexCache(output_uri, Storage()))
    return sorted(recording.recording_id for recording in listing), listing.ignored.counts


@pytest.mark.parametrize("place", ["local", "s3"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_an_output_in_a_folder_of_the_input_is_left_out(
    place: str, slash: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if place == "local" else request.getfixturevalue("bucket")
    _write(root, ["a.wav", "b/c.wav", "text/runs/1/clip.wav", "text/notes.md", "texts/d.wav"])

    names, ignored = _list(f"{root}{slash}", f"{root}/text{slash}")

    assert names == ["a.wav", "b/c.wav", "texts/d.wav"]
    assert ignored == {IGNORED_AS: 2}
    assert _list(f"{root}/**/*.wav", f"{root}/text{slash}")[0] == ["a.wav", "b/c.wav", "texts/d.wav"]


def test_an_output_that_is_the_input_leaves_out_only_what_runs_write(tmp_path: Path) -> None:
    written = [f"{name}/x.wav" for name in OUTPUT_NAMES if name != LEASE]
    _write(str(tmp_path), ["a.wav", "dataset/c.wav", "talks/b.wav", *written, LEASE])

    names, ignored = _list(str(tmp_path), f"{tmp_path}/")

    assert names == ["a.wav", "dataset/c.wav", "talks/b.wav"]
    assert ignored == {IGNORED_AS: len(OUTPUT_NAMES)}
    assert _list(f"{tmp_path}/talks", str(tmp_path))[0] == ["b.wav"]


def test_a_symbolic_link_to_the_output_is_seen_through(tmp_path: Path) -> None:
    _write(str(tmp_path), ["in/a.wav", "out/runs/1/clip.wav"])
    (tmp_path / "in" / "text").symlink_to(tmp_path / "out")

    names, ignored = _list(f"{tmp_path}/in", f"{tmp_path}/out")

    assert names == ["a.wav"]
    assert ignored == {IGNORED_AS: 1}


def test_what_runs_write_is_what_is_left_out() -> None:
    folders = {TRANSCRIPTS, RUNS_FOLDER, INDEX_FOLDER, FORGOTTEN_FOLDER, ledger_index.INDEX.folder}
    folders |= {statistics_index.INDEX.folder, f"{DATASET}/{DATA}", f"{DATASET}/{REJECTED_FOLDER}", "/".join(PLAN)}
    assert folders | {LEASE} == set(OUTPUT_NAMES)
