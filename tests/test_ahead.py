"""Reading in threads: what comes out, in which order, and how much is read for nothing."""

import threading
from collections.abc import Iterator
from itertools import islice
from time import sleep

import pytest

from dora.data.ahead import read_ahead


@pytest.mark.parametrize("n_threads", [0, 1, 3])
def test_values_come_in_the_order_of_the_items_however_long_each_takes(n_threads: int):
    def read(number: int) -> int:
        sleep(0.01 if number % 3 == 0 else 0)
        return number**2

    assert [*read_ahead(read, range(20), n_threads=n_threads)] == [number**2 for number in range(20)]


def test_several_are_read_at_a_time():
    both = threading.Barrier(2, timeout=10)  # broken if one has to wait for the other's end
    assert len([*read_ahead(lambda _: both.wait(), range(2), n_threads=2)]) == 2


def test_an_endless_stream_is_read_not_far_ahead_and_nothing_more_once_it_is_closed():
    taken: list[int] = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    values = read_ahead(lambda number: number, endless(), n_threads=2)
    assert [*islice(values, 10)] == [*range(10)]
    values.close()
    assert len(taken) <= 10 + 4 * 2


@pytest.mark.parametrize("n_threads", [0, 2])
def test_an_error_comes_in_its_items_place(n_threads: int):
    def read(number: int) -> int:
        if number == 2:
            raise ValueError("torn")
        return number

    values = read_ahead(read, range(5), n_threads=n_threads)
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(ValueError, match="torn"):
        next(values)
