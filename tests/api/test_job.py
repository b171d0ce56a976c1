"""`dr.run` returns what the job has found, and raises what the job reports as an error."""

from pathlib import Path

import pytest

import distil_ray as dr
from distil_ray.errors import ExitCode
from tests.api.conftest import RECORDINGS


def test_the_result_has_the_figures_of_the_summary(job: dr.RunResult) -> None:
    assert job.exit_code == ExitCode.DONE
    assert (job.num_recordings, job.num_failed) == (len(RECORDINGS), job.summary["num_failed"])
    assert job.wer == job.summary["wer"]
    assert Path(job.folder_uri, "report.html").exists()
    assert len(job.transcripts()) == len(RECORDINGS)
    assert f"{len(RECORDINGS)} recordings, {job.num_failed} failed, WER" in repr(job)


def test_settings_that_cannot_work_are_exceptions(tmp_path: Path) -> None:
    with pytest.raises(dr.SettingsError, match=r"output\.uri is not set"):
        dr.run(overrides={"input.uri": str(tmp_path)})
    with pytest.raises(dr.InputError, match="none of them audio"):
        overrides = {"input.uri": str(tmp_path), "output.uri": str(tmp_path / "out")}
        (tmp_path / "notes.json").touch()
        dr.run(overrides=overrides | {"model.name": "packaged:whisper-tiny.en"}, progress=False)
