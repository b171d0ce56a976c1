"""Settings of the Python interface: where they come from, and the resources of this process."""

from pathlib import Path

import pytest

import distil_ray as dr
from distil_ray.api.settings import make_config, make_local_config
from distil_ray.recognition.native import device


def test_arguments_override_overrides_and_these_the_config(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: {name: a}\ndecoding: {language: de}\nplan: {task_audio_s: 60}\n")
    for source in (file, str(file), {"model": {"name": "a"}, "plan": {"task_audio_s": 60}}, dr.load_config(file)):
        config = make_config(source, {"model.name": "b", "decoding.language": "fr"}, decoding__language="es")
        assert (config.model.name, config.decoding.language, config.plan.task_audio_s) == ("b", "es", 60)
    assert dr.load_config(file, {"model.name": "c"}).model.name == "c"
    assert dr.load_config() == dr.Config()


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(dr.SettingsError, match=r"Did you mean decoding\.language"):
        dr.load_config(overrides={"decoding.lang": "de"})
    with pytest.raises(dr.SettingsError, match=r"model\.dtype: settings are nested .* dots are for overrides"):
        make_config({"model.dtype": "int8"}, None)
    with pytest.raises(dr.SettingsError, match="not a section"):
        make_local_config({"resources": 3}, {})


def test_a_gpu_is_used_if_there_is_one_unless_the_settings_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for has_gpu in (True, False):
        monkeypatch.setattr(device, "has_gpu", lambda has_gpu=has_gpu: has_gpu)
        assert make_local_config(None, None).resources.gpus_per_actor == int(has_gpu)
        assert make_local_config(None, None).resources.cpus_per_actor == 3
        assert make_local_config(None, {"model.device": "cpu"}).resources.gpus_per_actor == 0
        assert make_local_config(None, {"model.device": "cuda"}).resources.gpus_per_actor == 1
        set_by_hand = make_local_config(None, {"resources.gpus_per_actor": 0, "resources.cpus_per_actor": 1})
        assert (set_by_hand.resources.gpus_per_actor, set_by_hand.resources.cpus_per_actor) == (0, 1)
