"""Learning rates as mmcv 1.x computes them: a factor of the peak for each iteration, counted from 0.

Its warm-up multiplies the rate that the schedule has in that iteration, rather than climbing to the peak
(open-mmlab/mmcv v1.7.0, mmcv/runner/hooks/lr_updater.py, get_warmup_lr).
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence


def poly(
    iterations: int, *, power: float, warmup_iterations: int, warmup_ratio: float
) -> Callable[[int], float]:  # fmt: skip
    """(1 - i / iterations)^power, down to 0 after the last iteration; times the warm-up."""

    def factor(iteration: int) -> float:
        return (1 - iteration / iterations) ** power * _warmup(iteration, warmup_iterations, warmup_ratio)

    return factor


def steps(
    milestones: Sequence[int], *, gamma: float = 0.1, warmup_iterations: int, warmup_ratio: float
) -> Callable[[int], float]:
    """Times `gamma` from each of the ascending iterations `milestones` on; times the warm-up."""

    def factor(iteration: int) -> float:
        return gamma ** bisect_right(milestones, iteration) * _warmup(iteration, warmup_iterations, warmup_ratio)

    return factor


def _warmup(iteration: int, n: int, ratio: float) -> float:
    return 1 - (1 - iteration / n) * (1 - ratio) if iteration < n else 1.0
