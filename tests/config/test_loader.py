"""Loading of configs: overrides, errors with key, value, reason and nearest valid key, and the round trip to YAML."""

from pathlib import Path

import pytest

from distil_ray.config import Config
from distil_ray.config.loader import describe_settings, dump_config, load_config, require_locations
from distil_ray.errors import SettingsError
from distil_ray.output.run_context import resolve_window


def test_overrides_are_yaml_and_replace_values_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("decoding: {language: de, batch_size: 4}\ninput: {uri: s3://a/b}\n")
    config = load_config(file, ["decoding.language=fr", "input.uri=[s3://c, /d]", "model.revision=null"])
    assert config.decoding.language == "fr"
    assert config.decoding.batch_size == 4
    assert config.input.uri == ("s3://c", "/d")
    assert config.model.revision is None


def test_a_command_line_has_no_comments() -> None:
    config = load_config(None, ["output.uri=/data/out #2", "decoding.prompt='Call #12 about it'", "model.name=a #b"])
    assert (config.output.uri, config.decoding.prompt, config.model.name) == (
        "/data/out #2",
        "Call #12 about it",
        "a #b",
    )
    assert load_config(None, ["plan.task_audio_s=1200 # seconds"]).plan.task_audio_s == 1200


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("run_id", "20261122"),
        ("run_id", "2026-11-22"),
        ("output.uri", "2024"),
        ("decoding.prompt", "Speakers: Anna, Bob"),
        ("decoding.prompt", "Note: at 12:30: lunch"),
        ("decoding.prompt", "#1 topic"),
        ("decoding.prompt", "@anna"),
        ("decoding.prompt", "yes"),
    ],
)
def test_a_setting_that_is_text_is_taken_as_it_is_written(key: str, text: str) -> None:
    section, _, name = key.rpartition(".")
    config = load_config(None, [f"{key}={text}"])
    assert getattr(getattr(config, section) if section else config, name) == text


def test_text_may_be_quoted_and_null() -> None:
    assert load_config(None, ["decoding.prompt='12'"]).decoding.prompt == "12"
    assert load_config(None, ["decoding.prompt=null"]).decoding.prompt is None
    with pytest.raises(SettingsError, match="must be str; found"):
        load_config(None, ["output.uri=[a, b]"])


def test_text_in_a_file_that_yaml_reads_as_a_date_is_an_error_that_says_so(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("run_id: 2026-11-22\ninput: {uri: [2024]}\n")
    with pytest.raises(SettingsError) as raised:
        load_config(file)
    assert str(raised.value).splitlines() == [
        "input.uri: must be list of str; found 2024. Write it in quotes.",
        "run_id: must be str | null; found 2026-11-22. Write it in quotes.",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("decoding.lenguage=en", "decoding.lenguage: unknown setting. Did you mean decoding.language?"),
        ("lenght_s=15", "lenght_s: unknown setting. Did you mean chunking.length_s?"),
        ("decoding.task=sing", "decoding.task: must be transcribe | translate; found 'sing'."),
        ("decoding.batch_size=0", "decoding.batch_size: must be at least 1, or auto; found 0."),
        (
            "decoding.suppress_tokens=[no]",
            "decoding.suppress_tokens: must be ids, texts or numerals. Write words such as 'no' and 'yes' in quotes;"
            " found [False].",
        ),
        ("resources.actors=yes", "resources.actors: must not be true or false; found True."),
        ("max_failed_fraction=true", "max_failed_fraction: must not be true or false; found True."),
        ("decoding.batch_size=many", "decoding.batch_size: must be auto | int; found 'many'."),
        ("output.partition=2026-13-22", "output.partition=2026-13-22: the value is not valid YAML (month must be in"),
        ("output.partition=tonight", "output.partition: must be date | null; found 'tonight'."),
        ("output.partition=20261122", "output.partition: must be date | null; found 20261122."),
        (
            "nightly.min_history_runs=15",
            "nightly.min_history_runs=15 can never be reached with nightly.history_runs=14",
        ),
        ("nightly.keep_runs=14", "nightly.keep_runs=14 must be more than nightly.history_runs=14"),
        ("plan.task_audio_s=-1", "plan.task_audio_s: must be greater than 0; found -1."),
        ("max_failed_fraction=2", "max_failed_fraction: must be less than or equal to 1; found 2."),
        ("model=large", "model: is a section with settings such as model.name; found 'large'."),
        ("model.name.first=x", "model.name.first: 'model.name' is a setting, not a section."),
        ("decoding.language", "'decoding.language' is not a setting. Write dotted.key=value"),
        ("input.uri=[a", "input.uri=[a: the value is not valid YAML"),
        ("decoding.no_speech_threshold=.nan", "decoding.no_speech_threshold: "),
        (
            "decoding.temperatures=[0.2, 0.4]",
            "decoding.temperatures: must start with 0.0 and increase to at most 1.0; found [0.2, 0.4].",
        ),
        (
            "decoding.temperatures=[0, 0.4, 0.4]",
            "decoding.temperatures: must start with 0.0 and increase to at most 1.0; found [0, 0.4, 0.4].",
        ),
    ],
)
def test_a_wrong_setting_names_key_value_and_reason(override: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {name: openai/whisper-tiny}\n")
    with pytest.raises(SettingsError) as caught:
        load_config(file, [override])
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("overrides", "window"),
    [
        ([], "gated"),
        (["model.attention=sdpa"], "gated"),
        (["model.attention=eager"], "full"),
        (["model.recognizer=transformers"], "full"),
        (["chunking.window=full"], "full"),
    ],
)
def test_short_windows_are_the_default_if_they_are_supported(overrides: list[str], window: str) -> None:
    assert resolve_window(load_config(None, overrides)) == window


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_bare_on_and_off_are_read_as_words_and_not_as_booleans(word: str) -> None:
    assert load_config(None, ["model.assistant=x", f"decoding.speculative={word}"]).decoding.speculative == word


@pytest.mark.parametrize(
    ("written", "code"),
    [
        *(("English", "en"), ("EN", "en"), ("nb-NO", "no"), ("no", "no"), ("cmn", "zh")),
        *(("und", "auto"), ("null", "auto"), ("xx", "xx")),
    ],
)
def test_a_language_may_be_a_code_tag_or_name_in_any_case(written: str, code: str) -> None:
    assert load_config(None, [f"decoding.language={written}"]).decoding.language == code
    assert load_config(None, ["model.name=x.en", "decoding.language=English (US)"]).decoding.language == "en"


def test_languages_are_codes_in_a_fixed_order() -> None:
    (one, other) = (load_config(None, [f"decoding.languages={x}"]) for x in ("[no, German, en, EN]", "[de, en, nb]"))
    assert one.decoding.languages == other.decoding.languages == ("de", "en", "no")


def test_one_error_reports_all_wrong_settings() -> None:
    with pytest.raises(SettingsError) as caught:
        load_config(None, ["decoding.task=sing", "model.nmae=x"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.device=cuda"], "model.device=cuda needs resources.gpus_per_actor"),
        (["model.device=cpu", "resources.gpus_per_actor=1"], "model.device=cpu conflicts with"),
        (["model.dtype=float16"], "needs a GPU"),
        (["model.dtype=int8", "resources.gpus_per_actor=1"], "model.dtype=int8 is supported on CPUs only"),
        (["model.dtype=int8", "model.attention=eager"], "model.dtype=int8 does not support model.attention=eager"),
        (["model.dtype=float8"], "model.dtype=float8 is for GPUs"),
        (["model.compile_encoder=true"], "model.compile_encoder=true is for GPUs"),
        (["model.encode_ahead=true"], "model.encode_ahead=true is for GPUs"),
        (["model.dtype=float8", "model.attention=eager", "resources.gpus_per_actor=1"], "float8 does not support mod"),
        (["model.name=openai/whisper-tiny.en", "decoding.language=de"], "supports English only"),
        (["model.name=openai/whisper-tiny.en", "decoding.task=translate"], "supports English only"),
        (["decoding.language=de", "decoding.languages=[de, en]"], r"decoding.languages=\['de', 'en'\] has no meaning"),
        (["decoding.language=de", "decoding.language_per=chunk"], "decoding.language_per=chunk has no meaning"),
        (["decoding.languages=[en, auto]"], "decoding.languages: must be languages"),
        (["decoding.hallucination_silence_threshold_s=2"], "needs the times of words: set decoding.timestamps to word"),
        (
            ["decoding.num_beams=1", "decoding.beam_selection=minimum_bayes_risk"],
            "decoding.num_beams=1 has only one: set decoding.num_beams",
        ),
        (["decoding.speculative=on"], "decoding.speculative=on needs a draft model"),
        (["chunking.window=gated", "model.attention=eager"], "chunking.window=gated needs model.attention=sdpa"),
    ],
)
def test_conflicting_settings_are_an_error(overrides: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load_config(None, overrides)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "just words"])
def test_an_error_in_a_config_file_names_the_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=f"--config {file}"):
        load_config(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run_id: a\nrun_id: b\n", "run_id is set twice, on lines 1 and 2."),
        ("model:\n  name: a\n  dtype: auto\n  name: b\n", "model.name is set twice, on lines 2 and 4."),
        ("model: {name: a}\ninput: {}\nmodel: {dtype: auto}\n", "model is set twice, on lines 1 and 3."),
        ("labels: {filters: {max_wer: 1, max_wer: 0.2}}\n", "labels.filters.max_wer is set twice, on lines 1 and 1."),
    ],
)
def test_a_key_that_a_file_sets_twice_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_config(file)
    assert str(caught.value).startswith(f"--config {file}: {message}")


def test_an_anchor_may_be_used_twice_and_a_merged_key_may_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("input: &same {uri: /a}\noutput: {<<: *same, uri: /b}\n")
    config = load_config(file)
    assert (config.input.uri, config.output.uri) == (("/a",), "/b")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file, and no shipped config"):
        load_config(tmp_path / "none.yaml")


def test_a_dumped_config_loads_as_the_same_config(tmp_path: Path) -> None:
    config = load_config(None, ["input.uri=[a, b]", "output.uri=c", "chunking.length_s=15", "run_id=tonight"])
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config


def test_a_missing_location_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(SettingsError, match=r"input\.uri is not set"):
        require_locations(Config())
    with pytest.raises(SettingsError, match=r"output\.uri is not set"):
        require_locations(load_config(None, ["input.uri=a"]))


def test_every_setting_has_a_type_and_a_description() -> None:
    assert all(words and description for _, words, _, description in describe_settings())


def test_tokens_to_suppress_are_a_list_or_a_single_one() -> None:
    for written, tokens in (("numerals", ("numerals",)), ("7", (7,)), ("[um, 7, '7']", ("um", 7, "7")), ("[]", ())):
        assert load_config(None, [f"decoding.suppress_tokens={written}"]).decoding.suppress_tokens == tokens
