"""Model of a run: the settings are checked against the recognizer's capabilities, and `model.name` is resolved.

Both happen on the driver before anything is started. Weights are not downloaded here, and torch is not imported.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from distil_ray.chunking.base import load_chunker
from distil_ray.config import Config
from distil_ray.config.recognition import GREEDY, DecodingConfig
from distil_ray.errors import SettingsError
from distil_ray.languages import match_language_code, select_languages, suggest_language
from distil_ray.output.run_context import Run
from distil_ray.recognition.capabilities import RecognizerCapabilities, load_capabilities, recognizers_with
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import normalize
from distil_ray.whisper.checkpoint import load_checkpoint_info
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.model_folders import RemoteFile
from distil_ray.whisper.suppressed_tokens import find_suppressed_ids
from distil_ray.whisper.tokenizer import Tokens
from distil_ray.whisper.weights_cache import WeightsError


class StorageFolderReader:
    """Lists a remote folder and copies its files: `FolderReader` over the run's storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def list_folder(self, uri: str) -> list[RemoteFile]:
        """Returns (name below the folder, bytes, version) of every file."""
        folder = normalize(uri)
        return [
            (entry.uri.removeprefix(f"{folder}/"), entry.size, entry.version)
            for entry in self._storage.list_files(folder)
        ]

    def stat_file(self, uri: str) -> RemoteFile | None:
        """Returns a file, with its name in its folder; None if there is no such file."""
        entry = self._storage.stat(normalize(uri))
        return None if entry is None else (uri.rsplit("/", 1)[-1], entry.size, entry.version)

    def copy_file(self, uri: str, path: Path) -> None:
        self._storage.fetch(uri, path)


def fetch_assistant(run: Run) -> Path | None:
    """Returns the local folder of the assistant of the run's checkpoint; None without one.

    An assistant on the hub is taken from the head of its main branch. No text depends on it, so it is not pinned.
    """
    model = run.config.model
    if model.assistant is None or run.config.decoding.speculative == "off":
        return None
    try:
        return fetch_weights(model.assistant, None, model.cache_dir, StorageFolderReader(run.storage))
    except WeightsError as error:
        raise WeightsError(str(error).replace("model.name=", "model.assistant=")) from error


def start_weights_download(run: Run) -> None:
    """Downloads the weights of a run in a thread, into the cache of this machine.

    The recognizers of a local Ray find them there, or wait for the rest. Errors are left to the recognizers, which
    report them.
    """
    if load_capabilities(run.config.model.recognizer).whisper_checkpoint:
        threading.Thread(target=_download_weights, args=(run,), name="weights", daemon=True).start()


def _download_weights(run: Run) -> None:
    model = run.config.model
    with suppress(WeightsError, StorageError, OSError):
        fetch_weights(model.name, run.model_revision, model.cache_dir, StorageFolderReader(run.storage))


IsCapable = Callable[[RecognizerCapabilities], bool]
AUTO_BEAMS = 5  # of decoding.num_beams=auto, as in OpenAI's command line


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model of a run, pinned to its weights.

    Attributes:
        identity: Part of the fingerprint; changes when the weights do.
        revision: Commit on the hub that actors download; None for weights that are not on the hub.
        languages: Codes that the model knows; ("en",) where it is English-only.
        chunk_length_s: Preferred chunk length in seconds.
        chunk_length_reason: Where that length comes from, for the log.
        detects_language: The recognizer can detect the language of a recording.
        config_dir: Local folder of the checkpoint's configuration and tokenizer; None without a Whisper checkpoint.
    """

    identity: str
    revision: str | None
    languages: tuple[str, ...]
    chunk_length_s: float
    chunk_length_reason: str
    detects_language: bool = True
    config_dir: Path | None = None

    def require_config_dir(self, purpose: str) -> Path:
        """Returns the folder of the checkpoint's configuration.

        Raises:
            SettingsError: The recognizer uses no Whisper checkpoint; `purpose` names the feature that needs one.
        """
        if self.config_dir is None:
            raise SettingsError(
                f"{purpose} needs a recognizer with a Whisper checkpoint; found {self.identity}. Set model.recognizer"
                f" to {_names_of(lambda each: each.whisper_checkpoint)}"
            )
        return self.config_dir


def load_model_info(config: Config, storage: Storage, revision: str | None = None) -> ModelInfo:
    """Resolves `model.recognizer` and `model.name` to the model as it is now.

    Args:
        config: The settings of the run.
        storage: Reads remote model folders.
        revision: Used instead of `model.revision`.

    Raises:
        SettingsError: There is no such recognizer.
        WeightsError: There is no such checkpoint.
    """
    model = config.model
    capabilities = load_capabilities(model.recognizer)
    if not capabilities.whisper_checkpoint:
        version = f"@{capabilities.version}" if capabilities.version else ""
        return ModelInfo(
            identity=f"{model.recognizer}{version}/{model.name}",
            revision=None,
            languages=capabilities.languages,
            chunk_length_s=capabilities.chunk_length_s,
            chunk_length_reason=f"model.recognizer={model.recognizer} prefers it",
            detects_language=capabilities.detects_language,
        )
    checkpoint = load_checkpoint_info(
        model.name, revision or model.revision, model.cache_dir, StorageFolderReader(storage)
    )
    return ModelInfo(
        identity=checkpoint.identity,
        revision=checkpoint.revision,
        languages=checkpoint.languages,
        chunk_length_s=checkpoint.chunk_length_s,
        chunk_length_reason=checkpoint.chunk_length_reason,
        detects_language=capabilities.detects_language,
        config_dir=checkpoint.config_dir,
    )


def resolve_model(config: Config) -> ModelInfo:
    """Checks the settings against the recognizer, and resolves `model.name` to the model as it is now.

    Raises:
        SettingsError: The recognizer lacks a capability, there is no such checkpoint, it does not know the language or
            a token to suppress, or an assistant is set for a beam search.
    """
    check_capabilities(config)
    _check_assistant(config)
    try:
        model = load_model_info(config, Storage(config.storage))
    except WeightsError as error:
        raise SettingsError(str(error)) from error
    _check_language(config, model)
    _check_suppressed_tokens(config, model)
    return model


def resolve_beams(config: Config) -> Config:
    """Returns the settings with values for ``auto`` in ``decoding.num_beams`` and ``decoding.beam_selection``.

    On CPUs five beams have a tenth fewer wrong words than greedy decoding, for 1.3 to 2 times the time.
    On GPUs, steps with beams are not recorded as CUDA graphs. An assistant drafts for greedy decoding only;
    ``decoding.speculative=off`` does not count here, so that it changes no text.

    Raises:
        SettingsError: A selection among beams, or a length penalty for their scores, is set for greedy decoding.
    """
    decoding, capabilities = config.decoding, load_capabilities(config.model.recognizer)
    num_beams, selection = decoding.num_beams, decoding.beam_selection
    if num_beams == "auto":
        on_gpu = config.resources.gpus_per_actor > 0
        num_beams = AUTO_BEAMS if capabilities.beam_selection and not on_gpu and not config.has_assistant else 1
    if num_beams == 1:
        if selection == "minimum_bayes_risk":
            raise _no_beams_error("beam_selection", selection, "selects among", decoding.num_beams, "auto")
        if decoding.length_penalty != 1:
            value = f"{decoding.length_penalty:g}"
            raise _no_beams_error("length_penalty", value, "weighs the scores of", decoding.num_beams, "1.0")
        selection = "score"
    elif selection == "auto":
        selection = "minimum_bayes_risk" if capabilities.beam_selection else "score"
    update = {"num_beams": num_beams, "beam_selection": selection}
    return config.model_copy(update={"decoding": decoding.model_copy(update=update)})


def _no_beams_error(setting: str, value: str, purpose: str, num_beams: str | int, unset: str) -> SettingsError:
    """Returns the error for a setting of the beam search where decoding is greedy."""
    greedy = "is 1 on GPUs, with an assistant, and with recognizers that select among none"
    return SettingsError(
        f"decoding.{setting}={value} {purpose} the texts of a beam search, and decoding.num_beams={num_beams}"
        f" {greedy if num_beams == 'auto' else 'is greedy decoding'}: set decoding.num_beams to 5, for instance, or"
        f" decoding.{setting} to {unset}"
    )


def check_capabilities(config: Config) -> None:
    """Checks that the recognizer supports every setting that requires a capability.

    Raises:
        SettingsError: It does not; the message names the settings and the recognizers that would do, a line for each.
    """
    capabilities = load_capabilities(config.model.recognizer)
    missing = [
        f"{setting}={value} is not supported by model.recognizer={config.model.recognizer};"
        f" {_remedy(is_capable, instead)}"
        for setting, value, is_capable, instead in _requirements(config)
        if not is_capable(capabilities)
    ]
    missing += _conflicts(config)
    if missing:
        raise SettingsError("\n".join(missing))


def _conflicts(config: Config) -> list[str]:
    """Returns settings that contradict the strategy, or have no effect without another one: a line for each."""
    strategy = config.chunking.strategy
    is_long_form = load_chunker(strategy).long_form
    found = []
    if config.decoding.condition_on_previous_text and not is_long_form:
        found.append(
            f"decoding.condition_on_previous_text=true: chunking.strategy={strategy} decodes each chunk by itself; set"
            " chunking.strategy=sequential, or decoding.condition_on_previous_text=false"
        )
    if config.chunking.window == "gated" and is_long_form:
        found.append(
            f"chunking.window=gated: the windows of chunking.strategy={strategy} have 30 s; set chunking.window to auto"
            " or full"
        )
    if config.decoding.best_of > 1 and len(config.decoding.temperatures) == 1:
        found.append(
            f"decoding.best_of={config.decoding.best_of}: chunks are sampled at temperatures above 0 only, and"
            " decoding.temperatures=[0.0] has none; set decoding.temperatures to [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], for"
            " instance, or decoding.best_of to 1"
        )
    return found


def _requirements(config: Config) -> list[tuple[str, Any, IsCapable, str]]:
    """Returns (setting, value, test of the capabilities, value that always works) of each requirement."""
    model, decoding = config.model, config.decoding
    found: list[tuple[str, Any, IsCapable, str]] = [
        ("model.dtype", model.dtype, lambda each: model.dtype in each.dtypes, "auto"),
        ("model.attention", model.attention, lambda each: model.attention in each.attention, "auto"),
        (
            "decoding.timestamps",
            decoding.timestamps,
            lambda each: decoding.timestamps in each.timestamps,
            "none",
        ),
    ]
    if model.compile_encoder:
        found.append(("model.compile_encoder", "true", lambda each: each.compile_encoder, "false"))
    if model.encode_ahead:
        found.append(("model.encode_ahead", "true", lambda each: each.encode_ahead, "false"))
    if model.assistant is not None:
        found.append(("model.assistant", model.assistant, lambda each: each.speculative, "null"))
    if config.assistant.uri is not None:
        found.append(("assistant.uri", config.assistant.uri, lambda each: each.speculative, "null"))
    found += _detection_requirements(decoding)
    if decoding.task == "translate":
        found.append(("decoding.task", decoding.task, lambda each: each.translates, "transcribe"))
    if decoding.prompt is not None:
        found.append(("decoding.prompt", decoding.prompt, lambda each: each.prompts, "null"))
    if decoding.hotwords:
        found.append(("decoding.hotwords", decoding.hotwords, lambda each: each.prompts, "[]"))
    if len(decoding.temperatures) > 1:
        found.append(
            ("decoding.temperatures", list(decoding.temperatures), lambda each: each.temperature_fallback, "[0.0]")
        )
    if decoding.batch_size != "auto":
        found.append(("decoding.batch_size", decoding.batch_size, lambda each: each.batch_size, "auto"))
    if decoding.max_new_tokens is not None:
        found.append(("decoding.max_new_tokens", decoding.max_new_tokens, lambda each: each.max_new_tokens, "null"))
    found += _control_requirements(decoding)
    found += _chunking_requirements(config)
    if config.resources.gpus_per_actor > 0:
        found.append(("resources.gpus_per_actor", config.resources.gpus_per_actor, lambda each: each.gpu, "0"))
    return found


def _chunking_requirements(config: Config) -> list[tuple[str, Any, IsCapable, str]]:
    chunking, found = config.chunking, list[tuple[str, Any, IsCapable, str]]()
    if chunking.window == "gated":
        found.append(("chunking.window", chunking.window, lambda each: each.gated_windows, "full"))
    chunker = load_chunker(chunking.strategy)
    if chunker.long_form:
        found.append(("chunking.strategy", chunking.strategy, lambda each: each.long_form, "quiet"))
        if (num_beams := config.decoding.num_beams) not in (1, "auto"):
            setting = f"chunking.strategy={chunking.strategy} with decoding.num_beams"
            found.append((setting, num_beams, lambda each: each.long_form_beam_search, "1"))
    if chunker.overlaps:
        found.append(("chunking.strategy", chunking.strategy, lambda each: each.returns_tokens, "quiet"))
    length_s = chunker.default_length_s if isinstance(chunking.length_s, str) else chunking.length_s
    if length_s is not None and not chunker.long_form:
        found.append(("chunking.length_s", f"{length_s:g}", lambda each: length_s <= each.max_chunk_s, "auto"))
    return found


# Settings of `decoding` that need a capability, the capability, and the value that needs none. `auto` needs none.
_CONTROLS = {
    "suppress_tokens": ("token_controls", "[]"),
    "repetition_penalty": ("token_controls", "1.0"),
    "no_repeat_ngram_size": ("token_controls", "0"),
    "max_initial_timestamp_s": ("token_controls", "null"),
    "prefix": ("prefix", "null"),
    "hallucination_silence_threshold_s": ("drops_hallucinations", "null"),
    "num_beams": ("beam_search", "1"),
    "beam_selection": ("beam_selection", "score"),
    "best_of": ("best_of", "1"),
}


def _control_requirements(decoding: DecodingConfig) -> list[tuple[str, Any, IsCapable, str]]:
    """Returns the requirements of `_CONTROLS`, as `_requirements` does."""
    plain = type(decoding)(**GREEDY)
    return [
        (f"decoding.{name}", getattr(decoding, name), attrgetter(capability), instead)
        for name, (capability, instead) in _CONTROLS.items()
        if getattr(decoding, name) not in (getattr(plain, name), "auto")
    ]


def _detection_requirements(decoding: DecodingConfig) -> list[tuple[str, Any, IsCapable, str]]:
    """Returns the requirements of the settings of language detection, as `_requirements` does."""
    found: list[tuple[str, Any, IsCapable, str]] = []
    if len(decoding.languages) > 1:
        found.append(("decoding.languages", list(decoding.languages), lambda each: each.detects_language, "[]"))
    if decoding.language_per == "chunk":
        found.append(("decoding.language_per", decoding.language_per, lambda each: each.detects_language, "recording"))
    return found


def _check_assistant(config: Config) -> None:
    """Checks that nothing is to be drafted for a beam search: drafts are verified against greedy decoding."""
    num_beams, speculative = config.decoding.num_beams, config.decoding.speculative
    sources = (("model.assistant", config.model.assistant), ("assistant.uri", config.assistant.uri))
    for setting, value in sources:
        if value is not None and num_beams not in (1, "auto") and speculative != "off":
            raise SettingsError(
                f"decoding.num_beams={num_beams} does not work with {setting}={value}, which drafts for greedy decoding"
                f" only: set decoding.num_beams to 1, {setting} to null, or decoding.speculative to off"
            )


def _remedy(is_capable: IsCapable, instead: str) -> str:
    names = _names_of(is_capable)
    return f"set it to {instead}" + (f", or take model.recognizer={names}" if names else "")


def _names_of(is_capable: IsCapable) -> str:
    return " or ".join(recognizers_with(is_capable))


def _check_language(config: Config, model: ModelInfo) -> None:
    decoding = config.decoding
    if decoding.language != "auto":
        _require_language("language", decoding.language, model, config, "auto detects the language")
    for language in decoding.languages:
        _require_language("languages", language, model, config, "[] stands for all of them")
    if decoding.task == "translate" and model.config_dir is not None and model.languages == ("en",):
        raise SettingsError(
            f"decoding.task=translate: model.name={config.model.name} is English-only. Use a multilingual model, or set"
            " decoding.task to transcribe"
        )
    choices = select_languages(decoding.languages, model.languages)
    if decoding.language_per == "chunk" and len(choices) == 1:
        reason = (
            f"decoding.languages={list(decoding.languages)} leaves one"
            if len(model.languages) > 1
            else f"model.name={config.model.name} knows {choices[0]} only"
        )
        raise SettingsError(
            f"decoding.language_per=chunk needs several languages to choose from, but {reason}. Set it to recording"
        )


def _require_language(setting: str, language: str, model: ModelInfo, config: Config, otherwise: str) -> None:
    """Raises `SettingsError` if the model does not know a language of the setting ``decoding.<setting>``."""
    if match_language_code(language, model.languages) is not None:
        return
    similar = suggest_language(language, model.languages)
    hint = f" Did you mean {similar}?" if similar else ""
    raise SettingsError(
        f"decoding.{setting}={language}: model.name={config.model.name} does not support this language.{hint}"
        f" It supports {', '.join(sorted(model.languages))}; {otherwise}."
    )


def _check_suppressed_tokens(config: Config, model: ModelInfo) -> None:
    """Checks, before anything is started, that every item of `decoding.suppress_tokens` is a token."""
    if not config.decoding.suppress_tokens or model.config_dir is None:
        return
    try:
        find_suppressed_ids(config.decoding.suppress_tokens, Tokens.load(model.config_dir))
    except ValueError as error:
        raise SettingsError(f"decoding.suppress_tokens: {error}") from error
