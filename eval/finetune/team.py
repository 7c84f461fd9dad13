"""The processes of one benchmark's job: who am I, must we stop, is everybody alive, what did it cost until now."""

import logging
import platform
import resource
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from dora.artifacts import Machine
from dora.config import Frozen
from dora.launch import Interrupted
from dora.training.distributed import Ranks, StopSignals, process_group
from dora.training.energy import meter
from dora.training.job import J_PER_KWH
from dora.training.peers import Peers
from dora.training.run import only_writer
from eval.benchmark import Cost

SPENT = ".spent.json"
ENDED = ".ended"
SPENT_EVERY_S = 1.0
LOOK_EVERY_S = 0.1
RUN_AGAIN = "Run again: what was measured until then is kept."


class SpentBefore(Frozen):
    """What earlier runs in the folder took."""

    seconds: float = 0.0
    device_seconds: float = 0.0
    memory_bytes: int = 0
    energy_j: float = 0.0


class Team:
    """One process among those of the job: the one that holds this value. `joined` makes it."""

    def __init__(self, ranks: Ranks, should_stop: Callable[[], bool], peers: Peers, folder: Path) -> None:
        self.ranks, self.should_stop = ranks, should_stop
        self._peers, self._file = peers, folder / SPENT
        self._n_told = 0
        self._before = self._read()
        self._energy = meter(ranks)
        self._began_at, self._kept_at = time.monotonic(), 0.0

    def tell(self, step: int) -> None:
        """Give a sign of life after so many steps, at the same places on every rank (dora/training/peers.py)."""
        self._n_told += 1
        self._peers.tell(step)
        if self.ranks.rank == 0 and time.monotonic() - self._kept_at > SPENT_EVERY_S:
            self.keep()

    def catch_up(self, step: int) -> None:
        """After work of which some ranks had more: nobody is behind from here on. All ranks call it together."""
        numbers = torch.zeros(self.ranks.world_size, device=self.ranks.device)
        numbers[self.ranks.rank] = self._n_told
        self.ranks.sum_(numbers)
        for _ in range(int(numbers.max()) - self._n_told):
            self.tell(step)

    def wait_for_all(self) -> None:
        """Until every rank is here."""
        self.ranks.sum_(torch.zeros(1, device=self.ranks.device))
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)

    def memory_bytes(self) -> int:
        """Peak of this process on its device."""
        if self.ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.ranks.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kB on Linux

    def seconds(self) -> float:
        """Wall clock over all runs in the folder."""
        return self._before.seconds + time.monotonic() - self._began_at

    def device_seconds(self) -> float:
        """The same, for each run times its processes."""
        now = time.monotonic() - self._began_at
        return self._before.device_seconds + now * self.ranks.world_size

    def cost(self) -> Cost:
        """What the job took until now; its memory is that of rank 0."""
        on_gpu = self.ranks.device.type == "cuda"
        joules = self._energy.joules()
        return Cost(
            device=torch.cuda.get_device_name(self.ranks.device) if on_gpu else _processor(),
            n_devices=self.ranks.world_size, seconds=self.seconds(), device_seconds=self.device_seconds(),
            memory_bytes=max(self._before.memory_bytes, self.memory_bytes()),
            energy_kwh=None if joules is None else (self._before.energy_j + joules) / J_PER_KWH,
        )  # fmt: skip

    def keep(self) -> None:
        """Remember the cost until now, for a run that goes on after a kill."""
        cost = self.cost()
        spent = SpentBefore(
            seconds=cost.seconds, device_seconds=cost.device_seconds or 0.0, memory_bytes=cost.memory_bytes,
            energy_j=J_PER_KWH * (cost.energy_kwh or 0.0),
        )  # fmt: skip
        temporary = self._file.with_name(f"{SPENT}.tmp")
        temporary.write_text(spent.model_dump_json())
        temporary.replace(self._file)
        self._kept_at = time.monotonic()

    def _read(self) -> SpentBefore:
        try:
            return SpentBefore.model_validate_json(self._file.read_bytes())
        except (FileNotFoundError, ValueError):  # none, or a disk's damage: a cost is no reason to stop
            return SpentBefore()


@contextmanager
def joined(machine: Machine, out: Path) -> Generator[Team]:
    """The team of the job that works in `out`, of one process or of all that torchrun started.

    SIGTERM and SIGUSR1 are remembered inside: whoever works there saves its state and raises Interrupted. Rank 0 may
    go on alone for as long as it wants, to judge what all have measured: the others wait for it at the end.

    Raises:
        ValueError: if the machine's device is not there.
        OSError: if another job is working in the folder, or it cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    interrupted: Interrupted | None = None
    with ExitStack() as until_the_end:
        should_stop = until_the_end.enter_context(_stop_signals())
        ranks = until_the_end.enter_context(process_group(machine.device, machine.peer_timeout_s))
        if ranks.rank:
            logging.getLogger("eval").setLevel(logging.WARNING)
        until_the_end.enter_context(only_writer(out, ranks))
        if ranks.rank == 0:
            (out / ENDED).unlink(missing_ok=True)
        with Peers(out, ranks, timeout_s=machine.peer_timeout_s, without_state=RUN_AGAIN) as peers:
            team = Team(ranks, should_stop, peers, out)
            try:
                yield team
                _end_together(out, team)
            except Interrupted as error:
                interrupted = error  # for the peers this is a good end: nobody is to be blamed or hurried
        if ranks.rank == 0:
            team.keep()
    if interrupted is not None:
        raise interrupted


def _end_together(out: Path, team: Team) -> None:
    """No exchange: it would have to end in time. To leave before rank 0 could leave NCCL waiting."""
    if team.ranks.rank == 0:
        (out / ENDED).touch()
    while not (out / ENDED).exists() and not team.should_stop():
        time.sleep(LOOK_EVERY_S)


@contextmanager
def _stop_signals() -> Generator[Callable[[], bool]]:
    if threading.current_thread() is not threading.main_thread():  # who may not listen to signals
        yield lambda: False
        return
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield StopSignals()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
