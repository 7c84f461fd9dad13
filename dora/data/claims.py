"""Which tar of a video is written by whom, over threads, processes and hosts that share a folder."""

import threading
from pathlib import Path

from dora.data.tars import Record, finished, tar_name
from dora.lease import Lease

CLAIMS = ".claims"


class Claims:
    """The tars of one video that are still to be written. Claims of the dead are free again."""

    def __init__(self, folder: Path, *, n_tars: int, store: str | None, timeout_s: float) -> None:
        self.n_tars = n_tars
        self.n_written = 0  # by us
        self._folder, self._store, self._timeout_s = folder, store, timeout_s
        self._lock = threading.Lock()
        self._records: dict[int, Record] = {}
        self._mine: dict[int, Lease] = {}
        self.refresh()

    def refresh(self) -> list[Record | None]:
        """The records of all finished tars, in order, those of other processes included."""
        with self._lock:
            for number in range(self.n_tars):
                if number not in self._records:
                    record = finished(self._folder, tar_name(number), store=self._store)
                    if record:
                        self._records[number] = record
            return [self._records.get(number) for number in range(self.n_tars)]

    def begin(self) -> int | None:
        """Claim a tar at which a pass over the video may begin; None if there is none.

        A pass goes on from tar to tar. So it begins where no other will arrive, or in the middle of the longest stretch
        that another is only just entering.
        """
        while stretches := self._free():
            in_work = self._in_work()
            first, end = max(stretches, key=lambda stretch: (stretch[0] - 1 not in in_work, stretch[1] - stretch[0]))
            number = (first + end) // 2 if first - 1 in in_work else first
            if self.take(number):
                return number
        return None

    def take(self, number: int) -> bool:
        """Claim this tar, if there is such a tar and nobody writes it or has written it."""
        with self._lock:
            if not 0 <= number < self.n_tars or number in self._records or number in self._mine:
                return False
            lease = self._lease(number)
            if lease.claim() is not None:
                return False
            record = finished(self._folder, tar_name(number), store=self._store)
            if record:  # by somebody who has ended since we looked
                self._records[number] = record
                lease.release()
                return False
            self._mine[number] = lease
            return True

    def give_back(self, number: int, record: Record | None) -> None:
        """End a claim of ours, with the tar's record or without."""
        with self._lock:
            if record:
                self._records[number] = record
                self.n_written += 1
            self._mine.pop(number).release()

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
            others = [int(path.name) for path in (self._folder / CLAIMS).glob("[0-9]*") if (path / ".lease").exists()]
            return {n for n in others if n not in self._records and self._lease(n).owner()}

    def _lease(self, number: int) -> Lease:
        folder = self._folder / CLAIMS / f"{number:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        return Lease(folder, timeout_s=self._timeout_s)
