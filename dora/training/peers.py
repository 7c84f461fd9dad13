"""Which of the training processes is dead or hangs, said in one sentence, and the end of the others.

Where one process is missing, the others wait for it in the next exchange: gloo then tells them no more than
"connection closed by peer", NCCL aborts them after a while, and neither says who it was. So each process gives a sign
of life in the run's folder, about once a second and from a thread, and looks after those of the others.
"""

import faulthandler
import logging
import os
import platform
import re
import signal
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import torch
import torch.distributed as dist
from pydantic import ValidationError

from dora.config import Frozen
from dora.launch import sentence
from dora.lease import process_space, process_start
from dora.training.distributed import Ranks
from dora.training.states import saved_states, saved_step

log = logging.getLogger("dora.peers")

FOLDER = ".peers"
BEGIN_ANEW = "No state was saved yet: run again to begin anew."
BEAT_S = 1.0
RANKS_PER_BEAT_S = 16  # each reads all others' signs: many processes give them less often
GRACE_S = 3.0  # for the thread that trains to notice by itself, which ends in better order
END_S = 60.0
SIGN_BYTES = 2048  # always so many: a sign of life needs no new space on a full disk
EXCHANGE_FAILED = re.compile(r"gloo|nccl|connection (closed|reset) by peer", re.IGNORECASE)


class Sign(Frozen):
    """What a process tells the others."""

    rank: int
    host: str
    space: str
    pid: int
    started: int
    beat: int = 0  # signs given until now
    told: int = 0  # calls of `Peers.tell` until now
    step: int = 0
    end: str | None = None  # the sentence that it ended with

    def is_gone(self) -> bool:
        """Whether this machine knows that the process has ended."""
        is_here = (self.host, self.space) == (platform.node(), process_space())
        return is_here and process_start(self.pid) != self.started

    def kill(self) -> None:
        """End the process, if it is one of this machine."""
        if (self.host, self.space) == (platform.node(), process_space()) and not self.is_gone():
            os.kill(self.pid, signal.SIGKILL)


class Watched:
    """A process as seen from here. Its clock does not matter, only for how long nothing of it has changed."""

    def __init__(self, sign: Sign) -> None:
        self.sign, self.silent_s, self.stalled_s = sign, 0.0, 0.0

    def see(self, sign: Sign, passed_s: float) -> None:
        """Its newest sign, so much later."""
        self.silent_s = 0.0 if sign.beat != self.sign.beat else self.silent_s + passed_s
        self.stalled_s = 0.0 if sign.told != self.sign.told else self.stalled_s + passed_s
        self.sign = sign


class Lost(NamedTuple):
    """A process without which the others cannot go on, and for how long."""

    sign: Sign
    what: str
    for_s: float
    may_live: bool = False


class Peers:
    """`with Peers(…) as peers:` around a training that calls `peers.tell` at every step. One process alone has none.

    `without_state` is what to do where the folder has no training state.

    Raises:
        ConnectionError: instead of the error of an exchange that failed, saying whose fault it is.
    """

    def __init__(self, folder: Path, ranks: Ranks, *, timeout_s: float, without_state: str = BEGIN_ANEW) -> None:
        self._folder, self._ranks, self._timeout_s, self._without_state = folder, ranks, timeout_s, without_state
        self._beat_s = max(BEAT_S, ranks.world_size / RANKS_PER_BEAT_S)
        pid = os.getpid()
        self._me = Watched(
            Sign(rank=ranks.rank, host=platform.node(), space=process_space(), pid=pid, started=process_start(pid))
        )
        self._others: dict[int, Watched] = {}
        self._step = self._told = 0
        self._patience_s = timeout_s
        self._verdict: str | None = None
        self._is_leaving = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)

    def __enter__(self) -> "Peers":
        if self._ranks.world_size == 1:
            return self
        (self._folder / FOLDER).mkdir(exist_ok=True)
        self._path(self._ranks.rank).write_bytes(b"")
        self._give_sign(passed_s=0.0)
        if self._ranks.rank == 0:
            (self._folder / ".error").unlink(missing_ok=True)
        self._ranks.sum_(torch.zeros(1, device=self._ranks.device))  # from here on all signs are of this run
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ranks.world_size == 1:
            return
        self._is_leaving = True
        if error is None:
            self._stop_watching()
            self._path(self._ranks.rank).unlink(missing_ok=True)
            return
        faulthandler.dump_traceback_later(END_S, exit=True)  # NCCL may wait for ever for those who are no longer there
        exchange_failed = _is_of_an_exchange(error)
        reason = self._find_out(error) if exchange_failed else self._own_reason(error)
        self._stop_watching()
        self._verdict = reason
        self._give_sign(passed_s=0.0)
        if exchange_failed:
            raise ConnectionError(reason) from error

    def tell(self, step: int) -> None:
        """So many steps are done. Called at the same places on every rank: who has called it less often is behind.

        So it is best called before a step's first exchange too, when the clips are read.
        """
        self._step, self._told = step, self._told + 1

    def _watch(self) -> None:
        at, lost_for_s = time.monotonic(), 0.0
        while not self._over.wait(self._beat_s):
            now = time.monotonic()
            passed_s, at = min(now - at, 2 * self._beat_s), now  # who was frozen together with us was not silent
            self._look(passed_s)
            lost = self._lost() if self._verdict is None else None
            if lost is not None:
                self._verdict = lost.sign.end or self._sentence(lost)
            self._give_sign(passed_s)  # first what is found, so that the others find the same
            if lost is not None and lost.may_live:
                lost.sign.kill()
            if self._verdict is not None:
                lost_for_s += passed_s
                if lost_for_s > GRACE_S and not self._is_leaving:
                    self._end_process(self._verdict)

    def _stop_watching(self) -> None:
        self._over.set()
        self._thread.join()

    def _give_sign(self, passed_s: float) -> None:
        news = {"beat": self._me.sign.beat + 1, "told": self._told, "step": self._step, "end": self._verdict}
        sign = self._me.sign.model_copy(update=news)
        self._me.see(sign, passed_s)
        try:
            with self._path(sign.rank).open("r+b") as file:
                file.write(sign.model_dump_json().encode().ljust(SIGN_BYTES))
        except OSError as error:
            log.warning("cannot give a sign of life in %s: %s", self._folder / FOLDER, error)

    def _look(self, passed_s: float) -> None:
        """Read the others' signs. One that was there and is no more has ended well."""
        for rank in range(self._ranks.world_size):
            if rank == self._ranks.rank:
                continue
            try:
                sign = Sign.model_validate_json(self._path(rank).read_bytes())
            except FileNotFoundError:
                self._others.pop(rank, None)
                continue
            except (OSError, ValidationError):  # half written
                sign = self._others[rank].sign if rank in self._others else None
            if sign is not None:
                self._others.setdefault(rank, Watched(sign)).see(sign, passed_s)

    def _lost(self) -> Lost | None:
        """Who of the others is the reason why the training cannot go on."""
        others = list(self._others.values())
        for other in others:
            if other.sign.end is not None:
                return Lost(other.sign, "has ended", 0.0)
        for other in others:
            if other.sign.is_gone() and self._path(other.sign.rank).exists():  # else it has just ended well
                return Lost(other.sign, "is gone (killed, or out of memory?)", other.silent_s)
        for other in others:
            if other.silent_s > self._patience_s:
                return Lost(other.sign, "gives no sign of life", other.silent_s, may_live=True)
        for other in others:
            is_waited_for = other.sign.told < self._me.sign.told
            if is_waited_for and min(other.stalled_s, self._me.stalled_s) > self._timeout_s:
                return Lost(other.sign, "hangs", other.stalled_s, may_live=True)
        return None

    def _find_out(self, error: BaseException) -> str:
        """Why an exchange failed: the other thread sees it soon. Of another machine it sees no more than silence."""
        self._patience_s = 3.5 * self._beat_s
        give_up_at = time.monotonic() + 8 * self._beat_s
        while self._verdict is None and time.monotonic() < give_up_at:
            time.sleep(0.1)
        what = (str(error).splitlines() or [""])[0]
        nobody = f"the training processes lost each other after step {self._step}, and all are alive: {what}."
        return self._verdict or f"{nobody} {self._what_to_do()}"

    def _own_reason(self, error: BaseException) -> str:
        if isinstance(error, ValueError | OSError):
            return sentence(error)
        what = (str(error).splitlines() or [""])[0]
        return self._sentence(Lost(self._me.sign, f"failed ({type(error).__name__}: {what})", 0.0))

    def _sentence(self, lost: Lost) -> str:
        sign, at = lost.sign, time.strftime("%H:%M:%S", time.localtime(time.time() - lost.for_s))
        who = f"training process {sign.rank} (pid {sign.pid} on {sign.host})"
        return f"{who} {lost.what} since {at}, after step {sign.step}. {self._what_to_do()}"

    def _what_to_do(self) -> str:
        saved = saved_states(self._folder)
        if not saved:
            return self._without_state
        return f"The state after step {saved_step(saved[0])} is saved: run again to go on from there."

    def _end_process(self, reason: str) -> None:
        """Without the thread that trains, which waits for somebody who does not come."""
        print(f"error: {reason}", file=sys.stderr, flush=True)
        try:
            with (self._folder / ".error").open("x") as file:
                file.write(reason)
        except OSError:
            pass  # another process has said it, or the disk is full
        os._exit(2)

    def _path(self, rank: int) -> Path:
        return self._folder / FOLDER / f"rank-{rank:05d}.json"


def _is_of_an_exchange(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and bool(
        isinstance(error, dist.DistError) or EXCHANGE_FAILED.search(str(error))
    )
