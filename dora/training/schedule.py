"""Learning rate, weight decay and teacher momentum by step, as DINO schedules them."""

import math

from dora.config import PretrainConfig


class Schedules:
    """Pure functions of the step, counted from 0 over the whole run, so that a resumed run needs no state."""

    def __init__(self, config: PretrainConfig, steps_per_epoch: int) -> None:
        self._optimizer = config.optimizer
        self._n_steps = config.epochs * steps_per_epoch
        self._n_warmup = config.optimizer.warmup_epochs * steps_per_epoch
        # Linear scaling counts clips, not frames: the authors' batch unit.
        self._peak_lr = config.optimizer.lr_per_256 * config.clips_per_batch / 256

    def lr(self, step: int) -> float:
        """Linear from 0, then a half cosine to `min_lr`. The step after the warm-up repeats the peak, as in DINO."""
        if step < self._n_warmup:
            return self._peak_lr * step / max(self._n_warmup - 1, 1)
        return _cosine(self._peak_lr, self._optimizer.min_lr, step - self._n_warmup, self._n_steps - self._n_warmup)

    def weight_decay(self, step: int) -> float:
        """Half cosine from `weight_decay` to `weight_decay_end`."""
        return _cosine(self._optimizer.weight_decay, self._optimizer.weight_decay_end, step, self._n_steps)

    def teacher_momentum(self, step: int) -> float:
        """Half cosine from `teacher_momentum` towards 1, which it never reaches."""
        return _cosine(self._optimizer.teacher_momentum, 1.0, step, self._n_steps)


def _cosine(start: float, end: float, step: int, n_steps: int) -> float:
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / n_steps))
