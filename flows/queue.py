"""Questions to Slurm and wishes, each one short command; nothing here needs Slurm's accounting."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

PROGRAMS = ("sbatch", "squeue", "scancel")
TIMEOUT_S = 60
ALIVE = {
    "PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "PREEMPTED",
}  # fmt: skip


class Seen(NamedTuple):
    """A job as the queue shows it."""

    state: str
    reason: str
    start: str
    nodes: str

    @property
    def alive(self) -> bool:
        """Whether it runs, or may still run."""
        return self.state in ALIVE

    def __str__(self) -> str:
        if self.state == "PENDING":
            why = "" if self.reason == "None" else f" ({self.reason})"
            return f"is pending{why}" + ("" if self.start == "N/A" else f", expected to start {self.start}")
        return f"is {self.state.lower()}" + (f" on {self.nodes}" if self.nodes else "")


def find_programs() -> None:
    """Raise FileNotFoundError if this host has not what jobs are submitted with."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        raise FileNotFoundError(
            f"no {', '.join(missing)} on this host. Run the worker where jobs are submitted (a login node), "
            "or set DORA_LAUNCHER=local."
        )


def look(job: int) -> Seen | None:
    """The job in the queue; None if Slurm no longer knows it, some minutes after its end.

    Raises:
        ConnectionError: if the controller does not answer just now.
    """
    done = _run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r|%S|%N")
    if done.returncode == 0:
        return Seen(*done.stdout.strip().split("|")) if done.stdout.strip() else None
    if "Invalid job id" in done.stderr:
        return None
    raise ConnectionError(done.stderr.strip() or f"squeue ended with exit code {done.returncode}")


def named(name: str) -> list[int]:
    """Living jobs of this user with this name."""
    done = _run("squeue", "--noheader", "--me", f"--name={name}", "--format=%i")
    if done.returncode:
        raise ConnectionError(f"Slurm does not answer: {done.stderr.strip()}. Run again when `squeue` does.")
    return [int(line) for line in done.stdout.split()]


def submit(options: Sequence[str], script: str) -> int:
    """Sbatch a script; the job's number.

    Raises:
        ValueError: with Slurm's own words, if it does not take the job.
    """
    done = _run("sbatch", "--parsable", *options, script)
    number = re.match(r"\d+", done.stdout)
    if done.returncode or not number:
        asked = " ".join(options)
        raise ValueError(
            f"Slurm did not take the job: {done.stderr.strip() or done.stdout.strip()}. It was asked with {asked}. "
            "Change Machine.slurm (DORA_SLURM__PARTITION, DORA_SLURM__GRES, ...)."
        )
    return int(number[0])


def warn(job: int) -> None:
    """Tell the job's processes, but not its shell, to save and stop."""
    _run("scancel", "--quiet", "--signal=USR1", str(job))


def cancel(job: int) -> None:
    """Scancel."""
    _run("scancel", "--quiet", str(job))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    # The flow's Prefect variables, a password among them, are nothing for a job, which would inherit them.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer in {TIMEOUT_S} s")
    except FileNotFoundError:
        find_programs()
        raise
