"""One node's part of a Slurm job: `srun python -m flows.node SPREAD MACHINE.json COMMAND…` on every node.

Becomes torchrun with what Slurm says about this node, or the command itself where that is one process.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dora.artifacts import Machine
from dora.torchrun import Node, on_all_devices

FIRST_PORT, N_PORTS = 20_000, 10_000  # below those that Linux gives to anybody, from 32,768 on


def node(environment: Mapping[str, str]) -> Node:
    """What srun says about the node it is on; the batch script runs on the first one, and srun with it."""
    return Node(
        number=int(environment["SLURM_NODEID"]),
        n_nodes=int(environment["SLURM_STEP_NUM_NODES"]),
        address=environment["SLURM_LAUNCH_NODE_IPADDR"],
        port=FIRST_PORT + int(environment["SLURM_JOB_ID"]) % N_PORTS,  # two jobs on a node do not meet each other
    )


def main(arguments: Sequence[str]) -> None:
    """Become the command."""
    spread, machine, *command = arguments
    # The warning before the time limit goes to every process of the step. Torchrun, which would die of it, inherits
    # that it is ignored; the training processes listen to it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    launch = _become
    if spread != "process":
        launch = on_all_devices(Machine.model_validate_json(Path(machine).read_text()), _become, node(os.environ))
    launch(command, Path(machine).parent, lambda: None)


def _become(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
