"""The training batches of one process, read and augmented ahead of the step that needs them."""

import pickle
import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import cycle, islice
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch

from dora.config import PretrainConfig
from dora.data.ahead import read_ahead
from dora.data.augment import Views, augment_clip, augment_clips
from dora.data.clips import Clips
from dora.data.loader import in_order
from dora.data.order import Place
from dora.data.pixels import sent
from dora.seeds import derived_seed

T = TypeVar("T")
CPU = torch.device("cpu")


@contextmanager
def batches(
    clips: Clips, places: Iterable[Place], sizes: Sequence[int], config: PretrainConfig, *,
    device: torch.device, n_workers: int, n_threads: int = 0, augment: Literal["auto", "device", "workers"] = "auto",
) -> Generator[Iterator[Views]]:  # fmt: skip
    """Views of as many clips as `sizes` says in turn, until the places end.

    Clips are read in `n_workers` loader processes or, if there are none, in `n_threads` threads, or here. They are
    augmented here, on the training device, or by whoever read them, one clip after the other on the CPU; "auto" leaves
    that to loader processes where the device is the CPU. A clip's cuts and draws depend on its place alone, so that
    neither this nor workers nor threads nor ranks nor batch sizes change what is learnt from.

    The iterator raises a ValueError or OSError for a clip that cannot be read, or a loader process that was killed.
    """
    by_reader = augment == "workers" or (augment == "auto" and device.type == "cpu" and n_workers > 0)
    if n_workers:
        # A copy as another process would get it: of locks and threads that the cache has here, a fork has only the
        # locks, held by nobody.
        clips = pickle.loads(pickle.dumps(clips))
    read = partial(_read, clips, config, by_reader)
    reading = (
        in_order(read, places, n_workers=n_workers)
        if n_workers
        else closing(read_ahead(read, places, n_threads=n_threads))
    )
    with reading as contents:
        yield _grouped(contents, sizes, config, device=device, by_reader=by_reader)


def _read(
    clips: Clips, config: PretrainConfig, augments: bool, place: Place
) -> tuple[Place, np.ndarray | tuple[np.ndarray, ...]]:
    """A place's frames or, if they are augmented by who reads them, its global and local views; as arrays."""
    frames = clips.read(place.start, clips.cuts(place.start, derived_seed(config.seed, "cuts", place.position)))
    if not augments:
        return place, frames
    views = augment_clip(torch.from_numpy(frames), config.augment, _draws_of(place, config))
    return place, tuple(view.numpy() for view in views)


def _grouped(
    read: Iterator[tuple[Place, Any]], sizes: Sequence[int], config: PretrainConfig, *, device: torch.device,
    by_reader: bool,
) -> Iterator[Views]:  # fmt: skip
    for size in cycle(sizes):
        batch = [*islice(read, size)]
        if not batch:
            return
        contents = [content for _, content in batch]
        positions = tuple(place.position for place, _ in batch)
        if by_reader:
            kinds = [[torch.from_numpy(array) for array in kind] for kind in zip(*contents, strict=True)]
            global_views, local_views = (sent(torch.stack(kind, 1), device) for kind in kinds)
        else:
            generators = [_draws_of(place, config) for place, _ in batch]
            frames = [torch.from_numpy(array) for array in contents]
            global_views, local_views = augment_clips(frames, config.augment, generators, device=device)
        yield Views(global_views, local_views, positions)


def _draws_of(place: Place, config: PretrainConfig) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(config.seed, "views", place.position))


class ReadAhead(Generic[T]):
    """Runs an iterator in a thread of its own, `depth` items ahead; `wait_s` is how long the consumer had to wait.

    What the thread does on a GPU it does on a stream of its own, beside the consumer's work: on one stream a batch
    would be made only after all steps that were queued before it.
    """

    def __init__(self, items: Iterator[T], depth: int, *, device: torch.device = CPU) -> None:
        self.wait_s = 0.0
        self._device = device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: queue.Queue[tuple[T, torch.Event | None] | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items,), name="read ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> "ReadAhead[T]":
        return self

    def __next__(self) -> T:
        started = time.perf_counter()
        ready = self._ready.get()
        self.wait_s += time.perf_counter() - started
        if isinstance(ready, BaseException):
            raise ready
        item, made = ready
        if made:
            _take_over(item, made, torch.cuda.current_stream(self._device))
        return item

    def close(self) -> None:
        """End the thread; what it has read ahead is dropped."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)  # it may be waiting for room
            except queue.Empty:
                pass

    def _run(self, items: Iterator[T]) -> None:
        try:
            with torch.cuda.stream(self._side):  # of this thread alone; None: as it is
                for item in items:
                    self._ready.put((item, self._side.record_event() if self._side else None))
                    if self._stop.is_set():
                        return
            self._ready.put(StopIteration())
        except BaseException as error:  # the consumer's to handle
            self._ready.put(error)


def _take_over(item: Any, made: torch.Event, stream: torch.cuda.Stream) -> None:
    """Let `stream` use the tensors of an item from when they are made, without waiting for it here."""
    stream.wait_event(made)
    for part in item:
        if isinstance(part, torch.Tensor):
            # Else its memory, once freed here, could be written by the other stream while this one still reads it.
            part.record_stream(stream)
