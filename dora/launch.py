"""How a long job runs in a process of its own: started, listened to, stopped, its error said in one sentence.

A job is a command and the folder it works in. The folder's scratch files are the only link between the two processes:
`.output` (what the job printed), `.error` (the sentence it ended with), and what the job itself keeps there.
"""

import ctypes
import errno
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from dora.lease import LeaseLost, raise_if_lost

log = logging.getLogger("dora.launch")

REQUEUE_EXIT_CODE = 75  # sysexits.h: a temporary failure, the caller is invited to try again
LOG_FORMAT = "%(levelname)s %(name)s %(message)s"  # of a job's process; `forward` takes it apart again
GRACE_S = 60.0  # a big training state takes a while to save
POLL_S = 1.0
ASKED_TO_STOP = "was asked to stop and saved its state; run again to go on"
TAIL_LINES = 30
PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LIBC = ctypes.CDLL(None)  # loaded here: between fork and exec nothing may be imported


class LaunchError(RuntimeError):
    """A job that did not end well."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Interrupted(Exception):
    """A job was asked to stop and has saved its state: it ends with REQUEUE_EXIT_CODE."""


@runtime_checkable
class Launch(Protocol):
    """Runs a job's command to its end."""

    def __call__(self, command: list[str], folder: Path, poll: Callable[[], None]) -> None:
        """Call `poll` about once a second; raise LaunchError if the job fails, stop the job if `poll` raises."""
        ...


def run_here(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
    """Run a job as a child of this process, which it never outlives.

    Raises:
        LaunchError: with the job's own sentence if it left one, else with the end of what it printed.
    """
    (folder / ".error").unlink(missing_ok=True)
    with (folder / ".output").open("wb") as output:
        job = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal reaches us alone, and we stop the job in good order
            preexec_fn=die_with_parent,  # run_here keeps the thread that starts the job until the job's end
        )  # fmt: skip
    with (folder / ".output").open(errors="replace") as printed:
        try:
            while job.poll() is None:
                try:
                    job.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    forward(printed)
                    raise_if_lost()
                    poll()
        except LeaseLost:
            _kill(job)  # what it would save lies in another's folder now
            raise
        except BaseException:
            _stop(job)
            raise
        forward(printed)
    poll()
    if job.returncode:
        raise LaunchError(what_happened(command, folder, job.returncode), job.returncode)


def run_job(folder: Path, work: Callable[[], int]) -> int:
    """The other side: run a job's `work` and return its exit code, 2 for an error that the user can mend.

    Such an error (ValueError, OSError) is left in `.error` as one sentence; its traceback is in `.traceback`.
    """
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stdout)
    keep_memory()
    try:
        try:
            exit_code = work()
        except Interrupted:
            exit_code = REQUEUE_EXIT_CODE
        if exit_code == REQUEUE_EXIT_CODE:  # torchrun keeps the exit code of its processes to itself
            (folder / ".error").write_text(f"the job {ASKED_TO_STOP}")
        return exit_code
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        try:
            (folder / ".traceback").write_text(traceback.format_exc())
            # What is another process's fault is best said by that process.
            with (folder / ".error").open("x" if isinstance(error, ConnectionError) else "w") as file:
                file.write(sentence(error))
        except OSError:
            pass  # a full or read-only disk may be the very error; it is printed
        return 2


def sentence(error: ValueError | OSError) -> str:
    """What the user can do something about, without its traceback."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on the disk of {error.filename or 'the artifacts'}: free some and run again to go on"
    return str(error) or type(error).__name__


def keep_memory() -> None:
    """Have glibc keep what this process frees, up to 2 GiB, for its next blocks of up to 32 MiB; elsewhere nothing.

    It would give such blocks back to the kernel and get them again page by page, which is a twentieth of a small
    training's step on a CPU. Not by GLIBC_TUNABLES, of which glibc 2.36 hands on only the first to a child.
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process `number` when the thread that started it ends. Linux only; elsewhere nothing.

    For a child between fork and exec, or at its own beginning.
    """
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, number)


def forward(printed: IO[str]) -> None:
    """Log a job's new lines under the names and levels that it gave them."""
    for line in printed.read().splitlines():
        level, _, rest = line.partition(" ")
        name, _, message = rest.partition(" ")
        if name.split(".")[0] in ("dora", "eval") and level in logging.getLevelNamesMapping():
            logging.getLogger(name).log(logging.getLevelNamesMapping()[level], "%s", message)
        elif line.strip():
            log.info("%s", line)


def _stop(job: subprocess.Popen[bytes]) -> None:
    """Let the job save its state; after the grace, end its whole process group."""
    if job.poll() is None:
        job.terminate()
    try:
        job.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        log.warning("process %d did not stop within %.0f s and is killed", job.pid, GRACE_S)
        _kill(job)


def _kill(job: subprocess.Popen[bytes]) -> None:
    if job.poll() is None:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def what_happened(command: list[str], folder: Path, exit_code: int) -> str:
    """The sentence for a job that ended with this code, its own one if it left one; below 0: ended by that signal."""
    name = " ".join(command[1:])
    if exit_code == REQUEUE_EXIT_CODE:
        return f"{name} {ASKED_TO_STOP}"
    try:
        return (folder / ".error").read_text()
    except FileNotFoundError:
        pass
    end = "\n".join((folder / ".output").read_text(errors="replace").splitlines()[-TAIL_LINES:])
    if exit_code < 0:
        reason = f"{name} was ended by {signal.Signals(-exit_code).name}"
        return f"{reason} (out of memory?); run again to go on\n{end}" if exit_code == -signal.SIGKILL else reason
    return f"{name} failed with exit code {exit_code}:\n{end}"
