"""The assistant after a night: trained on what the night has transcribed, where it no longer fits what comes.

How well it fits stands in the night's own figures: the share of its drafts that the main model kept. It is trained when
that has fallen below `assistant.nightly_below`, and where there is none for the model yet if `assistant.nightly_first`
says so; after the night was judged, kept and told, within `assistant.nightly_budget_s`. Nothing that goes wrong here is
the night's failure: it is a line of the log and an entry of night.json.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from distil_ray.cli.console import log_field
from distil_ray.config import AssistantConfig, Config
from distil_ray.errors import DistilRayError
from distil_ray.pipeline.assistant_selection import read_current_assistant
from distil_ray.pipeline.model_setup import resolve_model
from distil_ray.redaction import redact
from distil_ray.storage.storage import Storage

logger = logging.getLogger(__name__)

Entry = dict[str, Any]


def retrain_assistant(config: Config, partition: str, figures: Mapping[str, Any], console: Console) -> Entry | None:
    """What became of the assistant, for night.json; None where nothing asked for a training.

    `partition`: the folder of the night's transcripts; `figures`: the night's.
    """
    try:
        why = retraining_reason(
            config.assistant,
            figures.get("acceptance_rate"),
            Storage(config.storage),
            lambda: resolve_model(config).identity,
        )
        if why is None:
            return None
        log_field("assistant", f"is trained, as {why}", console)
        from distil_ray.assistant_training.job import train  # brings torch, which most nights do not need here

        outcome = train(_with_nightly_budget(config), console, partition)
        told = {"training": outcome.training, "replaced": outcome.replaced, "verdict": outcome.reason}
        return {"outcome": "done", "why": why, **told}
    except Exception as error:
        logger.log(logging.DEBUG if isinstance(error, DistilRayError) else logging.ERROR, "training", exc_info=True)
        words = redact(" ".join(str(error).split())) or type(error).__name__
        log_field("note", f"no assistant was trained: {words}", console)
        return {"outcome": "failed", "error": words}


def retraining_reason(
    settings: AssistantConfig, acceptance_rate: float | None, storage: Storage, identity: Callable[[], str]
) -> str | None:
    """Why an assistant is to be trained now; None if it is not. `identity`: the main model's, asked only if needed."""
    if settings.uri is None or (settings.nightly_below is None and not settings.nightly_first):
        return None
    if settings.nightly_first:
        current = read_current_assistant(settings.uri, storage)
        if current is None:
            return f"there is none at assistant.uri={settings.uri} yet (assistant.nightly_first)"
        if current.main_identity != identity():
            of = f"the one at assistant.uri={settings.uri} drafts for {current.main_model} ({current.main_identity})"
            return f"there is none of this model yet: {of} (assistant.nightly_first)"
    if settings.nightly_below is not None and acceptance_rate is not None and acceptance_rate < settings.nightly_below:
        below = f"assistant.nightly_below={settings.nightly_below:g}"
        return f"{100 * acceptance_rate:.1f} % of its drafts were kept this night, less than {below}"
    return None


def _with_nightly_budget(config: Config) -> Config:
    settings = config.assistant
    budget_s = min(settings.budget_s or settings.nightly_budget_s, settings.nightly_budget_s)
    return config.model_copy(
        update={"assistant": settings.model_copy(update={"budget_s": budget_s, "labels_uri": None})}
    )
