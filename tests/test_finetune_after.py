"""Fine-tuning with an optimizer of one's own, and with something to do after each iteration."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from finetuner import BATCH, ITERATIONS, killed, log, loss, model, run, task, training
from torch import nn

from dora.launch import Interrupted
from dora.training.states import saved_states
from dora.training.tensor_file import read_tensors
from eval.finetune import order
from eval.finetune.state import MODEL
from eval.finetune.task import Task

torch.set_num_threads(1)


def sgd(momentum: float) -> Callable[[list[dict[str, Any]]], torch.optim.Optimizer]:
    return lambda groups: torch.optim.SGD(groups, momentum=momentum)


def with_sgd(told: Task, momentum: float = 0.9) -> Task:
    return replace(told, optimizer=sgd(momentum))


def weight(network: nn.Module) -> float:
    return sum(value.sum().item() for value in network.parameters() if value.requires_grad)


def test_a_task_may_bring_an_optimizer_of_its_own(tmp_path: Path):
    ours, theirs = model(norm=False, dropout=0), model(norm=False, dropout=0)
    samples = [(torch.rand(6), number % 3) for number in range(20)]
    run(tmp_path, with_sgd(task(ours, read=samples.__getitem__)), training(iterations=2))
    at, told = order.shuffled(20, seed=0), task(theirs)
    optimizer = sgd(0.9)([dict(group) for group in told.groups])
    for iteration in range(2):
        for group, peak in zip(optimizer.param_groups, told.groups, strict=True):
            group["lr"] = peak["lr"] * told.lr_factor(iteration)
        batch = [samples[at(iteration * BATCH + place)] for place in range(BATCH)]
        loss(theirs, batch)["loss_ce"].backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(dict(ours.named_parameters()), dict(theirs.named_parameters()))


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_momentum_outlasts_an_interruption(tmp_path: Path, momentum: float):
    run(tmp_path / "whole", with_sgd(task(), momentum))
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", with_sgd(killed(4, signal.SIGTERM, model()), momentum))
    (state,) = saved_states(tmp_path / "parts")
    assert any("momentum_buffer" in name for name in read_tensors(state)[1]) == bool(momentum)
    run(tmp_path / "parts", with_sgd(task(), momentum))
    assert (tmp_path / "parts" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


def test_after_each_iteration_something_may_be_done(tmp_path: Path):
    network, called = model(), list[tuple[int, float]]()

    def note(iteration: int) -> None:
        called.append((iteration, weight(network)))

    run(tmp_path, replace(task(network), after=note))
    assert [iteration for iteration, _ in called] == list(range(1, ITERATIONS + 1))
    assert called[-1][1] == weight(network)
    assert len({value for _, value in called}) == ITERATIONS
    run(tmp_path, replace(task(), after=note))
    assert len(called) == ITERATIONS  # a training that has ended has nothing left to do


def noting(folder: Path, network: nn.Module, kill_at: int | None = None) -> Task:
    """Writes the weights' sum after each iteration, drawing random numbers besides."""

    def after(iteration: int) -> None:
        torch.rand(3)
        (folder / f"{iteration}").write_text(f"{weight(network)!r}")
        if iteration == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return replace(task(network), after=after)


def test_a_kill_leaves_out_nothing_that_is_done_after_iterations(tmp_path: Path):
    notes = {name: tmp_path / f"notes of {name}" for name in ("whole", "parts")}
    for folder in notes.values():
        folder.mkdir()
    run(tmp_path / "whole", noting(notes["whole"], model()))

    def work() -> None:
        run(tmp_path / "parts", noting(notes["parts"], model(), kill_at=5), save_every_s=1e-9)

    process = get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert saved_states(tmp_path / "parts")[0].name == "step-00000004.safetensors"
    (notes["parts"] / "5").unlink()  # of an iteration that no state has
    run(tmp_path / "parts", noting(notes["parts"], model()))
    assert {path.name: path.read_text() for path in notes["parts"].iterdir()} == {
        path.name: path.read_text() for path in notes["whole"].iterdir()
    }
    assert (tmp_path / "parts" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()
