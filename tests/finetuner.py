"""A fine-tuning of a few iterations on noise, with batch norm, dropout, augmentation and a broken sample: alone, or as

finetuner.py FOLDER JSON     under torchrun or not; JSON has values of Training and Machine, kill_at (a micro-batch), by
"""

import json
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dora.artifacts import Machine
from dora.launch import run_job
from eval.finetune.loop import finetune
from eval.finetune.rates import poly
from eval.finetune.task import Spent, Task, Training
from eval.finetune.team import joined

torch.set_num_threads(1)
N_SAMPLES, ITERATIONS, BATCH = 20, 8, 4
BROKEN = 3


def model(*, norm: bool = True, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    # A bias before batch norm has no gradient, and AdamW makes steps of the rounding.
    layers = [nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)]
    frozen, *rest = nn.Linear(6, 6), *layers, nn.Linear(8, 3)
    frozen.requires_grad_(False)
    return nn.Sequential(frozen, *rest)


def read(index: int) -> tuple[Tensor, int]:
    """A sample that all three generators have augmented; number 3 cannot be read."""
    if index == BROKEN:
        raise OSError(f"sample-{index}.jpg is truncated")
    x = torch.rand(6, generator=torch.Generator().manual_seed(index))
    return x + random.random() + np.random.rand() + torch.rand(6), index % 3


def loss(network: nn.Module, samples: list[Any]) -> dict[str, Tensor]:
    logits = network(torch.stack([x for x, _ in samples]))
    target = torch.tensor([label for _, label in samples])
    right = (logits.argmax(1) == target).float().mean()
    return {"loss_ce": nn.functional.cross_entropy(logits, target), "accuracy": right}


def task(
    network: nn.Module | None = None, *, read: Callable[[int], Any] = read, loss: Callable[..., Any] = loss,
    lr: float = 0.05,
) -> Task:  # fmt: skip
    network = network or model()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "lr": lr, "weight_decay": 0.1},
        {"params": [p for p in trained if p.ndim <= 1], "lr": lr / 2, "weight_decay": 0.0},
    ]
    rates = poly(ITERATIONS, power=1.0, warmup_iterations=2, warmup_ratio=0.1)
    return Task(network, loss, read, N_SAMPLES, groups, rates)


def training(**values: Any) -> Training:
    standard = {"iterations": ITERATIONS, "batch_size": BATCH, "precision": "fp32", "max_broken_share": 0.05}
    return Training.model_validate(standard | values)


def machine(folder: Path, **values: Any) -> Machine:
    return Machine(root=folder, device="cpu", threads=1, log_every_steps=2, **values)


def run(folder: Path, told: Task | None = None, of: Training | None = None, **values: Any) -> Spent:
    """The training in this process."""
    with joined(machine(folder, **values), folder) as team:
        return finetune(told or task(), of or training(), machine(folder, **values), folder, team)


def side_by_side(n: int, work: Callable[[], Any]) -> list[int | None]:
    """`work` in `n` processes that torchrun might have started; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def ranked(rank: int) -> None:
        os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{n}"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
        work()
        sys.stderr.flush()
        os._exit(0)  # the threads that this process had before the fork, Prefect's perhaps, are not there to be ended

    processes = [get_context("fork").Process(target=ranked, args=(rank,)) for rank in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def log(folder: Path) -> list[dict[str, float]]:
    """What was logged, without times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    timing = {"samples_per_s", "data_wait_share", "memory_bytes", "seconds", "eta_s"}
    return [{name: value for name, value in line.items() if name not in timing} for line in lines]


def killed(at: int, by: signal.Signals, network: nn.Module) -> Task:
    """Ends this very process in the middle of an iteration."""
    n_calls = 0

    def loss_or_death(network: nn.Module, samples: list[Any]) -> dict[str, Tensor]:
        nonlocal n_calls
        n_calls += 1
        if n_calls == at:
            os.kill(os.getpid(), by)
        return loss(network, samples)

    return task(network, loss=loss_or_death)


if __name__ == "__main__":
    folder, values = Path(sys.argv[1]), json.loads(sys.argv[2])
    kill_at, by = values.pop("kill_at", 0), signal.Signals[values.pop("by", "SIGKILL")]
    network = model(dropout=values.pop("dropout", 0.1))
    of = training(**{name: values.pop(name) for name in list(values) if name in Training.model_fields})

    def work() -> int:
        run(folder, killed(kill_at, by, network), of, **values)
        return 0

    sys.exit(run_job(folder, work))
