"""Which failures of a stage another try may mend, and when it is made.

May pass by itself: the network, a store or Slurm that did not answer; a process or a node that was lost, also one that
was killed for memory; a job that was told to stop and saved its state. What is saved is gone on with. Everything else
would fail again: a wrong value, a missing or broken file, too small a GPU, a full disk, a training that has collapsed.
"""

import errno
import re
import signal
from typing import Any

from prefect.client.schemas.objects import StateDetails, TaskRun
from prefect.context import TaskRunContext
from prefect.states import Failed, State

from dora.launch import REQUEUE_EXIT_CODE, LaunchError

DELAYS_S = (10.0, 60.0, 300.0)  # before the first, second and third try more
JITTER = 0.5  # of a delay: those who failed together do not come back together
ENDED_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGBUS, REQUEUE_EXIT_CODE}
PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EREMOTEIO,
}  # fmt: skip
# A job in a process of its own, or on another host, leaves no more than its sentence (dora/training/peers.py,
# dora/data/store.py, flows/slurm.py) or, where it had no time for one, torchrun's list of who was killed.
PASSING_SENTENCES = re.compile(
    r"^training process \d+ \(pid \d+ on [^)]*\) (is gone|gives no sign of life|hangs)"
    r"|^the training processes lost each other"
    r"|a rerun goes on from here\.$"
    r"|^Slurm job \d+ (lost its node|reached its time limit|ended as PREEMPTED|is gone without an exit code)"
    r"|Signal \d+ \(SIG(KILL|BUS)\) received by PID"
)


def _says_so(task: Any, run: TaskRun, state: State[Any]) -> bool:
    return state.state_details.retriable is True


# Of every stage's task.
OPTIONS: dict[str, Any] = {
    "retries": len(DELAYS_S), "retry_delay_seconds": list(DELAYS_S), "retry_jitter_factor": JITTER,
    "retry_condition_fn": _says_so,
}  # fmt: skip


def may_pass(error: Exception) -> bool:
    """Whether the same again may end better."""
    if isinstance(error, LaunchError):
        return error.exit_code in ENDED_FROM_OUTSIDE or bool(PASSING_SENTENCES.search(str(error)))
    if isinstance(error, OSError) and error.errno in PASSING:
        return True
    return isinstance(error, ConnectionError | TimeoutError)


def failed(message: str, error: Exception) -> State[Any]:
    """The state of a stage that has ended with this error, for `OPTIONS` to decide on."""
    return Failed(message=message, state_details=StateDetails(retriable=may_pass(error)))


def tries_left() -> int:
    """How often the task that is running may still be tried again."""
    context = TaskRunContext.get()
    return max(0, context.task.retries - (_tried(context.task_run) - 1)) if context else 0


def _tried(run: TaskRun) -> int:
    return run.run_count or 1
