"""Reading in threads, ahead of who needs it and in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


def read_ahead(read: Callable[[Item], Value], items: Iterable[Item], *, n_threads: int) -> Generator[Value]:
    """`read` of each item in order, up to `n_threads` at a time and not far ahead; 0 reads here.

    Threads, because decoding and resizing release Python's lock.
    """
    if not n_threads:
        yield from map(read, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(n_threads, "read") as pool:
        futures = deque[Future[Value]]()
        try:
            futures += (pool.submit(read, item) for item in islice(waiting, 4 * n_threads))
            while futures:
                yield futures.popleft().result()
                futures += (pool.submit(read, item) for item in islice(waiting, 1))
        finally:
            for future in futures:
                future.cancel()
