"""`Section`, the base class of all groups of settings, a shared validator, and the names of quality flags."""

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """A group of settings: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_boolean_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Raises ValueError for a boolean where there is none: pydantic takes it for 0 or 1."""
        if isinstance(value, bool) and not _takes_boolean(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("must not be true or false")
        return value


def _takes_boolean(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_boolean, get_args(annotation)))


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
