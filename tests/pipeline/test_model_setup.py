"""Settings are checked against what the recognizer can do, before anything is started."""

from pathlib import Path

import pytest

from distil_ray import registry
from distil_ray.config.loader import load_config
from distil_ray.errors import SettingsError
from distil_ray.pipeline.model_setup import check_capabilities, load_model_info, resolve_beams, resolve_model
from distil_ray.recognition.capabilities import RecognizerCapabilities, load_capabilities, recognizers_with
from distil_ray.storage.storage import Storage
from tests.support.entry_points import added_entry_point

TEXT_ONLY = f"model.recognizer={__name__}:TextOnly"


class TextOnly:
    """A recognizer that declares the least."""

    capabilities = RecognizerCapabilities(languages=("en", "fr"), version="3", chunk_length_s=12.0, max_chunk_s=20.0)


@pytest.mark.parametrize(
    ("setting", "others"),
    [
        ("model.dtype=int8", True),
        ("model.dtype=float8 resources.gpus_per_actor=1", True),
        ("model.compile_encoder=true resources.gpus_per_actor=1", True),
        ("model.encode_ahead=true resources.gpus_per_actor=1", True),
        ("model.assistant=x", True),
        ("assistant.uri=x", True),
        ("chunking.window=gated", True),
        ("decoding.temperatures=[0.0,0.2]", True),
        ("decoding.timestamps=word", False),
        ("decoding.task=translate", False),
        ("decoding.language_per=chunk", False),
        ("decoding.languages=[en,de]", False),
        ("decoding.batch_size=2", False),
        ("decoding.max_new_tokens=9", False),
        ("decoding.prompt=Kubernetes", False),
        ("decoding.hotwords=[Kubernetes]", False),
        ("decoding.suppress_tokens=numerals", False),
        ("decoding.repetition_penalty=1.2", False),
        ("decoding.no_repeat_ngram_size=3", False),
        ("decoding.max_initial_timestamp_s=0", False),
        ("decoding.prefix=Well", True),
        ("decoding.num_beams=5", False),
        ("chunking.strategy=overlap", False),
        ("chunking.strategy=sequential", False),
        ("chunking.length_s=25", False),
    ],
)
def test_a_setting_that_the_recognizer_does_not_support_is_refused_with_those_that_do(
    setting: str, others: bool
) -> None:
    key = setting.partition("=")[0]
    with pytest.raises(SettingsError) as caught:
        check_capabilities(load_config(None, [*setting.split(), TEXT_ONLY]))
    message = str(caught.value)
    assert message.startswith(f"{key}=")
    assert "model.recognizer=native" in message
    assert len(message.splitlines()) == 1

    reference = load_config(None, [*setting.split(), "model.recognizer=transformers"])
    if others:
        with pytest.raises(SettingsError, match=key.replace(".", r"\.")):
            check_capabilities(reference)
    else:
        check_capabilities(reference)
    check_capabilities(load_config(None, setting.split()))


def test_the_reference_recognizer_takes_beams_but_does_not_select_them_by_risk() -> None:
    settings = ["decoding.num_beams=5", "decoding.beam_selection=minimum_bayes_risk"]
    check_capabilities(load_config(None, settings))
    with pytest.raises(SettingsError, match=r"^decoding\.beam_selection=minimum_bayes_risk .* set it to score, or"):
        check_capabilities(load_config(None, [*settings, "model.recognizer=transformers"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["decoding.condition_on_previous_text=true"], "set chunking.strategy=sequential"),
        (["chunking.strategy=sequential", "chunking.window=gated"], "set chunking.window to auto or full"),
        (["decoding.best_of=5"], r"decoding\.temperatures=\[0\.0\] has none"),
    ],
)
def test_settings_that_contradict_others_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_capabilities(load_config(None, settings))


@pytest.mark.parametrize(
    "settings",
    [
        ["decoding.prefix=Hello"],
        ["decoding.hallucination_silence_threshold_s=2", "decoding.timestamps=word"],
        ["decoding.temperatures=[0.0, 0.2]", "decoding.best_of=5"],
        ["model.assistant=x"],
    ],
)
def test_the_sequential_strategy_has_what_only_the_native_recognizer_has(settings: list[str]) -> None:
    words = ["chunking.strategy=sequential", *settings]
    check_capabilities(load_config(None, words))
    with pytest.raises(SettingsError, match=settings[0].partition("=")[0].replace(".", r"\.")):
        check_capabilities(load_config(None, [*words, "model.recognizer=transformers"]))


def test_beams_of_the_sequential_strategy_need_a_recognizer_that_has_them() -> None:
    settings = ["chunking.strategy=sequential", "decoding.num_beams=5"]
    check_capabilities(load_config(None, settings))
    with pytest.raises(SettingsError, match=r"sequential with decoding\.num_beams=5 is not supported"):
        check_capabilities(load_config(None, [*settings, "model.recognizer=transformers"]))


@pytest.mark.parametrize("setting", ["model.assistant", "assistant.uri"])
def test_an_assistant_is_refused_for_beams_before_it_is_looked_for(setting: str) -> None:
    words = ["decoding.num_beams=5", f"{setting}=nowhere"]
    with pytest.raises(SettingsError, match=rf"decoding\.num_beams=5 does not work with {setting}=nowhere"):
        resolve_model(load_config(None, words))
    check_capabilities(load_config(None, words))  # each for itself is supported


AUTO = ["decoding.num_beams=auto", "decoding.beam_selection=auto"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (AUTO, (5, "minimum_bayes_risk")),
        ([*AUTO, "chunking.strategy=sequential"], (5, "minimum_bayes_risk")),
        ([*AUTO, "decoding.beam_selection=score"], (5, "score")),
        ([*AUTO, "decoding.num_beams=1"], (1, "score")),
        ([*AUTO, "decoding.num_beams=2"], (2, "minimum_bayes_risk")),
        ([*AUTO, "resources.gpus_per_actor=1"], (1, "score")),
        ([*AUTO, "model.assistant=nowhere"], (1, "score")),
        ([*AUTO, "assistant.uri=nowhere"], (1, "score")),
        ([*AUTO, "assistant.uri=nowhere", "decoding.speculative=off"], (1, "score")),
        ([*AUTO, "model.recognizer=transformers"], (1, "score")),
        ([*AUTO, "decoding.num_beams=5", "model.recognizer=transformers"], (5, "score")),
        ([*AUTO, "model.recognizer=transformers", "chunking.strategy=sequential"], (1, "score")),
        ([*AUTO, TEXT_ONLY], (1, "score")),
    ],
)
def test_beams_of_auto_follow_device_assistant_and_recognizer(settings: list[str], expected: tuple[int, str]) -> None:
    config = resolve_beams(load_config(None, settings))
    assert (config.decoding.beam_count, config.decoding.beam_selection) == expected
    check_capabilities(config)
    assert resolve_beams(config) == config


@pytest.mark.parametrize("beams", ["beam_selection=minimum_bayes_risk", "length_penalty=0.8"])
@pytest.mark.parametrize("setting", [TEXT_ONLY, "resources.gpus_per_actor=1", "model.assistant=nowhere"])
def test_settings_of_a_beam_search_are_errors_where_auto_is_greedy(setting: str, beams: str) -> None:
    settings = ["decoding.num_beams=auto", f"decoding.{beams}", setting]
    with pytest.raises(SettingsError, match=rf"decoding\.{beams} .* decoding\.num_beams=auto is 1"):
        resolve_beams(load_config(None, settings))


def test_a_length_penalty_needs_beams() -> None:
    settings = ["decoding.length_penalty=0.8", "decoding.beam_selection=auto"]
    assert resolve_beams(load_config(None, [*settings, "decoding.num_beams=2"])).decoding.length_penalty == 0.8
    with pytest.raises(SettingsError, match=r"decoding\.num_beams=1 is greedy decoding: .*length_penalty to 1\.0"):
        resolve_beams(load_config(None, [*settings, "decoding.num_beams=1"]))


@pytest.mark.parametrize("selection", ["score", "minimum_bayes_risk"])
def test_settings_without_auto_stay_as_they_are(selection: str) -> None:
    config = load_config(None, ["decoding.num_beams=5", f"decoding.beam_selection={selection}"])
    assert resolve_beams(config) == config


def test_samples_need_a_recognizer_that_has_them() -> None:
    settings = ["decoding.best_of=5", "decoding.temperatures=[0.0,0.2]"]
    check_capabilities(load_config(None, settings))
    with pytest.raises(SettingsError, match=r"decoding\.best_of=5 is not supported by model\.recognizer=transformers"):
        check_capabilities(load_config(None, [*settings, "model.recognizer=transformers"]))


def test_everything_that_the_recognizer_lacks_is_reported_at_once() -> None:
    overrides = ["decoding.timestamps=segment", "decoding.task=translate", TEXT_ONLY]
    with pytest.raises(SettingsError) as caught:
        check_capabilities(load_config(None, overrides))
    assert [line.partition("=")[0] for line in str(caught.value).splitlines()] == [
        "decoding.timestamps",
        "decoding.task",
    ]


def test_without_a_checkpoint_the_class_says_identity_languages_and_chunk_length() -> None:
    model = load_model_info(load_config(None, [TEXT_ONLY, "model.name=anything at all"]), Storage())
    assert model.identity == f"{__name__}:TextOnly@3/anything at all"
    assert model.languages == ("en", "fr")
    assert model.chunk_length_s == 12.0
    assert not model.detects_language
    with pytest.raises(SettingsError, match=r"labels needs .*model\.recognizer to native or transformers"):
        model.require_config_dir("labels")


def test_an_entry_point_of_another_package_is_a_recognizer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "text-only" not in registry.RECOGNIZERS.entries
    with added_entry_point(registry.RECOGNIZERS, "text-only", f"{__name__}:TextOnly", monkeypatch) as name:
        assert resolve_model(load_config(None, [f"model.recognizer={name}"])).languages == ("en", "fr")


def test_a_language_that_the_recognizer_does_not_know_is_refused() -> None:
    resolve_model(load_config(None, [TEXT_ONLY, "decoding.language=fr"]))
    with pytest.raises(SettingsError, match=r"decoding\.language=de: .*en, fr"):
        resolve_model(load_config(None, [TEXT_ONLY, "decoding.language=de"]))
    resolve_model(load_config(None, [TEXT_ONLY, "decoding.languages=[fr]"]))
    with pytest.raises(SettingsError, match=r"decoding\.languages=de: .*en, fr"):
        resolve_model(load_config(None, [TEXT_ONLY, "decoding.languages=[de]"]))


def test_chunks_have_languages_of_their_own_only_if_there_are_several(whisper_tiny_en: Path) -> None:
    english = [f"model.name={whisper_tiny_en}", "decoding.language_per=chunk"]
    with pytest.raises(SettingsError, match=r"language_per=chunk needs several languages.*knows en only"):
        resolve_model(load_config(None, english))
    with pytest.raises(SettingsError, match=r"decoding\.languages=de: .*does not support this language"):
        resolve_model(load_config(None, [f"model.name={whisper_tiny_en}", "decoding.languages=[de, en]"]))


def test_an_english_only_checkpoint_of_any_name_translates_nothing(whisper_tiny_en: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "my-model"
    checkpoint.symlink_to(whisper_tiny_en)
    resolve_model(load_config(None, [f"model.name={checkpoint}"]))
    with pytest.raises(SettingsError, match=r"decoding\.task=translate: .*my-model is English-only"):
        resolve_model(load_config(None, [f"model.name={checkpoint}", "decoding.task=translate"]))


def test_a_text_to_suppress_that_is_no_token_is_refused() -> None:
    resolve_model(load_config(None, ["model.name=packaged:whisper-tiny.en", "decoding.suppress_tokens=[the, 7]"]))
    with pytest.raises(SettingsError, match=r"decoding\.suppress_tokens.*'mum mum' is no single token"):
        resolve_model(
            load_config(None, ["model.name=packaged:whisper-tiny.en", "decoding.suppress_tokens=[the, mum mum]"])
        )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("natvie", "native"),
        ("no_such_package.module:Class", "cannot import no_such_package"),
        (f"{__name__}:Nothing", "defines no Nothing"),
        (f"{__name__}:TEXT_ONLY", "capabilities"),
    ],
)
def test_a_recognizer_that_cannot_be_found_is_named(name: str, words: str) -> None:
    with pytest.raises(SettingsError, match=rf"model\.recognizer.*{words}"):
        resolve_model(load_config(None, [f"model.recognizer={name}"]))


def test_capabilities_of_the_built_in_recognizers_are_those_of_their_classes() -> None:
    from distil_ray.recognition.native.recognizer import NativeRecognizer
    from distil_ray.recognition.transformers_recognizer import TransformersRecognizer

    assert load_capabilities("native") is NativeRecognizer.capabilities
    assert load_capabilities("transformers") is TransformersRecognizer.capabilities
    assert recognizers_with(lambda each: each.speculative) == ["native"]


def test_capabilities_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="chunk_length_s"):
        RecognizerCapabilities(chunk_length_s=31.0)
    with pytest.raises(ValueError, match="languages"):
        RecognizerCapabilities(languages=())
