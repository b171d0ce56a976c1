"""Texts that branch share the entries of their common beginning, and every text sees its own past."""

import torch

from distil_ray.recognition.native.branch_table import BranchTable

SLOTS, TEXTS, PROMPT, STEPS = 3, 4, 2, 40


def test_each_text_sees_exactly_its_own_past_and_unused_entries_are_used_again() -> None:
    torch.manual_seed(0)
    capacity = PROMPT + TEXTS * STEPS + TEXTS
    table = BranchTable(SLOTS, TEXTS, capacity, torch.device("cpu"))
    rows = torch.arange(SLOTS)
    # What a step writes to the cache: a number for each token of each text. The prompt has the numbers 0 and 1.
    cache = torch.full((SLOTS, capacity), -1)
    for _ in range(2):  # the second time over what the first one left
        table.start_rows(rows, torch.full((SLOTS,), PROMPT))
        cache[:, :PROMPT] = torch.arange(PROMPT)
        pasts = [[set(range(PROMPT)) for _ in range(TEXTS)] for _ in range(SLOTS)]
        number = PROMPT
        for step in range(STEPS):
            parents = torch.randint(TEXTS, (SLOTS, TEXTS))
            live = torch.ones(SLOTS, TEXTS, dtype=torch.bool)
            live[2] = step < 5  # it has ended
            table.append(rows, parents, live, capacity)
            branches = table.branches(rows)
            for slot in range(SLOTS):
                if not live[slot].all():
                    continue
                pasts[slot] = [{*pasts[slot][int(parents[slot, text])], number + text} for text in range(TEXTS)]
                cache[slot, branches.entries[slot]] = number + torch.arange(TEXTS)
            number += TEXTS
            for slot in range(SLOTS):
                seen = [set(cache[slot, visible].tolist()) for visible in branches.visible[slot]]
                assert seen == pasts[slot]
                assert len(set(branches.entries[slot].tolist())) == TEXTS
        used = table.num_entries([0, 1])
        assert used < PROMPT + STEPS + 6 * TEXTS, "texts that were given up have left their entries"
        assert table.num_entries([2]) <= PROMPT + 5 * TEXTS


def test_moved_rows_keep_their_texts() -> None:
    table = BranchTable(2, 2, 16, torch.device("cpu"))
    table.start_rows(torch.tensor([0, 1]), torch.tensor([3, 5]))
    table.append(torch.tensor([1]), torch.tensor([[0, 0]]), torch.ones(1, 2, dtype=torch.bool), 16)
    table.move_rows(torch.tensor([1]), torch.tensor([0]))
    first, second = (table.branches(torch.tensor([slot])) for slot in (0, 1))
    assert torch.equal(first.entries, second.entries) and torch.equal(first.visible, second.visible)
    assert first.entries.tolist() == [[5, 6]]
