"""Numbers of rows for which a matrix product gives each row the same bits, whatever rows are beside it.

Kernels divide the rows of a product among routines for different numbers of rows, and some of these add in another
order than the others. Which ones depends on the library and on the processor. With AVX2, FBGEMM's products with
float16 weights differ for 1, 2, 7, 14, 31, 32, 37 and 38 rows; those of MKL on an AMD EPYC for 1 to 3, or 1 to 11
where the rows are on the right; on Intel processors with AVX512 at most for a single one. So each number of rows is
tried when it is first seen, and rows are padded to the next one that passes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

REFERENCE_ROWS = 48  # other numbers of rows have to give what so many give


class RowPadding:
    """Pads rows so that a product gives each of them the same bits as any other number of rows would."""

    def __init__(self, product: Callable[[Tensor], Tensor], row_shape: tuple[int, ...]) -> None:
        """Tries nothing yet.

        Args:
            product: Called with random rows, float32, shape (rows, *row_shape); returns one result for each. It stands
                for all products that the same routines compute.
            row_shape: Shape of a row.
        """
        self._product = product
        self._row_shape = row_shape
        self._padded: dict[tuple[int, int], int] = {}  # by numbers of threads and of rows

    def num_padded(self, num: int) -> int:
        """Returns the number of rows that `num` rows, at least one, have to be padded to.

        Where no number up to `REFERENCE_ROWS` more passes, it is `num`.
        """
        key = (torch.get_num_threads(), num)
        if key not in self._padded:
            candidates = range(num, num + REFERENCE_ROWS + 1)
            self._padded[key] = next((each for each in candidates if self._is_independent(each)), num)
        return self._padded[key]

    def pad(self, rows: Tensor) -> Tensor:
        """Returns rows with zeros behind them, as many as needed; shape (num_padded(rows), ...)."""
        num_missing = self.num_padded(len(rows)) - len(rows)
        return functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, num_missing)) if num_missing else rows

    def _is_independent(self, num: int) -> bool:
        """Returns whether so many rows give what `REFERENCE_ROWS` at a time give."""
        num_blocks = -(-num // REFERENCE_ROWS)
        rows = torch.randn(num_blocks * REFERENCE_ROWS, *self._row_shape, generator=torch.Generator().manual_seed(num))
        expected = torch.cat([self._product(block) for block in torch.split(rows, REFERENCE_ROWS)])
        return torch.equal(self._product(rows[:num]), expected[:num])
