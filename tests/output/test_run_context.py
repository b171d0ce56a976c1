"""The fingerprint covers the settings that change transcripts, and new settings at their default leave it unchanged."""

import pytest

from distil_ray.config import Config, DecodingConfig
from distil_ray.config.loader import load_config
from distil_ray.errors import SettingsError
from distil_ray.output.run_context import ChunkingPlan, compute_fingerprint, resolve_chunking
from distil_ray.pipeline.model_setup import resolve_beams

PLAN = ChunkingPlan("quiet", length=480_000, stride=0, search=160_000, reason="")


class ExtendedDecodingConfig(DecodingConfig):
    """The decoding settings of a later version."""

    beam_size: int = 1


def fingerprint(*overrides: str, decoding: DecodingConfig | None = None) -> str:
    config = load_config(None, list(overrides))
    return compute_fingerprint(config.model_copy(update={"decoding": decoding}) if decoding else config, "model", PLAN)


def test_a_new_setting_at_its_default_changes_no_fingerprint() -> None:
    assert fingerprint(decoding=ExtendedDecodingConfig()) == compute_fingerprint(Config(), "model", PLAN)
    assert fingerprint(decoding=ExtendedDecodingConfig(beam_size=5)) != fingerprint()


def test_beams_that_auto_stands_for_have_the_fingerprint_of_these_beams() -> None:
    settings = ["decoding.num_beams=auto", "decoding.beam_selection=auto"]
    explicit = ["decoding.num_beams=5", "decoding.beam_selection=minimum_bayes_risk"]
    for more, same in (([], explicit), (["resources.gpus_per_actor=1"], ["decoding.num_beams=1"])):
        resolved = (resolve_beams(load_config(None, [*each, *more])) for each in (settings, same))
        assert len({compute_fingerprint(config, "model", PLAN) for config in resolved}) == 1


def test_settings_that_change_transcripts_change_the_fingerprint() -> None:
    changed = ["decoding.language=de", "decoding.timestamps=word", "decoding.max_new_tokens=9", "model.dtype=float32"]
    assert len({fingerprint(), *(fingerprint(override) for override in changed)}) == len(changed) + 1


def test_batch_size_assistant_and_cluster_do_not_change_the_fingerprint() -> None:
    others = ["decoding.batch_size=4", "model.assistant=x", "resources.actors=7", "storage.max_attempts=2"]
    assert {fingerprint(override) for override in others} == {fingerprint()}


def resolved(*overrides: str) -> ChunkingPlan:
    return resolve_chunking(load_config(None, list(overrides)), 30.0, "")


def test_settings_of_a_strategy_are_in_its_plan_and_in_the_fingerprint_if_they_are_set() -> None:
    default, same = resolved("chunking.strategy=vad"), resolved("chunking.strategy=vad", "chunking.vad.threshold=0.3")
    changed = resolved("chunking.strategy=vad", "chunking.vad.threshold=0.5", "chunking.vad.max_speech_s=20")
    assert default == same
    assert "settings" not in default.describe()
    assert dict(changed.settings) == {"threshold": 0.5, "max_speech_s": 20.0}
    assert ChunkingPlan.from_description(changed.describe()) == changed
    assert compute_fingerprint(Config(), "model", default) != compute_fingerprint(Config(), "model", changed)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["chunking.strategy=overlap", "chunking.length_s=10", "chunking.stride_s=5"],
            r"stride_s=5: must be less than 5",
        ),
        (["chunking.strategy=overlap", "chunking.stride_s=15"], r"stride_s=15: must be less than 15.* 30 s"),
        (["chunking.length_s=10", "chunking.search_s=10"], r"search_s=10: must be less than 10"),
        (["chunking.strategy=sequential", "chunking.search_s=200"], r"search_s=200: must be less than 120"),
    ],
)
def test_strides_and_search_regions_have_to_fit_into_the_chunks(overrides: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        resolved(*overrides)


def test_settings_of_another_strategy_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"chunking\.vad\.speech_pad_s=1.* not used by chunking\.strategy=quiet"):
        resolved("chunking.vad.speech_pad_s=1")
