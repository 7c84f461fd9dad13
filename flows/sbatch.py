"""What a job of Slurm is: sbatch's words for what it needs, and the few lines of shell that its first node runs."""

import hashlib
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dora.artifacts import Slurm
from dora.launch import ASKED_TO_STOP, GRACE_S, REQUEUE_EXIT_CODE

Spread = Literal["nodes", "node", "process"]  # all devices of all nodes; of one node; one device

OUTPUT, ERROR = ".output", ".error"  # as of any job, dora/launch.py
EXIT, STOP, MACHINE, SCRIPT = ".slurm.exit", ".slurm.stop", ".slurm.machine.json", ".slurm.sh"
ENDED = ".slurm.ended"  # the first node's command has ended well, whatever srun says
COUNT = re.compile(r"(?<=:)\d+$")

HEAD = """\
#!/bin/sh
# Written by flows/sbatch.py for one job; runs on the first of its nodes, again after each requeue.
cd {cwd} || exit 1
{environment}{setup}rm -f {error} {exit_code} {ended}
{srun}
code=$?
"""
# Slurm itself requeues after a pre-emption or a node's failure, but not at the time limit, of which `--signal` warns.
# Requeuing ends this script within seconds, and may end scontrol (137, 143) before that has said that all is well.
REQUEUE = """\
if [ ! -e {stop} ] && {{ [ $code -eq {requeue_code} ] || grep -qsF {asked_to_stop} {error}; }}; then
    scontrol requeue "$SLURM_JOB_ID"
    case $? in 0 | 137 | 143) sleep 600; exit ;; esac
fi
"""
# When a node fails, srun may end well or not, and only the seconds in which Slurm ends this script tell why.
TAIL = """\
[ -e {ended} ] || [ -s {error} ] || sleep 5
[ $code -ne 0 ] || [ -e {ended} ] || exit 1
echo $code > {exit_code}.new && mv {exit_code}.new {exit_code}
exit $code
"""


def job_name(folder: Path) -> str:
    """The name under which the job of a folder is found in the queue: one for each folder of each root."""
    digits = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    return f"dora-{folder.parent.name}-{folder.name[:8]}-{digits}"


def options(slurm: Slurm, folder: Path, spread: Spread) -> list[str]:
    """Sbatch's options for a job that works in this folder."""
    share = 1 if spread != "process" else max(1, gpus(slurm.gres))
    needs = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "time": slurm.time,
        "gres": COUNT.sub("1", slurm.gres) if slurm.gres and share > 1 else slurm.gres,
        "cpus-per-task": _cpus(slurm, share),
        "mem": slurm.memory if share == 1 else None,  # a part of the node: the cluster's default for a part
    }
    return [
        f"--job-name={job_name(folder)}",
        f"--nodes={n_nodes(slurm, spread)}",
        "--ntasks-per-node=1",
        *(f"--{name}={value}" for name, value in needs.items() if value),
        f"--output={str(folder / OUTPUT).replace('%', '%%')}",
        "--open-mode=append",  # what was said before a requeue stays
        # Without B: for the processes of the step, not for the shell, which would die of it.
        f"--signal=USR1@{slurm.warn_s}",
        "--requeue" if slurm.requeue else "--no-requeue",
        *slurm.options,
    ]


def script(slurm: Slurm, folder: Path, command: Sequence[str], *, spread: Spread, cwd: Path, patience_s: float) -> str:
    """The lines that start `command` on every node; all words of it are quoted.

    When one node's processes end, the others have `patience_s` to find out, to say so and to save what they have.
    """
    python = slurm.python or sys.executable
    cpus = _cpus(slurm, 1 if spread != "process" else max(1, gpus(slurm.gres)))
    srun = [
        "srun", f"--nodes={n_nodes(slurm, spread)}", f"--ntasks={n_nodes(slurm, spread)}", "--ntasks-per-node=1",
        *([f"--cpus-per-task={cpus}"] if cpus else []),  # since 22.05 a step does not take it over from its job
        # By default the first one to end would take from the others the time to save.
        "--kill-on-bad-exit=0", f"--wait={patience_s + GRACE_S:.0f}",
        *slurm.srun_options, *slurm.within,
        python, "-m", "flows.node", spread, str(folder / MACHINE), python, *command[1:],
    ]  # fmt: skip
    values = {
        "cwd": shlex.quote(str(cwd)),
        "environment": "".join(f"export {name}={shlex.quote(value)}\n" for name, value in slurm.environment.items()),
        "setup": "".join(f"{line}\n" for line in slurm.setup),
        "srun": shlex.join(srun),
        "error": shlex.quote(str(folder / ERROR)),
        "exit_code": shlex.quote(str(folder / EXIT)),
        "ended": shlex.quote(str(folder / ENDED)),
        "stop": shlex.quote(str(folder / STOP)),
        "requeue_code": REQUEUE_EXIT_CODE,
        "asked_to_stop": shlex.quote(ASKED_TO_STOP),  # torchrun keeps its processes' exit codes to itself
    }
    parts = (HEAD, REQUEUE, TAIL) if slurm.requeue else (HEAD, TAIL)
    return "".join(part.format(**values) for part in parts)


def n_nodes(slurm: Slurm, spread: Spread) -> int:
    """Nodes of the job."""
    return slurm.nodes if spread == "nodes" else 1


def gpus(gres: str | None) -> int:
    """How many of the resource a node is asked for: 8 for gpu:h100:8, 1 for gpu."""
    count = COUNT.search(gres or "")
    return int(count[0]) if count else 1


def _cpus(slurm: Slurm, share: int) -> int | None:
    return max(1, slurm.cpus_per_node // share) if slurm.cpus_per_node else None
