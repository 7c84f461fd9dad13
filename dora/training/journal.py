"""What a run says while it trains: log.jsonl, warnings.jsonl, TensorBoard, console lines, and the progress file."""

import json
import logging
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard.writer import SummaryWriter

from dora.config import PretrainConfig
from dora.training.distributed import Ranks
from dora.training.energy import meter
from dora.training.flops import flops_per_clip, peak_flops
from dora.training.job import LOG, WARNINGS, HowFar, keep_until, read_spent, write_progress, write_spent
from dora.training.sheets import write_sheet
from dora.training.watch import Watch

log = logging.getLogger("dora.pretrain")
progress_log = logging.getLogger("dora.pretrain.progress")

# What may differ between two equal runs.
TIMING = ("clips_per_s", "data_wait_share", "memory_bytes", "seconds", "mfu", "energy_j")
PROGRESS_EVERY_S = 1.0


class Journal:
    """The log of one training over its interruptions; written by rank 0, silent on the others.

    Lines after `first_step` are forgotten: the resumed run writes them again. `seconds` are of all runs together, with
    what a kill lost of them. `energy_j`, where GPUs tell it, is what all of them used, without what a kill lost.
    """

    def __init__(self, folder: Path, config: PretrainConfig, *, first_step: int, n_steps: int, ranks: Ranks) -> None:
        self._folder, self._n_steps, self._batch, self._ranks = folder, n_steps, config.clips_per_batch, ranks
        if ranks.rank:
            return
        on_gpu = ranks.device.type == "cuda"
        peak = peak_flops(torch.cuda.get_device_name(ranks.device)) if on_gpu else None
        self._flops_share = flops_per_clip(config) / (peak * ranks.world_size) if peak else None  # for a clip a second
        total = torch.cuda.get_device_properties(ranks.device).total_memory if on_gpu else None
        self._watch = Watch(config, memory_bytes=total)
        lines = keep_until(first_step, folder, LOG)
        for line in lines:
            self._watch.read(line)  # what it says was said
        self._warned = keep_until(first_step, folder, WARNINGS)
        self._spent_before = max(read_spent(folder), lines[-1]["seconds"] if lines else 0.0)
        self._energy, self._joules_before = meter(ranks), lines[-1].get("energy_j", 0.0) if lines else 0.0
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        self._opened_at = self._at = time.monotonic()
        self._step, self._waited_s, self._told_at = first_step, 0.0, 0.0

    def line(self, step: int, values: dict[str, float], *, waited_s: float) -> None:
        """Write what was measured up to `step`; `waited_s` is how long all steps until now have waited for data."""
        if self._ranks.rank:
            return
        now = time.monotonic()
        elapsed, n_steps = now - self._at, step - self._step
        clips_per_s, data_wait_share = n_steps * self._batch / elapsed, (waited_s - self._waited_s) / elapsed
        line: dict[str, Any] = {"step": step} | values
        line |= {"clips_per_s": clips_per_s, "data_wait_share": data_wait_share}
        line |= {"memory_bytes": self._memory_bytes(), "seconds": self._spent(now)}
        if (joules := self._energy.joules()) is not None:
            line["energy_j"] = self._joules_before + joules
        if self._flops_share is not None:
            line["mfu"] = self._flops_share * clips_per_s
        _append(self._folder / LOG, line)
        for name, value in line.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        more = f"  MFU {line['mfu']:.0%}" if "mfu" in line else ""
        more += f"  online k-NN {line['online_knn']:.1f} %" if "online_knn" in line else ""
        progress_log.info(
            "step %d/%d  loss %.3f  lr %.2g  %.3g clips/s  data wait %.0f %%%s  eta %s",
            step, self._n_steps, line["loss"], line["lr"], clips_per_s, 100 * data_wait_share, more,
            _span((self._n_steps - step) * elapsed / n_steps),
        )  # fmt: skip
        for warning in self._watch.read(line):
            self.warn(step, warning)
        self._step, self._waited_s, self._at = step, waited_s, now

    def warn(self, step: int, warning: str) -> None:
        """Say that something is wrong, where people look now and where they will look later."""
        if self._ranks.rank == 0:
            log.warning("step %d: %s", step, warning)
            line = {"step": step, "warning": warning}
            if line not in self._warned:  # a run that was killed after it rolled back does so again
                _append(self._folder / WARNINGS, line)

    def sheet(self, step: int, sheet: Image.Image) -> None:
        """Keep a picture of what the teacher sees."""
        if self._ranks.rank == 0:
            write_sheet(self._folder, step, sheet)
            self._board.add_image("sheet", np.asarray(sheet), step, dataformats="HWC")

    def tell(self, step: int, loss: float) -> None:
        """Keep the progress file about a second young."""
        if self._ranks.rank == 0 and (step == self._n_steps or time.monotonic() - self._told_at > PROGRESS_EVERY_S):
            write_progress(self._folder, HowFar(done=step, total=self._n_steps, unit="steps", note=f"loss {loss:.3f}"))
            write_spent(self._folder, self._spent(time.monotonic()))
            self._told_at = time.monotonic()

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._ranks.rank == 0:
            write_spent(self._folder, self._spent(time.monotonic()))
            self._board.close()

    def _spent(self, now: float) -> float:
        return self._spent_before + now - self._opened_at

    def _memory_bytes(self) -> int:
        if self._ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._ranks.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kB on Linux


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _span(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
