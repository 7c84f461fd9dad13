"""The training batches of one process, read and augmented ahead of the step that needs them."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch.utils.data import DataLoader, Dataset

from dora.config import PretrainConfig
from dora.data.augment import Views, augment_clip, stack_views
from dora.data.clips import Clips
from dora.data.order import Place
from dora.seeds import derived_seed

T = TypeVar("T")


def batches(
    clips: Clips, places: Iterable[Place], sizes: Sequence[int], config: PretrainConfig, *,
    device: torch.device, n_workers: int,
) -> Iterator[Views]:  # fmt: skip
    """Views of as many clips as `sizes` says in turn, until the places end.

    Decoding may run in `n_workers` loader processes; augmentation always runs here, on the training device. A clip's
    draws depend on its place alone, so that neither workers nor ranks nor batch sizes change what is learnt from.
    """

    def views(place: Place, frames: UInt8[np.ndarray, "T Y X 3"]) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(derived_seed(config.seed, "views", place.position))
        return augment_clip(torch.from_numpy(frames).to(device), config.augment, generator)

    read = _read(clips, places, n_workers)
    for size in cycle(sizes):
        batch = [views(place, frames) for place, frames in islice(read, size)]
        if not batch:
            return
        yield stack_views(batch)


class ReadAhead(Generic[T]):
    """Runs an iterator in a thread of its own, `depth` items ahead; `wait_s` is how long the consumer had to wait."""

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self.wait_s = 0.0
        self._ready: queue.Queue[T | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items,), name="read ahead", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        started = time.perf_counter()
        item = self._ready.get()
        self.wait_s += time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
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
            for item in items:
                self._ready.put(item)
                if self._stop.is_set():
                    return
            self._ready.put(StopIteration())
        except BaseException as error:  # the consumer's to handle
            self._ready.put(error)


def _read(clips: Clips, places: Iterable[Place], n_workers: int) -> Iterator[tuple[Place, np.ndarray]]:
    if n_workers == 0:
        for place in places:
            yield place, clips.read(place.start)
        return
    loader = DataLoader(
        _Reader(clips),
        batch_size=None,
        sampler=places,
        num_workers=n_workers,
        # Frames come as arrays through the workers' pipes: shared memory is 64 MB in many a container.
        collate_fn=_as_it_is,
        multiprocessing_context="forkserver",  # to fork beside running threads can hang
        generator=torch.Generator(),  # else the loader draws from the generator that drop path uses
    )
    for place, frames in loader:
        if isinstance(frames, Exception):
            raise frames
        yield place, frames


class _Reader(Dataset[Any]):
    def __init__(self, clips: Clips) -> None:
        self.clips = clips

    def __getitem__(self, place: Place) -> tuple[Place, np.ndarray | Exception]:
        try:
            return place, self.clips.read(place.start)
        except (ValueError, OSError) as error:
            return place, error  # raised in a worker, it would arrive wrapped in a traceback


def _as_it_is(item: T) -> T:
    return item
