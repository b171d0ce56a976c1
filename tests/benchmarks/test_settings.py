"""What the benchmarks can be told, and which engines a name stands for."""

import pytest

from benchmarks.comparison.catalog import BY_NAME, ENGINES, NATIVE, OWN, REQUIREMENTS, Engine, select
from benchmarks.comparison.interleave import ROOT
from benchmarks.settings import EnginesSettings, ModelsSettings, PipelineSettings
from distil_ray.cli.options import parse_options
from distil_ray.errors import SettingsError


def test_words_become_settings_of_their_kind() -> None:
    settings = parse_options(EnginesSettings, ["engines=native,hf", "threads=2", "install=false", "long_s=90"])

    assert settings.engines == ("native", "hf")
    assert (settings.threads, settings.install, settings.long_s) == (2, False, 90.0)
    assert settings.rounds == EnginesSettings().rounds


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("hour=2", "did you mean hours"),
        ("hours=soon", "must be a number"),
        ("hours=-1", "must be greater than 0"),
        ("hours", "hours"),
    ],
)
def test_a_wrong_word_is_named_with_what_would_do(word: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        parse_options(PipelineSettings, [word])


def test_two_checkpoints_must_be_given() -> None:
    with pytest.raises(SettingsError, match="student=… must be given"):
        parse_options(ModelsSettings, ["main=packaged:whisper-base"])


def test_names_and_groups_are_taken_once_in_their_order() -> None:
    names = [engine.name for engine in select(["fw-int8", "native", "fw-int8", "gated"])]

    assert names[0] == "fw-int8"
    assert len(names) == len(set(names))
    assert {BY_NAME[name].program for name in names[1:]} == {NATIVE}


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(SettingsError, match=r"engines=kaldi: .* groups: all, native"):
        select(["kaldi"])


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_engine_has_a_worker_and_an_environment(engine: Engine) -> None:
    assert (ROOT / "benchmarks" / "engines" / f"{engine.program.worker}.py").is_file()
    assert engine.program.environment in {OWN, *REQUIREMENTS}
