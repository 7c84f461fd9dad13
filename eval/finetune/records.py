"""What is measured image by image: shared out over the processes, kept line by line, gone on with after a kill."""

import errno
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dora.data.loader import in_order
from dora.launch import Interrupted
from dora.progress import Progress, silent
from eval.finetune import broken
from eval.finetune.memory import memory_explained
from eval.finetune.team import Team

PARTS = ".measured"
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
LOOK_EVERY_S = 0.1
PROGRESS_EVERY_S = 1.0


class Measured(NamedTuple):
    """All records by the image's number, on rank 0 (none on the others); and what belongs beside the numbers."""

    records: dict[int, Any]
    notes: tuple[str, ...]


class _Read(NamedTuple):
    number: int
    image: Any
    error: ValueError | OSError | None


def measure_each(
    folder: Path, n: int, work: Callable[[Any], Any], team: Team, progress: Progress = silent,
    max_broken_share: float = 0.0, *, read: Callable[[int], Any] = int, n_workers: int = 0,
    what: str = "image",
) -> Measured:  # fmt: skip
    """What `work(read(i))` says of each image i below `n`, as JSON keeps it; broken images have no record.

    `read` runs in `n_workers` loader processes, ahead of `work`, which runs here; as it is, `work` gets the number.
    Either raises ValueError or OSError, with the file's name, for a broken image; `what` is the word for one. A run
    that was killed goes on, with any number of processes; the broken ones are tried again. `folder` is this
    measurement's own. All ranks call it together; one that is done waits for the others.

    Raises:
        Interrupted: if asked to stop; what was measured is kept.
        ValueError: if more than `max_broken_share` of the images are broken.
        OSError: if the folder cannot be written.
    """
    ranks, parts = team.ranks, folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    done, run = ranks.decided_by_first(lambda: ([*_gathered(parts)[0]], _next_run(parts)))
    done = set(done)
    left = [index for index in range(n) if index not in done]
    own = left[ranks.rank :: ranks.world_size]
    path = parts / _name(run, ranks.rank)
    lost: dict[int, str] = {}
    told_at = 0.0

    def read_one(index: int) -> _Read:
        try:
            return _Read(index, read(index), None)
        except (ValueError, OSError) as error:
            return _Read(index, None, error)

    with (
        path.open("w") as file,
        in_order(read_one, own, n_workers=min(n_workers, len(own))) as images,
        memory_explained(1),
    ):
        for number, one in enumerate(images, start=1):
            line = _line(one, work)
            file.write(json.dumps(line) + "\n")
            file.flush()
            if "broken" in line:
                lost[one.number] = line["broken"]
                broken.warn({one.number: line["broken"]}, what=what)
                broken.refuse_too_many(lost, n, max_share=max_broken_share, what=f"{what}s")
            team.tell(number)
            if team.should_stop():
                raise Interrupted
            if ranks.rank == 0 and time.monotonic() - told_at > PROGRESS_EVERY_S:
                # The others are about as far.
                progress(min(n, len(done) + number * ranks.world_size), n, f"{what}s", "")
                told_at = time.monotonic()
    for _ in range(-(-len(left) // ranks.world_size) - len(own)):  # nobody who waits has told less than another
        team.tell(len(own))
    path.with_suffix(".end").touch()
    _wait_for_others(parts, run, team)
    team.catch_up(len(own))
    records: dict[int, Any] = {}

    def gather() -> dict[int, str]:
        nonlocal records
        records, found = _gathered(parts)
        broken.refuse_too_many(found, n, max_share=max_broken_share, what=f"{what}s")
        return found

    found = ranks.decided_by_first(gather)
    if ranks.rank == 0:
        progress(n, n, f"{what}s", "")
    return Measured(records, broken.notes(found, n, what=f"{what}s", consequence="count for nothing"))


def _line(one: _Read, work: Callable[[Any], Any]) -> dict[str, Any]:
    try:
        if one.error is not None:
            raise one.error
        return {"image": one.number, "record": work(one.image)}
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
            raise  # of what `work` writes: no fault of the image
        return {"image": one.number, "broken": broken.reason(error)}


def _name(run: int, rank: int) -> str:
    return f"run-{run:04d}-{rank:05d}.jsonl"


def _next_run(parts: Path) -> int:
    """A run writes files of its own: nothing is ever appended to what a kill has torn."""
    return 1 + max((int(path.name.split("-")[1]) for path in parts.glob("run-*")), default=0)


def _lines(parts: Path) -> Iterator[dict[str, Any]]:
    """All complete lines, the oldest run's first."""
    for path in sorted(parts.glob("run-*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                break  # torn by a kill; nothing follows it


def _gathered(parts: Path) -> tuple[dict[int, Any], dict[int, str]]:
    """Records by the image's number, and why others have none."""
    records: dict[int, Any] = {}
    found: dict[int, str] = {}
    for line in _lines(parts):
        if "record" in line:
            records[line["image"]] = line["record"]
        else:
            found[line["image"]] = line["broken"]
    for number in records:
        found.pop(number, None)  # it was mended after that run
    return dict(sorted(records.items())), dict(sorted(found.items()))


def _wait_for_others(parts: Path, run: int, team: Team) -> None:
    """Without an exchange, which would have to end in time: others may have much more left to do."""
    ends = [(parts / _name(run, rank)).with_suffix(".end") for rank in range(team.ranks.world_size)]
    while not all(end.exists() for end in ends):
        if team.should_stop():
            raise Interrupted
        time.sleep(LOOK_EVERY_S)
