"""Controls of decoding that change the tokens of a checkpoint: which are suppressed, and the first timestamp."""

from dataclasses import replace
from pathlib import Path

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.whisper.suppressed_tokens import find_suppressed_ids
from distil_ray.whisper.tokenizer import SECONDS_PER_TIMESTAMP, Tokens


def load_tokens(folder: str | Path, options: RecognizerOptions) -> Tokens:
    """Returns the tokens of a model folder, with the suppressed tokens and the latest first timestamp of `options`.

    Raises:
        ValueError: `options.suppress_tokens` names something that is no token of the checkpoint.
    """
    tokens = Tokens.load(folder)
    if options.suppress_tokens:
        suppressed = find_suppressed_ids(options.suppress_tokens, tokens)
        tokens = replace(tokens, suppress=tuple(sorted({*tokens.suppress, *suppressed})))
    if options.max_initial_timestamp_s is not None:
        tokens = replace(tokens, max_initial_timestamp=round(options.max_initial_timestamp_s / SECONDS_PER_TIMESTAMP))
    return tokens
