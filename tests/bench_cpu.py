"""What a training's step on a CPU gains by where its products and its memory come from."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from bench import ROUNDS, Measurement, alternate
from bench_step import OurTraining
from torch import Tensor

from dora import recipes
from dora.launch import keep_memory
from dora.method import products

# Rows, inputs and outputs of linear layers: ViT-S/16's MLP for a clip of 8 frames of 3 objects, `miniature`'s for 8
# clips of 4, and the projection to queries, keys and values of both.
LAYERS = ((4728, 384, 1536), (4728, 1536, 384), (4728, 384, 1152), (6240, 144, 576), (6240, 576, 144), (6240, 144, 432))
N_STEPS = 5


def product_ratio() -> Measurement:
    """Linear layers forth and back, by the library that a step takes on this CPU against the other one."""
    layers = [
        (torch.randn(m, k, requires_grad=True), torch.randn(n, k, requires_grad=True), torch.randn(m, n))
        for m, k, n in LAYERS
    ]
    chosen = products.BY_ONEDNN
    measured = alternate(by_onednn(products.HAS_ONEDNN and not chosen, layers), by_onednn(chosen, layers))
    products.BY_ONEDNN = chosen
    return measured


def by_onednn(is_onednn: bool, layers: list[tuple[Tensor, Tensor, Tensor]]) -> Callable[[], None]:
    def run() -> None:
        products.BY_ONEDNN = is_onednn
        for x, weight, gradient in layers:
            torch.autograd.grad(products.linear(x, weight, None), (x, weight), gradient)

    return run


def kept_memory_ratio() -> Measurement:
    """A step of `miniature` in a process that keeps the memory it frees, against one that gives it back."""
    step_s("given_back"), step_s("kept")
    ratios = [step_s("given_back") / step_s("kept") for _ in range(ROUNDS)]
    return Measurement(median(ratios), "x", ratios)


def step_s(memory: str) -> float:
    command = [sys.executable, "-c", f"import bench_cpu; bench_cpu.print_step_s({memory!r})"]
    run = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=True)
    return float(run.stdout.split()[-1])


def print_step_s(memory: str) -> None:
    """What a process of its own says: the seconds of a step, the first three left out."""
    if memory == "kept":
        keep_memory()
    training = OurTraining(recipes.load("miniature").pretrain)
    for _ in range(3):
        training.step()
    started = time.perf_counter()
    for _ in range(N_STEPS):
        training.step()
    print((time.perf_counter() - started) / N_STEPS)


BENCHES = {"product_ratio": product_ratio, "kept_memory_ratio": kept_memory_ratio}
