"""Groups of chunks that are encoded together, and the shapes of recorded steps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.recognition.native.decoding_task import DecodingTask
from distil_ray.recognition.native.scheduler import StepShape, group_tasks, pop_groups

LARGEST = StepShape(rows=40, text_positions=464, encoder_positions=1504, is_ragged=True, is_sampled=False)


@given(st.integers(1, 40), st.integers(1, 464), st.integers(1, 1504))
def test_a_padded_shape_holds_the_exact_one_and_padding_it_again_changes_nothing(
    rows: int, text: int, window: int
) -> None:
    exact = StepShape(rows, text, window, False, True)
    padded = exact.padded(LARGEST, reads_by_length=False)
    assert padded.rows >= rows and padded.text_positions >= text and padded.encoder_positions >= window
    assert padded.rows <= max(8, 3 * rows // 2)
    assert padded.padded(LARGEST, reads_by_length=False) == padded
    by_length = exact.padded(LARGEST, reads_by_length=True)
    assert (by_length.text_positions, by_length.encoder_positions, by_length.rows) == (464, 1504, padded.rows)


@given(st.lists(st.sampled_from((200, 1600, 3000)), max_size=60), st.integers(1, 64), st.integers(1, 60_000))
def test_groups_hold_every_chunk_once_of_one_length_each_and_fit_into_free_slots(
    frames: list[int], most: int, positions: int
) -> None:
    pcm = np.zeros(1, np.int16)
    groups = group_tasks([DecodingTask(i, pcm, (), length, 1) for i, length in enumerate(frames)], positions, most)
    assert sorted(task.index for group in groups for task in group.tasks) == list(range(len(frames)))
    for group in groups:
        assert len({task.num_frames for task in group.tasks}) == 1
        assert len(group.tasks) <= most
        assert len(group.tasks) == 1 or len(group.tasks) * group.num_frames // 2 <= positions
    num = len(frames)
    first = pop_groups(groups, most)
    assert not frames or 1 <= sum(len(group.tasks) for group in first) <= most
    assert sum(len(group.tasks) for group in (*first, *groups)) == num


def test_free_slots_are_filled_by_even_groups() -> None:
    """64 places for windows of 16 s, of which 48 would fit into the encoder at once: twice 32, not 48 and 16."""
    pcm = np.zeros(1, np.int16)
    groups = group_tasks([DecodingTask(i, pcm, (), 1600, 1) for i in range(64)], 48 * 800, 64)
    assert [len(group.tasks) for group in groups] == [32, 32]
