"""A process is known by more than its number, and known to be dead only where that is certain."""

import os
import subprocess
import sys
from dataclasses import replace

from distil_ray.storage.process_identity import parse_process_label, this_process


def test_a_process_lives_until_it_ends_also_where_its_parent_has_not_noticed() -> None:
    module = "distil_ray.storage.process_identity"
    program = f"import sys; from {module} import this_process; print(this_process().label, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}; sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin and child.stdout
        told = parse_process_label(child.stdout.readline().strip())
        assert told
        assert told.pid == child.pid
        assert not told.is_known_dead()
        child.stdin.close()
        child.stdout.read()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert told.is_known_dead()  # a zombie, until this test asks how it ended
    assert told.is_known_dead()


def test_a_number_that_was_given_again_is_not_the_same_process() -> None:
    me = this_process()
    assert not me.is_known_dead()
    assert replace(me, started=me.started - 1).is_known_dead()


def test_of_a_process_elsewhere_nothing_is_known() -> None:
    me = this_process()
    assert not replace(me, space="0" * 8, pid=2**22 + 1).is_known_dead()
    assert not replace(me, space="", pid=2**22 + 1).is_known_dead()


def test_a_label_identifies_the_process_and_other_texts_do_not() -> None:
    me = this_process()
    assert parse_process_label(me.label) == replace(me, host="")
    assert [parse_process_label(words) for words in ("", "abc", "a.b.c", "lock", "abc.12")] == [None] * 5
