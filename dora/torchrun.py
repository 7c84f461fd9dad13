"""A job on all devices of this host, or of several: under torchrun if it is to be several processes.

What the first process prints is the job's output. Those of the others say the same or nothing, into files of their
own below `.ranks`, and are read if the job fails.
"""

import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dora.artifacts import Machine
from dora.launch import GRACE_S, TAIL_LINES, Launch, LaunchError, run_here

log = logging.getLogger("dora.torchrun")

RANKS = ".ranks"
MOST_TOLD = 8  # processes: if hundreds fail, they fail alike


class Node(NamedTuple):
    """One host among those that do a job together; each is told by whoever starts all of them."""

    number: int
    n_nodes: int
    address: str  # of node 0, where all processes meet
    port: int

    def meeting(self) -> list[str]:
        """Torchrun's options. Static: with its default, c10d, hosts of one name wait for each other for ever."""
        meet = ["--rdzv-backend=static", f"--master-addr={self.address}", f"--master-port={self.port}"]
        return [f"--nnodes={self.n_nodes}", f"--node-rank={self.number}", *meet]


def on_all_devices(
    machine: Machine, one_process: Launch = run_here, node: Node | None = None, *, at_most: int | None = None
) -> Launch:
    """How a command that can be several processes is started here; `one_process` starts it, or torchrun.

    No more than `at_most` processes: the others would have no part of a batch.
    """
    wanted, n = n_processes(machine), n_processes(machine, at_most=at_most)
    meeting = node.meeting() if node and node.n_nodes > 1 else ["--standalone"]
    if n < wanted:
        log.info("%d of %d processes work on this, as it has no more parts", n, wanted)
    if n == 1 and "--standalone" in meeting:
        return one_process

    def launch(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
        python, *module = command
        torchrun = [python, "-m", "torch.distributed.run", *meeting, f"--nproc-per-node={n}"]
        # Torchrun's own half a minute may be too short to save a big training state.
        torchrun.append(f"--shutdown-timeout={GRACE_S - 5:.0f}")
        torchrun += _files_of_their_own(folder, number=node.number if node else 0, n=n)
        # Left alone, torchrun gives each of several processes one thread, and says so in every log.
        threads = machine.threads or max(1, machine.n_cores // n)
        try:
            one_process(["env", f"OMP_NUM_THREADS={threads}", *torchrun, *module], folder, poll)
        except LaunchError:
            tell_ranks(folder)
            raise

    return launch


def tell_ranks(folder: Path) -> None:
    """Log the end of what every process but the first has printed, of a job that has failed in this folder."""
    folders = sorted({path.parent for path in (folder / RANKS).glob("node-*/*/*/*/std*.log") if path.stat().st_size})
    for own in folders[:MOST_TOLD]:
        lines = [
            line
            for name in ("stdout.log", "stderr.log")
            if (own / name).exists()
            for line in (own / name).read_text(errors="replace").splitlines()[-TAIL_LINES:]
        ]
        node = own.relative_to(folder / RANKS).parts[0].removeprefix("node-")
        log.warning("process %s of node %s said at last:\n%s", own.name, node, "\n".join(lines))
    if len(folders) > MOST_TOLD:
        log.warning("%d more processes said something: %s", len(folders) - MOST_TOLD, folder / RANKS)


def _files_of_their_own(folder: Path, *, number: int, n: int) -> list[str]:
    """Torchrun's options that keep every process of this node, but the very first one, out of the job's output."""
    own = folder / RANKS / f"node-{number}"
    shutil.rmtree(own, ignore_errors=True)  # of an earlier turn
    own.mkdir(parents=True)
    to_files = [f"{local_rank}:3" for local_rank in range(0 if number else 1, n)]  # 3: both of its streams
    return [f"--log-dir={own}", f"--redirects={','.join(to_files) or 0}"]


def n_processes(machine: Machine, *, at_most: int | None = None) -> int:
    """Processes on this host: the machine's number, or one a visible GPU, or one; no more than have something to do."""
    n = machine.n_processes or (1 if machine.device == "cpu" else max(1, len(visible_gpus())))
    return n if at_most is None else min(n, at_most)


def visible_gpus() -> list[str]:
    """The GPUs here that CUDA would show, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip()]
    try:  # torch would count them too, after seconds of importing
        listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    lines = [line for line in listing.splitlines() if line.startswith("GPU ")]  # a GPU's MIG parts follow it, indented
    return [str(number) for number in range(len(lines))]
