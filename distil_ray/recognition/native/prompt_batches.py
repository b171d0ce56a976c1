"""Prompts of different lengths in one prefill.

A prompt is the previous text, if a recording has one, and the start tokens (`<|startoftranscript|>`, language, task).
Prompts are padded on the right and run through the decoder in batches of one padded length. The padding needs no mask:
attention is causal, so no id of a prompt attends to it, and the tokens of the text then overwrite it in the cache. The
padded length depends on the prompt alone, so the numbers of a row are the same, bit for bit, whatever the other prompts
are.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distil_ray.recognition.native.decoding_task import DecodingTask
from distil_ray.recognition.native.device import copy_async
from distil_ray.recognition.native.kv_cache import round_up_to_lanes

_PADDING = 0  # any id


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Prompts of one padded length, on the device.

    Attributes:
        rows: Of the tasks, int64, shape (rows,).
        ids: int64, shape (rows, P).
        read_at: Indices of `<|startoftranscript|>` and of the last id of each prompt, int64, shape (rows, 2).
    """

    rows: Tensor
    ids: Tensor
    read_at: Tensor


def stack_prompts(tasks: Sequence[DecodingTask], device: torch.device) -> list[PromptBatch]:
    """Returns the prompts of `tasks` on `device`, in one batch for each padded length."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row, task in enumerate(tasks):
        rows[padded_length(task)].append(row)
    batches = []
    for length, own in rows.items():
        prompts = [tasks[row].prompt for row in own]
        ids = [[*prompt, *[_PADDING] * (length - len(prompt))] for prompt in prompts]
        read_at = [[tasks[row].num_previous, len(tasks[row].prompt) - 1] for row in own]
        batches.append(PromptBatch(copy_async(own, device), copy_async(ids, device), copy_async(read_at, device)))
    return batches


def padded_length(task: DecodingTask) -> int:
    """Returns the length of a task's prompt with padding: whole lanes where it has a previous text."""
    return round_up_to_lanes(len(task.prompt)) if task.num_previous else len(task.prompt)


def prompt_end(prompt: Sequence[int], num: int) -> tuple[int, ...]:
    """Returns the last `num` ids of a prompt. The first id is repeated where the prompt is shorter."""
    return tuple([*[prompt[0]] * num, *prompt][-num:])
