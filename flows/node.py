"""One node's part of a Slurm job: `srun python -m flows.node SPREAD MACHINE.json COMMAND…` on every node.

Starts torchrun with what Slurm says about this node, or the command itself where that is one process; the first node
notes that it has ended well, as srun may end with 0 after a node's failure too.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dora.artifacts import Machine
from dora.launch import Launch, die_with_parent
from dora.torchrun import Node, on_all_devices
from flows.sbatch import ENDED

FIRST_PORT, N_PORTS = 20_000, 10_000  # below those that Linux gives to anybody, from 32,768 on


def node(environment: Mapping[str, str]) -> Node:
    """What srun says about the node it is on; the batch script runs on the first one, and srun with it."""
    return Node(
        number=int(environment["SLURM_NODEID"]),
        n_nodes=int(environment["SLURM_STEP_NUM_NODES"]),
        address=environment["SLURM_LAUNCH_NODE_IPADDR"],
        port=FIRST_PORT + int(environment["SLURM_JOB_ID"]) % N_PORTS,  # two jobs on a node do not meet each other
    )


def main(arguments: Sequence[str]) -> int:
    """The command's exit code; 128 and the signal's number for one that was ended by a signal."""
    spread, machine, *command = arguments
    folder = Path(machine).parent
    here = node(os.environ)
    # Warnings go to every process of the step. Torchrun, which would die of SIGUSR1, inherits that it is ignored; the
    # training processes listen to it. SIGTERM is for the children too; this process waits for them.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    codes: list[int] = []

    def start(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
        with subprocess.Popen(command, preexec_fn=die_with_parent) as process:
            codes.append(process.wait())

    launch: Launch = start
    if spread != "process":
        launch = on_all_devices(Machine.model_validate_json(Path(machine).read_text()), start, here)
    launch(command, folder, lambda: None)
    if codes == [0] and here.number == 0:
        (folder / ENDED).touch()
    return codes[0] if codes[0] >= 0 else 128 - codes[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
