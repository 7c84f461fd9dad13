"""A long job in Slurm: submitted, or found again; its queue state, its words and its end told; cancelled with the run.

The job's folder is on a shared file system and is again the only link. Slurm's accounting is not needed: whether the
job is alive the queue says, how it ended its own script does, in `.slurm.exit`.
"""

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dora.artifacts import Machine
from dora.launch import ASKED_TO_STOP, POLL_S, REQUEUE_EXIT_CODE, Launch, LaunchError, forward, what_happened
from dora.lease import LeaseLost
from dora.torchrun import RANKS, tell_ranks
from flows import queue, sbatch
from flows.queue import Seen
from flows.sbatch import ERROR, EXIT, MACHINE, OUTPUT, SCRIPT, STOP, Spread

log = logging.getLogger("flows.slurm")

RECORD = ".slurm.json"
GONE_LIMIT_S = 120.0
EXPECTED_EVERY_S = 600.0
TAIL_BYTES = 5000
# A file that another host wrote is seen when the cache of its folder is read anew; NFS does so after a minute at most.
SEEN_LIMIT_S = 65.0

ENDS = {
    "CANCELLED": "was cancelled in Slurm; run again to go on",
    "TIMEOUT": "reached its time limit; run again to go on, or set Machine.slurm.time to more",
    "OUT_OF_MEMORY": "needed more memory than it had asked for. Set Machine.slurm.memory, or Machine.micro_batch",
    "NODE_FAIL": "lost its node; run again to go on",
    "BOOT_FAIL": "lost its node; run again to go on",
}


def in_slurm(machine: Machine, spread: Spread) -> Launch:
    """How a command is run as a job of Slurm, as Machine.slurm says."""

    def launch(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
        job = find(folder)
        if job is None:
            job = submit(machine, spread, command, folder)
        try:
            code, seen = _follow(job, folder, poll, every_s=machine.slurm.ask_every_s)
        except LeaseLost:
            raise  # who has taken over follows the same job
        except BaseException:
            stop(job, folder, grace_s=machine.slurm.stop_s)
            raise
        (folder / RECORD).unlink(missing_ok=True)
        poll()
        if code:
            tell_ranks(folder)
            raise LaunchError(_how_it_ended(job, command, folder, code, seen), code)

    return launch


def submit(machine: Machine, spread: Spread, command: list[str], folder: Path) -> int:
    """Give Slurm a new job, and write its number beside the artifact that it makes; the number.

    Raises:
        ValueError: if Slurm does not take the job.
    """
    for name in (ERROR, EXIT, STOP):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / RANKS, ignore_errors=True)
    (folder / OUTPUT).write_bytes(b"")
    (folder / MACHINE).write_text(machine.model_dump_json())
    patience = machine.peer_timeout_s
    text = sbatch.script(machine.slurm, folder, command, spread=spread, cwd=Path.cwd(), patience_s=patience)
    (folder / SCRIPT).write_text(text)
    job = queue.submit(sbatch.options(machine.slurm, folder, spread), str(folder / SCRIPT))
    temporary = folder / f"{RECORD}.{os.getpid()}"
    temporary.write_text(json.dumps({"job": job}))
    temporary.replace(folder / RECORD)
    log.info("submitted Slurm job %d (%s)", job, sbatch.job_name(folder))
    return job


def find(folder: Path) -> int | None:
    """The job of an earlier flow that was killed: one that still works here, or has finished meanwhile; else None.

    A job that nobody wrote down (the flow died in that moment, or the folder was begun anew), and one that was told
    to stop, are ended first: one job at a time works in a folder.
    """
    try:
        job = int(json.loads((folder / RECORD).read_text())["job"])
    except FileNotFoundError:
        job = None
    living = queue.named(sbatch.job_name(folder))
    if job is not None and not (folder / STOP).exists():
        if job in living:
            log.info("found Slurm job %d of an earlier run, and follow it", job)
            return job
        if _exit_code(folder) == 0:
            log.info("Slurm job %d of an earlier run has finished meanwhile", job)
            return job
    for stray in living:
        log.warning("Slurm job %d of an earlier run is cancelled before another one begins", stray)
        queue.cancel(stray)
    give_up = time.monotonic() + GONE_LIMIT_S
    while left := queue.named(sbatch.job_name(folder)):
        if time.monotonic() > give_up:
            raise ConnectionError(f"Slurm job {left[0]} of an earlier run does not end; `scancel {left[0]}` it.")
        time.sleep(POLL_S)
    return None


def stop(job: int, folder: Path, *, grace_s: float) -> None:
    """Let the job save its state and end; after the grace, scancel it. A job that has not begun goes at once."""
    log.info("stopping Slurm job %d", job)
    (folder / STOP).touch()  # tells its script not to requeue
    give_up = time.monotonic() + grace_s
    seen = _look(job)
    if seen and seen.state == "RUNNING":
        queue.warn(job)
        while seen and seen.state == "RUNNING" and _exit_code(folder) is None and time.monotonic() < give_up:
            time.sleep(min(POLL_S, grace_s))
            seen = _look(job) or seen
    if _exit_code(folder) is None:
        queue.cancel(job)


def _follow(job: int, folder: Path, poll: Callable[[], None], *, every_s: float) -> tuple[int, Seen | None]:
    """Until the job's end: log what it says and its moves in the queue. Its exit code, and how it was seen last."""
    told, told_at, asked_at, ended_at = "", 0.0, -every_s, None
    seen: Seen | None = None
    with (folder / OUTPUT).open(errors="replace") as printed:
        _skip_all_but_the_end(printed)
        while (code := _exit_code(folder)) is None:
            if time.monotonic() - asked_at >= every_s:
                asked_at = time.monotonic()
                try:
                    seen = queue.look(job)
                    now = f"Slurm job {job} {seen or 'is no longer in the queue'}"
                    over = seen is None or not seen.alive
                except ConnectionError as error:
                    now, over = f"Slurm does not answer, job {job} goes on: {error}", False
                # A start that is only expected moves with every other job.
                if now != told and (_move(now) != _move(told) or time.monotonic() - told_at > EXPECTED_EVERY_S):
                    log.info("%s", now)
                    told, told_at = now, time.monotonic()
                ended_at = (ended_at or time.monotonic()) if over else None
            if ended_at and time.monotonic() - ended_at > _patience(seen):
                break
            forward(printed)
            poll()
            time.sleep(POLL_S)
        forward(printed)
    return (1 if code is None else code), seen


def _skip_all_but_the_end(printed: IO[str]) -> None:
    """Of a job that is found again, an earlier run's log has the rest."""
    before = os.fstat(printed.fileno()).st_size - TAIL_BYTES
    if before > 0:
        printed.seek(before)
        printed.readline()


def _move(text: str) -> str:
    return text.rpartition(" start ")[0] or text


def _patience(seen: Seen | None) -> float:
    """Seconds in which the exit code of a job that is over may still come to light."""
    return SEEN_LIMIT_S if seen is None or seen.state == "COMPLETED" else 3 * POLL_S


def _look(job: int) -> Seen | None:
    try:
        return queue.look(job)
    except ConnectionError:
        return None


def _exit_code(folder: Path) -> int | None:
    """Of the whole job, None before its end; by a signal: the signal's number, below 0."""
    try:
        code = int((folder / EXIT).read_text())
    except FileNotFoundError:
        return None
    if code and (folder / ERROR).exists() and ASKED_TO_STOP in (folder / ERROR).read_text():
        return REQUEUE_EXIT_CODE  # of torchrun's processes; its own is 1
    return 128 - code if code - 128 in {number.value for number in signal.Signals} else code


def _how_it_ended(job: int, command: list[str], folder: Path, code: int, seen: Seen | None) -> str:
    if (folder / EXIT).exists() or (folder / ERROR).exists():
        return what_happened(command, folder, code)
    end = what_happened(command, folder, code)
    if seen is None:
        return f"Slurm job {job} is gone without an exit code; run again to go on.\n{end}"
    return f"Slurm job {job} {ENDS.get(seen.state, f'ended as {seen.state} ({seen.reason})')}.\n{end}"
