"""`Section`, the base class of all groups of settings, a shared validator, and the names of quality flags."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def at_least_one(value: str | int) -> str | int:
    """Returns the value; raises ValueError for an integer below 1."""
    if isinstance(value, int) and value < 1:
        raise ValueError("must be at least 1, or auto")
    return value


# Flags that say that a text may be wrong: recognition/quality_flags.py.
UnreliableTextFlag = Literal[
    "redecoded",
    "max_tokens_reached",
    "untranscribed_speech",
    "mixed_languages",
    "repetition_loop",
    "high_compression_ratio",
    "low_logprob",
    "high_char_rate",
    "anomalous_words",
    "hallucination_phrase",
]
