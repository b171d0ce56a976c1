"""Products of which some numbers of rows add in another order give the same bits with the padding."""

import torch
from torch import Tensor

from distil_ray.recognition.native.row_padding import REFERENCE_ROWS, RowPadding

INPUTS, OUTPUTS = 64, 32
WEIGHT = torch.randn(INPUTS, OUTPUTS, generator=torch.Generator().manual_seed(0))


def product_of_blocks(rows: Tensor) -> Tensor:
    """Adds up the inputs forwards in blocks of six rows, and backwards in what is left if that is one row or two."""
    num_left = len(rows) % 6 if len(rows) % 6 < 3 else 0
    terms = list(zip(rows.unbind(dim=1), WEIGHT, strict=True))
    forwards, backwards = torch.zeros(len(rows), OUTPUTS), torch.zeros(len(rows), OUTPUTS)
    for column, weights in terms:
        forwards += column[:, None] * weights
    for column, weights in reversed(terms):
        backwards += column[:, None] * weights
    return torch.cat([forwards[: len(rows) - num_left], backwards[len(rows) - num_left :]])


def test_rows_are_padded_to_numbers_that_add_in_the_same_order() -> None:
    padding = RowPadding(product_of_blocks, (INPUTS,))
    assert [padding.num_padded(num) for num in range(1, 10)] == [3, 3, 3, 4, 5, 6, 9, 9, 9]
    assert padding.num_padded(3 * REFERENCE_ROWS + 1) == 3 * REFERENCE_ROWS + 3
    rows = torch.randn(100, INPUTS)
    expected = product_of_blocks(rows[:96])
    assert not torch.equal(product_of_blocks(rows[:20]), expected[:20])
    for num in range(1, 96):
        assert torch.equal(product_of_blocks(padding.pad(rows[:num]))[:num], expected[:num])


def test_what_is_added_are_zeros_behind_the_rows() -> None:
    padding = RowPadding(lambda rows: product_of_blocks(rows.flatten(1)), (4, INPUTS // 4))
    rows = torch.randn(7, 4, INPUTS // 4)
    padded = padding.pad(rows)
    assert padded.shape == (9, 4, INPUTS // 4)
    assert torch.equal(padded[:7], rows)
    assert not padded[7:].any()
    assert padding.pad(rows[:6]).data_ptr() == rows.data_ptr()  # nothing is copied where nothing is missing


def test_without_a_number_that_passes_nothing_is_padded() -> None:
    calls = iter(range(10**6))
    padding = RowPadding(lambda rows: rows + next(calls), (INPUTS,))
    assert padding.num_padded(5) == 5
