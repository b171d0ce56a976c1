"""Training of the assistant at the end of a nightly run, on the transcripts of that run.

Two settings request it. With `assistant.nightly_below`, the assistant is trained if the share of its drafted tokens
that the main model accepted is below this value; the share is one of the figures of the nightly run. With
`assistant.nightly_first`, it is trained if there is no assistant for the main model yet.

Training begins after nightly_run.json is written and the webhook was called, and takes at most
`assistant.nightly_budget_s`. An error here does not fail the nightly run: it is logged and recorded in the report.
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
    """Trains the assistant if the settings request it.

    Args:
        config: Settings of the nightly run.
        partition: URI of the folder with the transcripts of the date.
        figures: Figures of the date (`run_records.compute_figures`).
        console: Receives the messages.

    Returns:
        The entry `assistant` of nightly_run.json; None if no training was requested. Errors are part of the entry.
    """
    try:
        acceptance_rate = figures.get("acceptance_rate")
        reason = retraining_reason(
            config.assistant,
            acceptance_rate,
            Storage(config.storage),
            lambda: resolve_model(config).identity,
        )
        if reason is None:
            return None
        log_field("assistant", f"training, because {reason}", console, acceptance_rate=acceptance_rate)
        from distil_ray.assistant_training.job import train  # imports torch, which this process rarely needs

        outcome = train(_with_nightly_budget(config), console, partition)
        result = {"training": outcome.training, "replaced": outcome.replaced, "verdict": outcome.reason}
        return {"outcome": "done", "reason": reason, **result}
    except Exception as error:
        logger.log(logging.DEBUG if isinstance(error, DistilRayError) else logging.ERROR, "training", exc_info=True)
        message = redact(" ".join(str(error).split())) or type(error).__name__
        log_field("warning", f"no assistant was trained: {message}", console, level="warning")
        return {"outcome": "failed", "error": message}


def retraining_reason(
    settings: AssistantConfig, acceptance_rate: float | None, storage: Storage, identity: Callable[[], str]
) -> str | None:
    """Returns the reason to train an assistant now; None if there is none.

    Args:
        settings: Section `assistant`.
        acceptance_rate: Accepted share of the drafted tokens of the date; None without drafts.
        storage: Storage of `assistant.uri`.
        identity: Returns the identity of the main model. Called only if needed, because it may read the checkpoint.
    """
    if settings.uri is None or (settings.nightly_below is None and not settings.nightly_first):
        return None
    if settings.nightly_first:
        current = read_current_assistant(settings.uri, storage)
        if current is None:
            return f"there is no assistant at assistant.uri={settings.uri} yet (assistant.nightly_first)"
        if current.main_identity != identity():
            found = f"the one at assistant.uri={settings.uri} is for {current.main_model} ({current.main_identity})"
            return f"there is no assistant for this model yet: {found} (assistant.nightly_first)"
    if settings.nightly_below is not None and acceptance_rate is not None and acceptance_rate < settings.nightly_below:
        below = f"assistant.nightly_below={settings.nightly_below:g}"
        return f"the acceptance rate of its drafts was {100 * acceptance_rate:.1f} %, below {below}"
    return None


def _with_nightly_budget(config: Config) -> Config:
    """Returns the settings with the budget of a nightly run and without other training labels."""
    settings = config.assistant
    budget_s = min(settings.budget_s or settings.nightly_budget_s, settings.nightly_budget_s)
    return config.model_copy(
        update={"assistant": settings.model_copy(update={"budget_s": budget_s, "labels_uri": None})}
    )
