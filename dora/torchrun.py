"""A job on all devices of this host, or of several: under torchrun if it is to be several processes."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dora.artifacts import Machine
from dora.launch import GRACE_S, Launch, run_here


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


def on_all_devices(machine: Machine, one_process: Launch = run_here, node: Node | None = None) -> Launch:
    """How a command that can be several processes is started here; `one_process` starts it, or torchrun."""
    n = n_processes(machine)
    meeting = node.meeting() if node and node.n_nodes > 1 else ["--standalone"]
    if n == 1 and "--standalone" in meeting:
        return one_process

    def launch(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
        python, *module = command
        torchrun = [python, "-m", "torch.distributed.run", *meeting, f"--nproc-per-node={n}"]
        # Torchrun's own half a minute may be too short to save a big training state.
        torchrun.append(f"--shutdown-timeout={GRACE_S - 5:.0f}")
        # Left alone, torchrun gives each of several processes one thread, and says so in every log.
        threads = machine.threads or max(1, (os.cpu_count() or 1) // n)
        one_process(["env", f"OMP_NUM_THREADS={threads}", *torchrun, *module], folder, poll)

    return launch


def n_processes(machine: Machine) -> int:
    """Processes on this host: the machine's number, or one a visible GPU, or one."""
    if machine.n_processes:
        return machine.n_processes
    if machine.device == "cpu":
        return 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([device for device in visible.split(",") if device.strip()]))
    try:  # torch would count them too, after seconds of importing
        listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 1
    return max(1, len(listing.splitlines()))
