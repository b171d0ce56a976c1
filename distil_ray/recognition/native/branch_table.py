"""The texts of a chunk in the self-attention cache of its slot: a tree, whose common beginnings are stored once.

Keys and values depend on a token, its position and the tokens before it, but not on where they are stored. A slot is
therefore a pool of entries: each token of each text has one, and `visible` says which entries are the past of which
text. Where a text is continued in several ways, its continuations share the same entries. Entries that no text needs
any more are used again, the lowest first. So nothing is copied or moved when beams change places. Five beams of
whisper-base on real speech have 2.6 times the entries of one text, as beams that differ in an early word may both stay
until the end. How the entries lie follows from the chunk alone. Nothing waits for the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distil_ray.recognition.native.decoder import Branches


class BranchTable:
    """The entries of the texts of each slot."""

    def __init__(self, slots: int, num_texts: int, capacity: int, device: torch.device) -> None:
        """Creates a table without texts.

        Args:
            slots: Rows.
            num_texts: Texts in each.
            capacity: Entries of a slot.
            device: Where the table is.
        """
        self._visible = torch.zeros(slots, num_texts, capacity, dtype=torch.bool, device=device)
        self._entries = torch.zeros(slots, num_texts, dtype=torch.long, device=device)  # of the last token of each text
        self._priorities = torch.arange(capacity, 0, -1, device=device)  # of the entries, if they are free
        self._num_texts = num_texts

    def start_rows(self, slots: Tensor, prompt_lengths: Tensor) -> None:
        """Makes the texts of `slots` start over after prompts in the first entries; lengths of shape (rows,)."""
        columns = self._priorities.flip(0) - 1
        self._visible[slots] = (columns < prompt_lengths[:, None])[:, None]

    def append(self, rows: Tensor, parents: Tensor, live: Tensor, num_entries: int) -> None:
        """Gives each text of `rows` an entry for one more token.

        Args:
            rows: int64, shape (rows,).
            parents: The text that each text continues, int64, shape (rows, texts).
            live: Texts that get an entry; the others stay as they are. Bool, shape (rows, texts).
            num_entries: No entry from this one on is or gets used.
        """
        before = self._visible[rows, :, :num_entries]
        after = before.gather(1, parents[:, :, None].expand(before.shape))
        free = self._priorities[:num_entries].masked_fill(after.any(dim=1), 0)
        entries = free.topk(self._num_texts, dim=1).indices
        after.scatter_(2, entries[:, :, None], live[:, :, None])
        self._visible[rows, :, :num_entries] = torch.where(live[:, :, None], after, before)
        self._entries[rows] = torch.where(live, entries, self._entries[rows])

    def branches(self, rows: Tensor) -> Branches:
        """Returns the entries of the last tokens of `rows`, and what these attend to."""
        return Branches(self._entries[rows], self._visible[rows])

    def num_entries(self, slots: Sequence[int]) -> int:
        """Waits for the device. Returns a bound on the entries that `slots` use."""
        where = torch.tensor(slots, device=self._entries.device)
        return int((self._visible[where].any(dim=1) * (self._priorities.flip(0))).max())

    def move_rows(self, old: Tensor, new: Tensor) -> None:
        """Copies the slots `old` to the slots `new`."""
        for tensor in (self._visible, self._entries):
            tensor[new] = tensor[old]
