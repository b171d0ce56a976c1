"""Settings of the Python interface: a config with overrides, and the resources of the calling process.

Every function takes `config` (a `Config`, a YAML file or the name of a shipped one, or nested settings) and `overrides`
(dotted keys and values). Its own arguments override both.
"""

import os
from collections.abc import Mapping
from typing import Any

from distil_ray.config import Config
from distil_ray.config.loader import read_yaml, set_value, validate_tree
from distil_ray.pipeline.capacity import available_cpus

ConfigSource = Config | Mapping[str, Any] | str | os.PathLike[str]  # settings, nested settings, or a YAML file
Overrides = Mapping[str, Any]  # dotted key -> value


def load_config(path: str | os.PathLike[str] | None = None, overrides: Overrides | None = None) -> Config:
    """Loads the settings of a job.

    Args:
        path: A YAML file, or the name of a shipped config (``cpu``); None: the defaults.
        overrides: Settings by dotted key, such as ``{"decoding.language": "en"}``.

    Raises:
        SettingsError: The file cannot be read, or a setting is unknown or wrong.
    """
    return make_config(path, overrides)


def make_config(config: ConfigSource | None, overrides: Overrides | None, **arguments: Any) -> Config:
    """Returns the settings of a job.

    Args:
        config: The settings to start from; None: the defaults.
        overrides: Settings by dotted key, such as ``{"chunking.length_s": 15}``.
        **arguments: Further settings, which override `overrides`: the dotted key with two underscores in place of the
            dot. None leaves a setting as it is.

    Raises:
        SettingsError: A setting is unknown or wrong.
    """
    return validate_tree(_merge(config, overrides, arguments))


def make_local_config(config: ConfigSource | None, overrides: Overrides | None, **arguments: Any) -> Config:
    """Returns the settings of a transcription in this process, as `make_config` does.

    Where they do not set the resources of a recognizer, it gets a GPU if this process has one and ``model.device`` is
    not ``cpu``, else all CPUs of the process.
    """
    tree = _merge(config, overrides, arguments)
    resources, model = _group(tree, "resources"), _group(tree, "model")
    if "gpus_per_actor" not in resources:
        set_value(tree, "resources.gpus_per_actor", _num_gpus(model.get("device", "auto")))
    if resources.get("cpus_per_actor", "auto") == "auto":
        set_value(tree, "resources.cpus_per_actor", _num_cpus())
    return validate_tree(tree)


def _group(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    group = tree.get(name)
    return group if isinstance(group, Mapping) else {}


def _merge(config: ConfigSource | None, overrides: Overrides | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested settings, without defaults."""
    tree = _nested(config)
    for key, value in (overrides or {}).items():
        set_value(tree, key, value)
    for name, value in arguments.items():
        if value is not None:
            set_value(tree, name.replace("__", "."), value)
    return tree


def _nested(config: ConfigSource | None) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Config):
        return config.model_dump(exclude_unset=True)
    return _copied(config) if isinstance(config, Mapping) else read_yaml(os.fspath(config))


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in tree.items()}


def _num_gpus(device: Any) -> int:
    """Returns the GPUs of a recognizer on `device` (``model.device``): 1 or 0."""
    if device != "auto":
        return int(device == "cuda")
    from distil_ray.recognition.native.device import has_gpu

    return int(has_gpu())


def _num_cpus() -> int:
    """Returns the threads of a recognizer: OMP_NUM_THREADS, which Ray sets for its workers, else the available CPUs."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdecimal() and int(threads) else available_cpus()
