"""Reading and writing beside computing: in order, a few at a time, and no error is lost."""

from __future__ import annotations

import threading

import pytest

from cytomend.overlap import overlapped


def test_every_item_is_read_computed_and_written_in_order():
    written = []
    overlapped(range(20), lambda i: i * 2, lambda x: x + 1, written.append)
    assert written == [2 * i + 1 for i in range(20)]
    overlapped([], None, None, None)


def test_the_next_is_read_and_the_last_is_written_while_one_is_computed():
    reading, writing = {i: threading.Event() for i in range(4)}, {i: threading.Event() for i in range(3)}

    def compute(i):
        assert i == 2 or reading[i + 1].wait(10)
        assert i == 0 or writing[i - 1].wait(10)
        return i

    overlapped(range(3), lambda i: (reading[i].set(), i)[1], compute, lambda i: writing[i].set())
    assert all(event.is_set() for event in writing.values())


def test_no_more_than_one_item_waits_between_two_hands():
    begun, finished, most = [], [], 0

    def compute(i):
        nonlocal most
        most = max(most, len(begun) - len(finished))
        return i

    overlapped(range(50), lambda i: (begun.append(i), i)[1], compute, finished.append)
    assert most <= 3


@pytest.mark.parametrize("hand", ["read", "compute", "write"])
def test_an_error_in_any_hand_surfaces_and_nothing_after_it_is_written(hand):
    written = []

    def at(name, work):
        def run(i):
            if name == hand and i == 3:
                raise OSError(name)
            return work(i)

        return run

    with pytest.raises(OSError, match=hand):
        overlapped(range(9), at("read", int), at("compute", int), at("write", written.append))
    assert written in ([0, 1, 2], [0, 1])  # what was in hand is finished


def test_the_error_of_the_last_write_surfaces():
    with pytest.raises(ZeroDivisionError):
        overlapped([1], int, int, lambda i: i / 0)


def test_an_interrupt_while_computing_finishes_what_is_being_written():
    written, computed = [], []

    def compute(i):
        if i == 2:
            raise KeyboardInterrupt
        computed.append(i)
        return i

    with pytest.raises(KeyboardInterrupt):
        overlapped(range(9), int, compute, written.append)
    assert written == computed == [0, 1]
    assert threading.active_count() < 20
