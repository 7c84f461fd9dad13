"""Which tar of a video is written by whom, over threads, processes and hosts that share a folder."""

import json
import threading
import time
from pathlib import Path
from typing import NamedTuple

from dora.data.tars import Record, finished, tar_name
from dora.lease import Lease

JOB = ".job.json"
CLAIMS = ".claims"
_POLL_S = 0.1


class Claim(NamedTuple):
    """The right to write one tar, and the folder for what is unfinished of it."""

    number: int
    lease: Lease
    folder: Path


class Claims:
    """The tars of one job that are still to be written. Claims of the dead are free again."""

    def __init__(self, folder: Path, *, key: str, n_tars: int, store: str | None, timeout_s: float) -> None:
        self.n_tars = n_tars
        self.n_written = 0  # by us
        self._folder, self._key, self._store, self._timeout_s = folder, key, store, timeout_s
        self._lock = threading.Lock()
        self._records: dict[int, Record] = {}
        self._mine: set[int] = set()
        self.refresh()

    def refresh(self) -> list[Record | None]:
        """The records of all finished tars, in order, those of other processes included."""
        with self._lock:
            for number in range(self.n_tars):
                if number not in self._records and (record := self._find(number)):
                    self._records[number] = record
            return [self._records.get(number) for number in range(self.n_tars)]

    def is_open(self) -> bool:
        """Whether the job is still to be done: its owner takes it away before anything else at the end."""
        try:
            return json.loads((self._folder / JOB).read_bytes())["key"] == self._key
        except (OSError, ValueError, KeyError):
            return False

    def begin(self) -> Claim | None:
        """Claim a tar at which a pass over the video may begin; None if there is none.

        A pass goes on from tar to tar. So it begins where no other will arrive, or in the middle of the longest stretch
        that another is only just entering.
        """
        while stretches := self._free():
            in_work = self._in_work()
            first, end = max(stretches, key=lambda stretch: (stretch[0] - 1 not in in_work, stretch[1] - stretch[0]))
            if claim := self.take((first + end) // 2 if first - 1 in in_work else first):
                return claim
            if not self.is_open():
                return None
        return None

    def take(self, number: int) -> Claim | None:
        """Claim this tar, if there is such a tar and nobody writes it or has written it."""
        with self._lock:
            if not 0 <= number < self.n_tars or number in self._records or number in self._mine or not self.is_open():
                return None
            lease = self._lease(number)
            if lease.claim() is not None:
                return None
            record = self._find(number)  # by somebody who has ended since we looked
            # In this order: records go after the job, so where there is a job, "no record" is true.
            if record or not self.is_open():
                lease.release()
                if record:
                    self._records[number] = record
                return None
            for path in lease.path.parent.glob("*.tar"):
                path.unlink(missing_ok=True)  # of a writer that has died
            self._mine.add(number)
            return Claim(number, lease, lease.path.parent)

    def give_back(self, claim: Claim, record: Record | None) -> None:
        """End a claim of ours, with the tar's record or without."""
        with self._lock:
            if record:
                self._records[claim.number] = record
                self.n_written += 1
            self._mine.discard(claim.number)
            claim.lease.release()

    def close(self) -> None:
        """Take the job away, and wait for those who still write: after that nobody does."""
        (self._folder / JOB).unlink(missing_ok=True)
        while self._in_work():
            time.sleep(_POLL_S)

    def _find(self, number: int) -> Record | None:
        return finished(self._folder, tar_name(number), key=self._key, store=self._store)

    def _free(self) -> list[tuple[int, int]]:
        """Stretches [first, end) of tars that nobody writes or has written."""
        records, in_work = self.refresh(), self._in_work()
        stretches: list[tuple[int, int]] = []
        for number, record in enumerate(records):
            if record or number in in_work:
                continue
            if stretches and stretches[-1][1] == number:
                stretches[-1] = stretches[-1][0], number + 1
            else:
                stretches.append((number, number + 1))
        return stretches

    def _in_work(self) -> set[int]:
        with self._lock:
            claimed = [path for path in (self._folder / CLAIMS).glob("[0-9]*") if (path / ".lease").exists()]
            return {int(path.name) for path in claimed if Lease(path, timeout_s=self._timeout_s).owner()}

    def _lease(self, number: int) -> Lease:
        folder = self._folder / CLAIMS / f"{number:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        return Lease(folder, timeout_s=self._timeout_s)
