"""`--plan` of every command that has it: what would be done is printed, and nothing is written."""

from pathlib import Path

import pytest

from distil_ray.commands.main import main
from distil_ray.errors import ExitCode
from tests.support.transcripts import transcript_row, write_transcripts


@pytest.mark.parametrize("command", ["transcribe", "nightly", "pseudo-label"])
def test_the_work_of_a_run_is_printed_and_nothing_is_written(
    command: str, clips: Path, whisper_tiny_en: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"input.uri={clips / 'cards-001.flac'}", f"output.uri={tmp_path / 'out'}", f"model.name={whisper_tiny_en}"]
    words += ["plan.rtfx=10", "labels.packing=none", "labels.validation_share=0"]

    code = main([command, "--plan", *words])

    printed = capsys.readouterr().out
    assert code == ExitCode.DONE
    assert "1 to process" in printed and "in 1 task" in printed and "at plan.rtfx=10" in printed
    assert not (tmp_path / "out").exists()


def test_the_selection_of_an_export_is_printed_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [transcript_row("a", text="One."), transcript_row("b", text=None, status="failed", error_kind="not_audio")]
    write_transcripts(f"{tmp_path}/out", rows)

    code = main(["export", f"{tmp_path}/out", "format=srt", f"to={tmp_path}/srt", "--plan"])

    printed = capsys.readouterr().out
    assert code == ExitCode.DONE
    assert "to export      1 recordings" in printed and "status failed 1" in printed
    assert not (tmp_path / "srt").exists()


def test_the_plan_of_a_redo_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"input.uri={tmp_path}", f"output.uri={tmp_path / 'out'}"]

    assert main(["nightly", "--plan", "--redo", "2020-01-01", *words]) == ExitCode.BAD_SETTINGS
    assert "--plan --redo 2020-01-01" in capsys.readouterr().err
