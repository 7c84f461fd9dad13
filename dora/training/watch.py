"""What a training's numbers mean, in words, when something is wrong.

A Watch is fed the log's lines one by one and keeps nothing else: fed with those of an interrupted run, it knows what it
has said already. Its thresholds are rough; a healthy training is far from them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean, median
from typing import NamedTuple

from dora.cache import human_size
from dora.config import PretrainConfig

Line = Mapping[str, float]  # of log.jsonl
FEW, LONG, PAST = 10, 20, 100  # lines: of a passing trouble, of one that lasts, to compare with


class Alarm(NamedTuple):
    """Its words are said once when `measure` passes `trips`, and again only if it was below `ends` in between."""

    measure: Callable[[Sequence[Line]], float | None]  # of all lines: how bad it is, None if that cannot be said
    trips: float
    ends: float
    words: str  # with fields of the line, `config` and what is known beside


class Watch:
    """Reads the log as it is written."""

    def __init__(self, config: PretrainConfig, *, memory_bytes: int | None = None) -> None:
        """`memory_bytes` is what the device has in all, if that is known."""
        most = math.log(config.head.n_prototypes)
        self._alarms = _alarms(most, config.optimizer.warmup_epochs, memory_bytes or math.inf)
        self._known = {"config": config, "most": most, "memory": human_size(memory_bytes or 0)}
        self._ringing = [False] * len(self._alarms)
        self._lines: list[Line] = []

    def read(self, line: Line) -> list[str]:
        """What this line gives reason to say: sentences, mostly none."""
        self._lines.append(line)
        said: list[str] = []
        for number, alarm in enumerate(self._alarms):
            how_bad = alarm.measure(self._lines)
            if how_bad is not None and how_bad > alarm.trips and not self._ringing[number]:
                self._ringing[number] = True
                used = human_size(int(line["memory_bytes"]))
                said.append(alarm.words.format(**{**line, **self._known, "used": used}))
            elif how_bad is not None and how_bad < alarm.ends:
                self._ringing[number] = False
        return said


def _alarms(most: float, warmup_epochs: int, memory_bytes: float) -> list[Alarm]:
    lasting = partial(_lasting, warmup_epochs=warmup_epochs)
    return [
        Alarm(
            partial(lasting, name="teacher_entropy", scale=1 / most), 0.98, 0.95,
            "the teacher spreads each frame evenly over all prototypes: its entropy is {teacher_entropy:.2f} nats, "
            "and {most:.2f} is the most there is. From that the student learns nothing (a collapse; the loss stays "
            "near {most:.2f}). Lower loss.teacher_temperature ({config.loss.teacher_temperature:g}) or "
            "optimizer.lr_per_256 ({config.optimizer.lr_per_256:g}).",
        ),
        Alarm(
            partial(lasting, name="teacher_entropy", scale=-1 / most), -0.01, -0.03,
            "the teacher is certain of a single prototype: its entropy is {teacher_entropy:.3f} nats. If it is the "
            "same one for all frames, that is the collapse which the centre should prevent: lower "
            "loss.center_momentum ({config.loss.center_momentum:g}), raise loss.teacher_temperature "
            "({config.loss.teacher_temperature:g}) or lower optimizer.lr_per_256 ({config.optimizer.lr_per_256:g}).",
        ),
        Alarm(
            partial(lasting, name="feature_spread", scale=-1), -0.01, -0.03,
            "the teacher says the same of every frame: feature_spread is {feature_spread:.4f}, where 0 is one "
            "feature for everything and 1 is features in all directions. That is a collapse. Lower "
            "loss.teacher_temperature ({config.loss.teacher_temperature:g}) or optimizer.lr_per_256 "
            "({config.optimizer.lr_per_256:g}), or raise optimizer.teacher_momentum "
            "({config.optimizer.teacher_momentum:g}).",
        ),
        Alarm(
            _forgotten, 0.75, 0.5,
            "the teacher recognises places hardly better than chance again: online_knn fell to {online_knn:.1f} % "
            "(chance is {online_knn_chance:.1f} %). Look at the newest of sheets/, and at teacher_entropy and "
            "feature_spread before step {step}; a lower optimizer.lr_per_256 ({config.optimizer.lr_per_256:g}) is "
            "the first thing to try.",
        ),
        Alarm(
            _one_sided, 0.96, 0.9,
            "the masks keep {mask_share:.1%} of the patches, so that the student sees hardly anything or all of a "
            "frame, and no object. Look at the newest of sheets/; try a larger tracking.sinkhorn_epsilon "
            "({config.tracking.sinkhorn_epsilon:g}).",
        ),
        Alarm(
            partial(_stillness, warmup_epochs=warmup_epochs), 1000, 300,
            "the loss does not move: it is {loss:.4f}, to a thousandth, in a hundred lines of the log. Either the "
            "learning rate is too low (now {lr:.2g}; optimizer.lr_per_256 is {config.optimizer.lr_per_256:g}), or it "
            "is a collapse (teacher_entropy is {teacher_entropy:.2f} of at most {most:.2f} nats).",
        ),
        Alarm(
            partial(_growth, warmup_epochs=warmup_epochs), 10, 3,
            "the gradient grows: its norm is {gradient_norm:.3g}, over ten times what it was. Before it is not "
            "finite, lower optimizer.lr_per_256 ({config.optimizer.lr_per_256:g}) or optimizer.clip_grad_norm "
            "({config.optimizer.clip_grad_norm:g}, where 0 is off).",
        ),
        Alarm(
            partial(_mean, name="data_wait_share"), 0.3, 0.15,
            "training waits for data {data_wait_share:.0%} of the time: not the device but the loader is the limit. "
            "Raise Machine.n_workers (DORA_N_WORKERS), leave augmentation to the GPU (DORA_AUGMENT=device), or keep "
            "the tars nearer (DORA_STORE_CACHE).",
        ),
        Alarm(
            partial(_fullness, memory_bytes=memory_bytes), 0.92, 0.85,
            "the device's memory is nearly full: {used} of {memory}. Before it overflows, lower Machine.micro_batch "
            "(DORA_MICRO_BATCH) or set Machine.recompute (DORA_RECOMPUTE=1); what is learnt stays the same.",
        ),
    ]  # fmt: skip


def _warm(lines: Sequence[Line], n: int, warmup_epochs: int) -> Sequence[Line]:
    """The last `n` lines, or none if the learning rate was still warming up in one of them."""
    last = lines[-n:]
    return last if len(last) == n and last[0]["epoch"] >= warmup_epochs else ()


def _lasting(lines: Sequence[Line], *, name: str, scale: float, warmup_epochs: int) -> float | None:
    """The mildest of the last values: it takes long for an alarm to ring, and one better line to end it."""
    return min((scale * line[name] for line in _warm(lines, LONG, warmup_epochs) if name in line), default=None)


def _mean(lines: Sequence[Line], *, name: str) -> float | None:
    values = [line[name] for line in lines[-FEW:] if name in line]
    return fmean(values) if len(values) == FEW else None


def _fullness(lines: Sequence[Line], *, memory_bytes: float) -> float:
    return lines[-1]["memory_bytes"] / memory_bytes


def _one_sided(lines: Sequence[Line]) -> float | None:
    share = _mean(lines, name="mask_share")
    return None if share is None else abs(2 * share - 1)


def _stillness(lines: Sequence[Line], *, warmup_epochs: int) -> float | None:
    losses = [line["loss"] for line in _warm(lines, PAST, warmup_epochs)]
    return abs(fmean(losses)) / max(max(losses) - min(losses), 1e-12) if losses else None


def _growth(lines: Sequence[Line], *, warmup_epochs: int) -> float | None:
    norms = [line["gradient_norm"] for line in _warm(lines, PAST, warmup_epochs) if "gradient_norm" in line]
    return median(norms[-FEW:]) / max(median(norms[:-FEW]), 1e-12) if len(norms) == PAST else None


def _forgotten(lines: Sequence[Line]) -> float | None:
    """How much of the best lead over chance is lost; a small lead is noise."""
    if "online_knn" not in lines[-1]:
        return None
    leads = [line["online_knn"] - line["online_knn_chance"] for line in lines if "online_knn" in line]
    return (max(leads) - leads[-1]) / max(leads) if max(leads) > 10 else None
