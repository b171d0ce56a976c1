"""Wrong command lines: each ends with exit code 2 and a line that names the setting, what was found, and the remedy.

In process and before anything is started: no Ray, no model, no store. What needs these is in tests/end_to_end.
"""

import json
import os
import shlex
from pathlib import Path

import pytest

from distil_ray.cli import command, command_line
from distil_ray.commands.main import main
from distil_ray.errors import ExitCode

IO = "input.uri=a.wav output.uri=out"

# The command line after `distil-ray`, and texts that the message contains, in this order, with " … " between them.
WRONG = [
    # the command
    ("trancribe a.wav", "trancribe: no such command. Did you mean distil-ray transcribe?"),
    ("pseudo_labels", "Did you mean distil-ray pseudo-label?"),
    ("render", "render: no such command. Commands: transcribe, export"),
    ("a.wav -o out", "a.wav: the command comes first, such as distil-ray transcribe a.wav -o out"),
    ("input.uri=a.wav", "the command comes first, such as distil-ray transcribe input.uri=a.wav"),
    ("--config cpu", "--config: the command comes first"),
    # flags
    (f"transcribe {IO} --plann", "--plann: no such option. Did you mean --plan?"),
    (f"transcribe {IO} --log-format xml", "invalid choice: 'xml' (choose from 'text', 'json')"),
    ("transcribe --input.uri a.wav -o out", "--input.uri: settings are written without dashes: input.uri=a.wav"),
    ("transcribe --input.uri=a.wav -o out", "settings are written without dashes: input.uri=a.wav"),
    ("transcribe a.wav --output.uri", "settings are written without dashes: output.uri=VALUE"),
    ("transcribe a.wav -o out --batch-size 8", "--batch-size: no such option … setting decoding.batch_size=8?"),
    ("transcribe a.wav -o out --model.nmae x", "Did you mean the setting model.name=x?"),
    ("transcribe a.wav -o out --lenguage en", "--lenguage: no such option. Did you mean --language?"),
    ("transcribe a.wav -o out --quiet-please", "--quiet-please: no such option; --help lists the options"),
    ("transcribe a.wav -o", "argument -o/--output: expected one argument"),
    ("transcribe a.wav -o out --recheck 3", "--recheck: no such option"),
    ("export out --format srt", "--format: settings are written without dashes: format=srt"),
    ("verify output.uri=out --plan", "--plan: is for --recheck"),
    # words that are neither settings nor paths
    ("transcribe b.wav -o out", "'b.wav': no such file or folder, and not a setting. Settings are written key=value"),
    ("transcribe a.wav -o out decoding.language", "decoding.language: a setting needs a value"),
    ("transcribe a.wav -o out decoding.langage", "not a setting … Did you mean decoding.language=VALUE?"),
    ("transcribe a.wav -o out =en", "'=en': is neither a setting nor a file. Write key=value"),
    ("transcribe a.wav input.uri=c -o out", "input.uri: given twice … Leave one of them out"),
    ("transcribe a.wav -o out output.uri=out2", "output.uri: given twice"),
    ("transcribe a.wav -o out -m x model.name=y", "model.name: given twice"),
    ("demo a.wav", "a.wav: 'demo' takes no path without a key. Write input.uri=a.wav or output.uri=a.wav"),
    ("verify a.wav folder", "folder: 'verify' takes 1 path (output.uri), found 2"),
    ("compare a.wav folder b.csv", "b.csv: 'compare' takes 2 paths (a, b), found 3"),
    ("compare a.wav a=folder b=folder", "a: given twice"),
    ("verify nowhere", "'nowhere': no such file or folder"),
    # locations
    ("transcribe -o out", "input.uri is not set. Set it in the config, or as input.uri="),
    ("transcribe a.wav", "output.uri is not set. Set it in the config, or as output.uri="),
    ("transcribe a.wav -o https://host/out", "output.uri=https://host/out: web servers are read-only. Use a folder or"),
    ("transcribe s3:// -o out", "input.uri=s3://: the bucket or folder is missing. Use s3://name/folder"),
    ("transcribe a.wav -o s3://", "output.uri=s3://: the bucket or folder is missing"),
    ("transcribe input.uri= -o out", "input.uri: must be list of str; found None"),
    ("transcribe 'input.uri=[\"\"]' -o out", "input.uri: … empty"),
    ("nightly a.wav", "output.uri is not set"),
    ("pseudo-label a.wav", "output.uri is not set"),
    ("verify", "output.uri is not set. Name the output"),
    ("report", "output.uri is not set"),
    ("outcome", "output.uri is not set"),
    ("outcome folder", "output.uri= … contains no run"),
    ("report folder run_id=x", "run_id=x: no such run in … no runs"),
    ("train-assistant folder", "assistant.uri is not set"),
    # keys and values
    (f"transcribe {IO} decoding.lenguage=en", "decoding.lenguage: unknown setting. Did you mean decoding.language?"),
    (f"transcribe {IO} lenght_s=15", "lenght_s: unknown setting. Did you mean chunking.length_s?"),
    (f"transcribe {IO} qqqq=1", "qqqq: unknown setting. --help-all lists every setting"),
    (f"transcribe {IO} model=large", "model: is a section with settings such as model.name; found 'large'"),
    (f"transcribe {IO} model.name.first=x", "model.name.first: 'model.name' is a setting, not a section"),
    (f"transcribe {IO} decoding.batch_size=many", "decoding.batch_size: must be auto | int; found 'many'"),
    (f"transcribe {IO} decoding.batch_size=0", "decoding.batch_size: must be at least 1, or auto; found 0"),
    (f"transcribe {IO} max_failed_fraction=2", "max_failed_fraction: must be less than or equal to 1; found 2"),
    (f"transcribe {IO} resources.object_store_mb=10", "must be greater than or equal to 80; found 10"),
    (f"transcribe {IO} output.partition=tonight", "output.partition: must be date | null; found 'tonight'"),
    (f"transcribe {IO} run_id=a/b", "run_id: must be at most 100 letters, digits, dots, dashes and underscores"),
    (f"transcribe {IO} decoding.task=sing", "decoding.task: must be transcribe | translate; found 'sing'"),
    (f"transcribe {IO} 'chunking.length_s=[1'", "chunking.length_s=[1: the value is not valid YAML"),
    (f"transcribe {IO} input.format=kaldy", "input.format: … Did you mean kaldi? Known: auto"),
    (f"transcribe {IO} chunking.strategy=quite", "chunking.strategy: … Did you mean quiet? Known: "),
    (f"transcribe {IO} model.recognizer=nativ", "model.recognizer: … Did you mean native? Known: "),
    (f"transcribe {IO} storage.endpoint_url=localhost", "must begin with http:// or https://; found 'localhost'"),
    # settings that contradict each other
    (f"transcribe {IO} model.device=cuda", "model.device=cuda needs resources.gpus_per_actor >= 1"),
    (f"transcribe {IO} model.attention=flash_attention_2", "needs a GPU … Set it to sdpa on a CPU"),
    (f"transcribe {IO} model.dtype=int8 resources.gpus_per_actor=1", "model.dtype=int8 is supported on CPUs only"),
    (f"transcribe {IO} decoding.speculative=on", "decoding.speculative=on needs a draft model"),
    (
        f"transcribe {IO} -m openai/whisper-tiny.en -l de",
        "decoding.language=de … English only. Set the language",
    ),
    (
        f"transcribe {IO} chunking.length_s=45",
        "between 1 and 30 seconds … chunking.strategy=quiet, or auto; found 45",
    ),
    # the config
    (
        "transcribe --config gpuu",
        "no such file, and no shipped config (cpu, demo, gpu … Did you mean --config gpu?",
    ),
    ("transcribe --config none.yaml", "--config none.yaml: no such file, and no shipped config"),
    ("transcribe --config folder", "--config folder: is a folder. Name a YAML file, or a shipped config: cpu"),
    ("transcribe --config bad.yaml", "--config bad.yaml: is not valid YAML"),
    ("transcribe --config words.txt", "--config words.txt: the top level must be sections"),
    ("transcribe --config noise.bin", "--config noise.bin: is not a UTF-8 text file"),
    ("transcribe --config twice.yaml", "--config twice.yaml: model.name is set twice, on lines 2 and 3"),
    ("demo lenguage=en", "lenguage: unknown setting"),
    ("demo --config none.yaml", "--config none.yaml: no such file"),
    # options of single commands
    ("nightly a.wav -o out --redo yesterday", "argument --redo: yesterday: must be a date such as 2026-11-20"),
    ("nightly a.wav -o out --as-of 2131-01-01", "--as-of 2131-01-01: is in the future"),
    ("nightly a.wav -o out --as-of 2026-01-01 --redo 2026-01-01", "only one of them can be given"),
    ("nightly a.wav -o out --date 2026-01-01", "--date: no such option"),
    ("nightly a.wav -o out nightly.timezone=Berlin", "such as UTC or Europe/Berlin (similar: Europe/Berlin)"),
    ("nightly a.wav -o out nightly.timezone=Europe", "must be an IANA time zone such as UTC or Europe/Berlin"),
    ("nightly a.wav -o out output.partition=2026-01-01", "output.partition=2026-01-01: a nightly run sets this"),
    ("nightly a.wav -o out nightly.keep_runs=3", "must be more than nightly.history_runs=14"),
    ("nightly a.wav -o out nightly.webhook_url=hook", "must be https:// or http://"),
    ("verify folder --recheck many", "--recheck many: must be a share such as 0.01"),
    ("verify folder --max-differing x", "argument --max-differing: invalid float value: 'x'"),
    ("export folder", "format=… and to=… must be given"),
    ("export folder format=srt", "to=… must be given"),
    ("export folder format=doc to=to", "format=doc: … srt"),
    ("export folder format=txt to=to where=wer", "where=wer: must be column:value"),
    ("export folder format=txt to=to overwrite=yes", "overwrite=yes: must be true or false"),
    ("export folder format=txt to=to status=failed", "status=failed: must be among"),
    ("report folder history=perhaps", "history=perhaps: must be true or false"),
    ("compare a=folder", "b=… must be given"),
    ("convert folder", "'convert' takes no path without a key"),
    ("convert -m folder", "format=… must be given"),
    ("create-student", "the following arguments are required: teacher, folder"),
    ("create-student packaged:whisper-tiny.en folder --layers two", "argument --layers: invalid int value: 'two'"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the command lines name."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.wav").touch()
    (tmp_path / "b.csv").touch()
    (tmp_path / "bad.yaml").write_text("a: [")
    (tmp_path / "words.txt").write_text("just words")
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)))
    (tmp_path / "twice.yaml").write_text("model:\n  name: a\n  name: b\n")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("RAY_", "AWS_", "DISTIL_RAY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(command_line, "handle_signals", lambda: None)  # signals stay pytest's
    monkeypatch.setattr(command, "set_up_logging", lambda _: None)
    return tmp_path


def _run(words: str) -> int:
    try:
        return main(shlex.split(words))
    except SystemExit as ended:
        return int(ended.code or 0)


def test_there_are_fifty_rows_and_each_is_its_own() -> None:
    assert len({words for words, _ in WRONG}) == len(WRONG) >= 50


@pytest.mark.parametrize(("words", "expected"), WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_command_line_is_answered_with_the_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, expected: str
) -> None:
    code = _run(words)
    message = capsys.readouterr().err

    at = 0
    for text in expected.split(" … "):
        assert text in message[at:], f"{text!r} is not in {message[at:]!r}"
        at = message.index(text, at) + len(text)
    assert code == ExitCode.BAD_SETTINGS
    assert all(line.startswith("error: ") for line in message.splitlines())
    assert len(message.splitlines()) == 1
    assert {path.name for path in folder.iterdir()} == {
        *("folder", "a.wav", "b.csv", "bad.yaml", "words.txt", "noise.bin", "twice.yaml")
    }  # nothing was written


def test_without_a_command_the_list_of_commands_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ExitCode.BAD_SETTINGS
    assert "usage: distil-ray COMMAND" in capsys.readouterr().err


def test_the_answer_is_json_where_output_is_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("transcribe b.wav -o out --log-format json") == ExitCode.BAD_SETTINGS
    line = json.loads(capsys.readouterr().err)

    assert (line["event"], line["exit_code"]) == ("error", 2)
    assert line["text"].startswith("'b.wav': no such file")
