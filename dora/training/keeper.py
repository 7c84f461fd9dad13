"""The states that a run leaves behind: the last few in `.states/`, the networks of some epochs in `epochs/`.

A state is copied into memory between two steps and written while the training goes on. A kill at any moment leaves the
states before it; one that a disk has damaged is put aside for the one before it.
"""

import logging
import threading
from pathlib import Path

from dora.training.checkpoint import Snapshot, TrainingState, load_state, snapshot
from dora.training.distributed import Ranks
from dora.training.states import STATES, saved_states
from dora.training.tensor_file import read_tensors

log = logging.getLogger("dora.keeper")

EPOCHS = "epochs"


class Keeper:
    """Writes and finds the states of one folder. All ranks make the same calls; rank 0 writes.

    One state is being written at a time: the next call waits for it, and raises the OSError that it ended with.
    """

    def __init__(self, folder: Path, *, keep_last: int, ranks: Ranks) -> None:
        self._folder, self._keep_last, self._ranks = folder, keep_last, ranks
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, state: TrainingState) -> None:
        """Take a copy of the state and begin to write it; it is `.states/step-….safetensors` once it is complete.

        Raises:
            OSError: if the state before it could not be written.
        """
        self.wait()
        is_writer = self._ranks.rank == 0
        copy = snapshot(state, keep=is_writer)
        if is_writer:
            path = self._folder / STATES / f"step-{state.step:08d}.safetensors"
            self._writer = threading.Thread(target=self._write, args=(copy, path), name="state writer")
            self._writer.start()

    def wait(self) -> None:
        """Until what `save` began is on the disk.

        Raises:
            OSError: if it could not be written.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """The same, at the end of the run."""
        self.wait()

    def newest(self, state: TrainingState) -> bool:
        """Bring `state` to where the newest readable state is; False if none was saved yet.

        Raises:
            ValueError: if all that were saved are damaged, or they are of a run of another config.
        """
        self.wait()
        path = self._ranks.decided_by_first(self._newest_readable)
        if path is None:
            return False
        load_state(path, state)
        return True

    def keep_epoch(self, state: TrainingState, epoch: int) -> None:
        """Write student and teacher as `epochs/epoch-….safetensors`, for good.

        Raises:
            OSError: if they cannot be written.
        """
        is_writer = self._ranks.rank == 0
        copy = snapshot(state, keep=is_writer, networks_only=True)
        if is_writer:
            copy.write(self._folder / EPOCHS / f"epoch-{epoch:04d}.safetensors")

    def finish(self, path: Path, state: TrainingState) -> None:
        """Write the last state to `path`, unless it is there, and remove those before it.

        Raises:
            OSError: if it cannot be written.
        """
        self.wait()
        is_writer = self._ranks.rank == 0
        if not path.exists():
            copy = snapshot(state, keep=is_writer)
            if is_writer:
                copy.write(path)
        if is_writer:
            for old in saved_states(self._folder):  # also of a run that was killed just here
                old.unlink()

    def _write(self, copy: Snapshot, path: Path) -> None:
        try:
            copy.write(path)
            for old in saved_states(self._folder)[self._keep_last :]:
                old.unlink()
        except Exception as error:
            self._error = error  # for the thread that trains

    def _newest_readable(self) -> Path | None:
        for torn in (self._folder / STATES).glob(".tmp-*"):  # of a run that was killed
            torn.unlink()
        for path in saved_states(self._folder):
            try:
                read_tensors(path)
            except ValueError as error:  # Damaged, or without the mark of what we write
                aside = path.with_name(f"{path.name}.damaged")
                path.rename(aside)
                log.warning("%s. It is put aside as %s; the state before it is taken.", error, aside.name)
            else:
                return path
        damaged = sorted((self._folder / STATES).glob("*.damaged"))
        if damaged:
            raise ValueError(
                f"no training state in {self._folder / STATES} is readable any more: {damaged[-1].name} and "
                f"{len(damaged) - 1} others. Look after that disk. To train from the beginning, remove the folder "
                f"{STATES} and run again."
            )
        return None
