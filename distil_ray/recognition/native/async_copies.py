"""From the host to the device without waiting: through memory that the system may not move, copied in passing.

A plain copy to a GPU waits until the GPU has done everything before it. On a CPU nothing is copied.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def send(values: Sequence[Any], device: torch.device) -> Tensor:
    """A tensor of numbers, or of rows of numbers, as torch makes it of them."""
    tensor = torch.tensor(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
