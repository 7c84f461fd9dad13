"""What a run says while it trains: log.jsonl, TensorBoard, console lines, and the progress file."""

import json
import logging
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard.writer import SummaryWriter

from dora.training.distributed import Ranks
from dora.training.job import LOG, HowFar, read_log, write_progress

log = logging.getLogger("dora.pretrain")

TIMING = ("clips_per_s", "data_wait_share", "memory_bytes", "seconds")  # what may differ between two equal runs
PROGRESS_EVERY_S = 1.0


class Journal:
    """The log of one run over its interruptions; written by rank 0, silent on the others.

    Lines after `first_step` are forgotten: the resumed run writes them again.
    """

    def __init__(self, folder: Path, *, first_step: int, n_steps: int, batch: int, ranks: Ranks) -> None:
        self._folder, self._n_steps, self._batch, self._ranks = folder, n_steps, batch, ranks
        self._step, self._waited_s, self._at, self._told_at = first_step, 0.0, time.monotonic(), 0.0
        if ranks.rank == 0:
            lines = [line for line in read_log(folder) if line["step"] <= first_step]
            temporary = folder / f".{LOG}"
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
            temporary.replace(folder / LOG)
            self._seconds: float = lines[-1]["seconds"] if lines else 0.0
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def line(self, step: int, values: dict[str, float], *, waited_s: float) -> None:
        """Write what was measured up to `step`; `waited_s` is how long all steps until now have waited for data."""
        if self._ranks.rank:
            return
        now = time.monotonic()
        elapsed, n_steps = now - self._at, step - self._step
        self._seconds += elapsed
        clips_per_s, data_wait_share = n_steps * self._batch / elapsed, (waited_s - self._waited_s) / elapsed
        timing = (clips_per_s, data_wait_share, self._memory_bytes(), self._seconds)
        line: dict[str, Any] = {"step": step} | values | dict(zip(TIMING, timing, strict=True))
        with (self._folder / LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        log.info(
            "step %d/%d  loss %.3f  lr %.2g  %.3g clips/s  data wait %.0f %%  eta %s",
            step, self._n_steps, line["loss"], line["lr"], clips_per_s, 100 * data_wait_share,
            _span((self._n_steps - step) * elapsed / n_steps),
        )  # fmt: skip
        self._step, self._waited_s, self._at = step, waited_s, now

    def tell(self, step: int, loss: float) -> None:
        """Keep the progress file about a second young."""
        if self._ranks.rank == 0 and (step == self._n_steps or time.monotonic() - self._told_at > PROGRESS_EVERY_S):
            write_progress(self._folder, HowFar(done=step, total=self._n_steps, unit="steps", note=f"loss {loss:.3f}"))
            self._told_at = time.monotonic()

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._ranks.rank == 0:
            self._board.close()

    def _memory_bytes(self) -> int:
        if self._ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._ranks.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kB on Linux


def _span(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
