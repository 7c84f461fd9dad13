"""Things read one after the other, in this process or in several others: the same either way.

The loader processes are forked, so that what they read with need not be pickled; the i-th item is worker i's, modulo
their number. They die with the thread that has started them, and of no signal that asks a whole job to stop. A thing
travels as one message through a pipe: shared memory is 64 MB in many a container.
"""

import io
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

import torch

from dora.launch import die_with_parent, sentence

Item = TypeVar("Item")
T = TypeVar("T")

AHEAD = 2  # messages of each process that wait here for their turn, besides the one in its pipe
END = b""


class Failure(NamedTuple):
    """What a loader process ended with."""

    kind: str
    text: str
    trace: str = ""

    def error(self) -> Exception:
        """The exception to raise in its place."""
        kinds: dict[str, type[Exception]] = {"ValueError": ValueError, "OSError": OSError}
        error = kinds.get(self.kind, RuntimeError)(self.text)
        if self.trace:
            error.add_note(f"In the loader process:\n{self.trace}")
        return error


class Worker(NamedTuple):
    """A loader process, and the pipe's end on which it is heard."""

    process: BaseProcess
    connection: Connection


@contextmanager
def in_order(read: Callable[[Item], T], items: Iterable[Item], *, n_workers: int) -> Generator[Iterator[T]]:
    """What `read` gives for each item, in their order; read by `n_workers` processes, or here when it is asked for.

    The iterator raises what `read` raises: in a loader process a ValueError or OSError is one again, anything else
    becomes a RuntimeError of one sentence; a process that was killed is an OSError.
    """
    if n_workers == 0:
        yield map(read, items)
        return
    workers: list[Worker] = []
    try:
        for number in range(n_workers):
            workers.append(_start(read, islice(items, number, None, n_workers)))
        yield _received(workers)
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()


def _start(read: Callable[[Item], Any], items: Iterable[Item]) -> Worker:
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(read, items, theirs), name="loader", daemon=True)
    cv2 = sys.modules.get("cv2")
    if cv2 is not None:
        cv2.setNumThreads(0)  # its threads would not be there after the fork, and be waited for
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        process.start()
    theirs.close()
    return Worker(process, ours)


def _work(read: Callable[[Item], Any], items: Iterable[Item], connection: Connection) -> None:
    """The loader process. Who asks the job to stop often tells all of its processes: the reader decides for us."""
    die_with_parent(signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = os.getppid()
    try:
        for item in items:
            message, failed = _message(read, item)
            connection.send_bytes(message)
            if failed or os.getppid() != parent:
                return
        connection.send_bytes(END)
    except BrokenPipeError:
        pass  # nobody wants more


def _message(read: Callable[[Item], Any], item: Item) -> tuple[bytes, bool]:
    try:
        return _pickled(read(item)), False
    except (ValueError, OSError) as error:
        kind = "OSError" if isinstance(error, OSError) else "ValueError"
        return _pickled(Failure(kind, sentence(error))), True
    except Exception as error:
        what = (str(error).splitlines() or [""])[0]
        text = f"reading item {item} failed in a loader process ({type(error).__name__}: {what})"
        return _pickled(Failure("RuntimeError", text, traceback.format_exc())), True


def _received(workers: Sequence[Worker]) -> Iterator[Any]:
    waiting: list[deque[bytes]] = [deque() for _ in workers]
    ended: set[int] = set()
    for turn in cycle(range(len(workers))):
        while not waiting[turn]:
            open_ones = {
                worker.connection: number
                for number, worker in enumerate(workers)
                if number not in ended and len(waiting[number]) < AHEAD
            }
            for connection in wait([*open_ones]):
                number = open_ones[connection]  # pyright: ignore[reportArgumentType]
                message = _heard(workers[number])
                waiting[number].append(message)
                if message == END:
                    ended.add(number)
        message = waiting[turn].popleft()
        if message == END:
            return
        thing = pickle.loads(message)
        if isinstance(thing, Failure):
            raise thing.error()
        yield thing


def _heard(worker: Worker) -> bytes:
    try:
        return worker.connection.recv_bytes()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        text = (
            f"a loader process {how} (out of memory?). Lower Machine.n_workers (DORA_N_WORKERS) and run again to go on."
        )
        return _pickled(Failure("OSError", text))


class _Pickler(pickle.Pickler):
    """Keeps a tensor's bytes in the message, where torch would put them into shared memory or an archive."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is torch.Tensor and obj.device.type == "cpu" and obj.layout is torch.strided:
            if obj.dtype is not torch.bfloat16 and not obj.requires_grad:
                return torch.from_numpy, (obj.numpy(),)
        return NotImplemented


def _pickled(thing: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(thing)
    return buffer.getvalue()
