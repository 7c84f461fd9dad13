"""Several works at once, such as a study's cells: each has its share of this host, or its own jobs in Slurm."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from itertools import cycle, islice
from typing import Any, NamedTuple, TypeVar

from dora.artifacts import Machine
from dora.torchrun import visible_gpus
from flows.ends import Future
from flows.launch import on_gpus

A = TypeVar("A")
Work = Callable[[Machine], Generator[Future, None, A]]


class Place(NamedTuple):
    """What one work after the other may use."""

    machine: Machine
    gpus: tuple[str, ...] = ()  # as CUDA names them; none: all that there are


def side_by_side(works: Sequence[Work[A]], machine: Machine) -> list[A]:
    """What the works return, in their order; `machine.cells_at_once` of them are under way.

    A work is told the machine that it may use, and gives one future after another, each when it can go no further
    before that one's end.
    """
    free, to_begin = deque(places(machine)), deque(enumerate(works))
    under_way: dict[Any, tuple[int, Place, Generator[Future, None, A]]] = {}  # by what they wait for
    found: dict[int, A] = {}

    def go_on(number: int, place: Place, work: Generator[Future, None, A]) -> None:
        try:
            with on_gpus(place.gpus):
                future = next(work)
        except StopIteration as end:
            found[number] = end.value
            free.append(place)
        else:
            under_way[future.wrapped_future] = number, place, work

    while to_begin or under_way:
        while to_begin and free:
            place, (number, work) = free.popleft(), to_begin.popleft()
            go_on(number, place, work(place.machine))
        for ended in wait(under_way, return_when=FIRST_COMPLETED).done:
            go_on(*under_way.pop(ended))
    return [found[number] for number in range(len(works))]


def places(machine: Machine) -> list[Place]:
    """`cells_at_once` shares of the machine's cores and GPUs; more than there are GPUs share them.

    What is set by hand, and what Slurm gives a job, stays.
    """
    n = machine.cells_at_once
    if n == 1 or machine.launcher == "slurm":
        return n * [Place(machine)]
    gpus = [] if machine.device == "cpu" else visible_gpus()
    n_processes = machine.n_processes or max(1, len(gpus) // n)
    threads = machine.threads or max(1, machine.n_cores // (n * n_processes))  # of each process
    share = machine.model_copy(update={"threads": threads, "n_processes": n_processes})
    if not gpus:
        return n * [Place(share)]
    in_turn = cycle(gpus)
    return [Place(share, tuple(islice(in_turn, min(n_processes, len(gpus))))) for _ in range(n)]
