"""What a fine-tuning says: log.jsonl, TensorBoard, a console line, and the benchmark's progress."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from dora.cache import span
from dora.progress import Progress
from dora.training.job import LOG, keep_until
from eval.finetune.team import Team

log = logging.getLogger("eval.finetune.progress")

PROGRESS_EVERY_S = 1.0


class Journal:
    """The log of one training over its interruptions; rank 0's, silent on the others.

    Lines after `first` iterations are forgotten: the resumed run writes them again.
    """

    def __init__(
        self, folder: Path, team: Team, progress: Progress, *, first: int, iterations: int, batch_size: int
    ) -> None:
        self._folder, self._team, self._progress = folder, team, progress
        self._iterations, self._batch_size = iterations, batch_size
        self._is_silent = team.ranks.rank != 0
        if self._is_silent:
            return
        keep_until(first, folder, LOG)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)
        self._iteration, self._waited_s = first, 0.0
        self._at, self._told_at = time.monotonic(), 0.0

    def line(self, iteration: int, losses: Mapping[str, float], *, lr: float, waited_s: float) -> None:
        """Write the means since the last line; `waited_s` is how long all iterations until now waited for data."""
        if self._is_silent:
            return
        now = time.monotonic()
        elapsed, n = max(now - self._at, 1e-9), iteration - self._iteration
        samples_per_s, wait_share = n * self._batch_size / elapsed, (waited_s - self._waited_s) / elapsed
        eta_s = (self._iterations - iteration) * elapsed / n
        line = {"step": iteration, **losses, "lr": lr, "samples_per_s": samples_per_s, "data_wait_share": wait_share}
        line |= {"memory_bytes": self._team.memory_bytes(), "seconds": self._team.seconds(), "eta_s": eta_s}
        with (self._folder / LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            self._board.add_scalar(name, value, iteration)
        self._board.flush()
        log.info(
            "iteration %d/%d  %s  lr %.2g  %.3g samples/s  data wait %.0f %%  %.2g GB  eta %s",
            iteration, self._iterations, "  ".join(f"{name} {value:.3f}" for name, value in losses.items()), lr,
            samples_per_s, 100 * wait_share, line["memory_bytes"] / 1e9, span(eta_s),
        )  # fmt: skip
        self._iteration, self._waited_s, self._at = iteration, waited_s, now

    def tell(self, iteration: int, losses: Mapping[str, float]) -> None:
        """Tell the benchmark's progress, about once a second."""
        if self._is_silent:
            return
        now = time.monotonic()
        if iteration == self._iterations or now - self._told_at > PROGRESS_EVERY_S:
            note = f"loss {losses['loss']:.3f}" if losses else ""
            self._progress(iteration, self._iterations, "iterations", note)
            self._told_at = now

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if not self._is_silent:
            self._board.close()
