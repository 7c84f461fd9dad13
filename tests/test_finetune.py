"""Fine-tuning: killed anywhere and run again it gives the same bytes, and what is broken is told in one sentence."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import finetuner
import numpy as np
import pytest
import torch
from finetuner import BATCH, ITERATIONS, log, loss, model, read, run, task, training
from safetensors.torch import load_file
from torch import Tensor, nn

from dora.launch import ASKED_TO_STOP, REQUEUE_EXIT_CODE, Interrupted
from dora.training.distributed import Ranks
from dora.training.states import STATES, saved_states
from eval.finetune import order, rates
from eval.finetune.batches import micro_batches
from eval.finetune.loop import finetune
from eval.finetune.state import MODEL
from eval.finetune.task import Training
from eval.finetune.team import joined

torch.set_num_threads(1)
HERE = Path(__file__).parent
CPU = torch.device("cpu")


def content(folder: Path) -> dict[str, bytes]:
    """Every file that is a result rather than a record."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)): path for path in paths}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if not name.startswith((".", "tensorboard/")) and name != "log.jsonl"
    }


def weights(network: nn.Module) -> Tensor:
    return torch.cat([value.flatten().float() for value in network.state_dict().values()])


def start(folder: Path, n_processes: int = 1, **values: Any) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    return subprocess.run(
        [*(torchrun if n_processes > 1 else [sys.executable]), str(HERE / "finetuner.py"), str(folder),
         json.dumps(values)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}:{HERE.parent}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_it_learns_what_it_is_taught_and_leaves_only_the_model(tmp_path: Path):
    network = model(dropout=0)
    before, frozen = weights(network), network[0].weight.clone()
    spent = run(tmp_path, task(network))
    assert not torch.equal(weights(network), before)
    assert torch.equal(network[0].weight, frozen)
    assert set(content(tmp_path)) == {MODEL}
    assert not (tmp_path / STATES).exists()
    assert spent.cost.seconds > 0 and spent.cost.n_devices == 1 and spent.cost.memory_bytes > 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    expected = {"step", "loss", "loss_ce", "accuracy", "lr", "samples_per_s", "data_wait_share", "memory_bytes"}
    assert set(lines[0]) == expected | {"seconds", "eta_s"}
    assert lines[-1]["eta_s"] == 0 and lines[0]["eta_s"] > 0
    assert lines[0]["lr"] == pytest.approx(0.05 * (1 - 1 / 8) * (1 - 0.5 * 0.9))
    assert any((tmp_path / "tensorboard").iterdir())


def test_one_step_is_adamw_on_the_whole_batch(tmp_path: Path):
    of = training(iterations=1, batch_size=5)
    ours, theirs = model(norm=False, dropout=0), model(norm=False, dropout=0)
    samples = [(torch.rand(6), number % 3) for number in range(finetuner.N_SAMPLES)]
    run(tmp_path, task(ours, read=samples.__getitem__), of, micro_batch=2)
    at = order.shuffled(finetuner.N_SAMPLES, seed=0)
    optimizer = torch.optim.AdamW(task(theirs).groups)
    for group in optimizer.param_groups:
        group["lr"] *= 0.1
    loss(theirs, [samples[at(position)] for position in range(5)])["loss_ce"].backward()
    optimizer.step()
    torch.testing.assert_close(weights(ours), weights(theirs))


@pytest.mark.parametrize("n_workers", [0, 1, 3])
def test_loader_processes_change_nothing(tmp_path: Path, n_workers: int):
    for name, n in (("here", 0), ("there", n_workers)):
        run(tmp_path / name, n_workers=n)
    assert content(tmp_path / "here") == content(tmp_path / "there")
    assert log(tmp_path / "here") == log(tmp_path / "there")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("at", [1, 4, ITERATIONS - 2])
def test_interrupted_at_any_iteration_and_gone_on_is_the_same(tmp_path: Path, at: int, precision: str):
    of = training(precision=precision, clip_grad_norm=0.5)
    run(tmp_path / "whole", of=of)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", finetuner.killed(at, signal.SIGTERM, model()), of)
    assert len(saved_states(tmp_path / "parts")) == 1
    run(tmp_path / "parts", of=of)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


def forked(folder: Path, kill_at: int, **values: Any) -> int | None:
    """A run in a process of its own, which kills itself; its exit code."""
    of = {name: values.pop(name) for name in list(values) if name in Training.model_fields}

    def work() -> None:
        run(folder, finetuner.killed(kill_at, signal.SIGKILL, model()), training(**of), save_every_s=1e-9, **values)

    process = get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("values", [{}, {"n_workers": 2, "precision": "fp16"}, {"micro_batch": 2}])
def test_killed_again_and_again_it_gives_the_same_bytes(tmp_path: Path, values: dict[str, Any]):
    run(tmp_path / "whole", of=training(precision=values.get("precision", "fp32")), **without_precision(values))
    n_runs, n_parts = 0, 2 if "micro_batch" in values else 1
    while forked(tmp_path / "parts", kill_at=n_parts * (5, 3, 4)[n_runs % 3], **values) == -signal.SIGKILL:
        n_runs += 1
        assert saved_states(tmp_path / "parts")
    assert 2 <= n_runs <= 8
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


def without_precision(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "precision"}


def test_three_processes_that_die_and_come_back_leave_the_same_bytes(tmp_path: Path):
    of = training(batch_size=6)

    def whole() -> None:
        run(tmp_path / "whole", of=of)

    def begin() -> None:
        run(tmp_path / "parts", finetuner.killed(5, signal.SIGKILL, model()), of, save_every_s=1e-9)

    def end() -> None:
        run(tmp_path / "parts", of=of, n_workers=1)

    assert finetuner.side_by_side(3, whole) == [0, 0, 0]
    assert all(finetuner.side_by_side(3, begin))
    assert saved_states(tmp_path / "parts")
    assert finetuner.side_by_side(3, end) == [0, 0, 0]
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [1, 2])
def test_commands_that_are_killed_and_given_again_leave_the_same_bytes(tmp_path: Path, n_processes: int):
    values: dict[str, Any] = {"n_workers": 1, "batch_size": 6}
    assert start(tmp_path / "whole", n_processes, **values).returncode == 0
    assert start(tmp_path / "parts", n_processes, kill_at=5, save_every_s=1e-9, **values).returncode != 0
    assert saved_states(tmp_path / "parts")
    stopped = start(tmp_path / "parts", n_processes, kill_at=1, by="SIGUSR1", **values)
    assert stopped.returncode == (REQUEUE_EXIT_CODE if n_processes == 1 else 1)
    assert (tmp_path / "parts" / ".error").read_text() == f"the job {ASKED_TO_STOP}"
    assert start(tmp_path / "parts", n_processes, **values).returncode == 0
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path):
    values: dict[str, Any] = {"batch_size": 6, "dropout": 0.0}
    for name, n_processes in (("one", 1), ("two", 2)):
        done = start(tmp_path / name, n_processes, **values)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / MODEL) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_it_keeps_two_states_and_goes_on_from_the_older_one_if_the_newest_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", finetuner.killed(5, signal.SIGTERM, model()), save_every_s=1e-9)
    newest, _ = saved_states(tmp_path / "parts")
    damaged = bytearray(newest.read_bytes())
    damaged[-3] ^= 1
    newest.write_bytes(damaged)
    run(tmp_path / "parts")
    assert "is damaged" in caplog.text and "the state before it is taken" in caplog.text
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_a_finished_training_is_not_taken_up_again(tmp_path: Path):
    network, again = model(), model()
    spent = run(tmp_path, task(network))
    (tmp_path / STATES).mkdir()
    (tmp_path / STATES / "step-00000003.safetensors").write_bytes(b"left by a kill at the end")

    def never(index: int) -> Any:
        raise AssertionError

    second = run(tmp_path, task(again, read=never))
    assert torch.equal(weights(again), weights(network))
    assert second.notes == spent.notes and second.cost.seconds > spent.cost.seconds
    assert not (tmp_path / STATES).exists()


def test_a_state_of_another_training_is_refused(tmp_path: Path):
    with pytest.raises(Interrupted):
        run(tmp_path, finetuner.killed(3, signal.SIGTERM, model()))
    with pytest.raises(ValueError, match=r"with other values: seed 0 there, 1 now. Use another folder"):
        run(tmp_path, of=training(seed=1))
    with pytest.raises(ValueError, match=r"another model: 2\.bias and 4 more differ"):
        run(tmp_path, task(model(norm=False)))


def test_other_dropout_in_each_iteration_and_micro_batch(tmp_path: Path):
    seen: list[float] = []

    def drop(network: nn.Module, samples: list[Any]) -> dict[str, Tensor]:
        seen.append(nn.functional.dropout(torch.arange(1.0, 30)).sum().item())
        return loss(network, samples)

    for _ in range(2):
        run(tmp_path / f"{len(seen)}", task(loss=drop), training(iterations=3), micro_batch=2)
    assert seen[:6] == seen[6:] and len(set(seen)) == 6


def test_a_sample_is_drawn_by_its_position_with_all_three_generators(tmp_path: Path):
    drawn: list[tuple[float, ...]] = []

    def draw(index: int) -> tuple[Tensor, int]:
        drawn.append((index, random.random(), np.random.rand(), torch.rand(1).item()))
        return torch.zeros(6), 0

    run(tmp_path, task(read=draw), training(iterations=10))
    assert len(set(drawn)) == 10 * BATCH
    assert sorted(index for index, *_ in drawn[:20]) == list(range(20))
    assert sorted(index for index, *_ in drawn[20:]) == list(range(20))
    assert [index for index, *_ in drawn[:20]] != [index for index, *_ in drawn[20:]]


def test_a_broken_sample_is_named_once_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "eval"):
        spent = run(tmp_path, of=training(iterations=12))  # more than two passes
    (note,) = spent.notes
    assert note == (
        "1 of 20 training samples could not be read and others were learnt from in their place: sample-3.jpg is "
        "truncated"
    )
    assert caplog.text.count("sample-3.jpg") == 1


def test_too_many_broken_samples_stop_it(tmp_path: Path):
    def mostly(index: int) -> Any:
        if index % 4 == 0:
            raise ValueError(f"sample-{index}.png:\nno class 7")
        return read(index) if index != finetuner.BROKEN else read(0)

    with pytest.raises(
        ValueError, match=r"\d of 20 training samples cannot be read, more than the share of 0.05.*: "
    ) as e:
        run(tmp_path, task(read=mostly))
    assert "no class 7; sample-" in str(e.value) and "raise max_broken_share" in str(e.value)
    with pytest.raises(ValueError, match=r"none of \d+ training samples tried.*gone"):
        run(tmp_path / "none", task(read=lambda index: (_ for _ in ()).throw(OSError("gone"))))


def test_a_loss_that_is_not_finite_stops_it_after_its_iteration(tmp_path: Path):
    n_calls = 0

    def explode(network: nn.Module, samples: list[Any]) -> dict[str, Tensor]:
        nonlocal n_calls
        n_calls += 1
        return loss(network, samples) | {"loss_aux": torch.tensor(float("nan") if n_calls >= 5 else 0.0)}

    says = r"iteration 5 of 8: loss is nan, loss_aux is nan, not a finite number.*lower lr.*precision fp32"
    with pytest.raises(ValueError, match=says):
        run(tmp_path, task(loss=explode), training(precision="bf16"), save_every_s=1e-9)
    assert all(not torch.isnan(weights(model())).any() for _ in saved_states(tmp_path))


def test_a_model_that_is_not_finite_is_not_taken_for_learnt(tmp_path: Path):
    def poison(network: nn.Module, samples: list[Any]) -> dict[str, Tensor]:
        next(network.buffers()).fill_(float("inf"))
        return loss(network, samples)

    with pytest.raises(ValueError, match=r"not finite in .*may have reached batch norm.*bf16"):
        run(tmp_path, task(model(norm=True), loss=poison))
    assert not (tmp_path / MODEL).exists()


def test_fp16_bears_some_overflows_and_not_for_ever(tmp_path: Path):
    def overflow(n_bad: int) -> Any:
        n_calls = 0

        def some(network: nn.Module, samples: list[Any]) -> dict[str, Tensor]:
            nonlocal n_calls
            n_calls += 1
            return {"loss": loss(network, samples)["loss_ce"] * (float("inf") if n_calls <= n_bad else 1.0)}

        return task(model(), loss=some)

    run(tmp_path / "some", overflow(3), training(precision="fp16"))
    assert [line["step"] for line in log(tmp_path / "some") if "loss" in line] == [4, 6, 8]
    with pytest.raises(ValueError, match=r"iteration 21 .*was not for 21 iterations.*bf16 or fp32"):
        run(tmp_path / "all", overflow(99), training(precision="fp16", iterations=30))


def test_a_loss_needs_a_name(tmp_path: Path):
    with pytest.raises(ValueError, match=r"'loss' in its name, got ce"):
        run(tmp_path, task(loss=lambda network, samples: {"ce": torch.zeros(())}))


def test_too_small_a_gpu_is_told_with_what_to_lower(tmp_path: Path):
    def exhausted(network: nn.Module, samples: list[Any]) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    for micro_batch, says in ((0, r"4 samples at once. Set Machine.micro_batch \(DORA_MICRO_BATCH\)"), (1, "a single")):
        with pytest.raises(ValueError, match=rf"too small for {says}.*crop.*Tried to allocate 2 GiB\)$"):
            run(tmp_path, task(loss=exhausted), micro_batch=micro_batch)


def test_a_bug_in_reading_says_what_it_was_also_from_a_loader_process(tmp_path: Path):
    def buggy(index: int) -> Any:
        return {}["no such key"]

    with pytest.raises(
        RuntimeError, match=r"reading item \d+ failed in a loader process \(KeyError: 'no such key'\)"
    ) as e:
        run(tmp_path, task(read=buggy), n_workers=2)
    assert "Traceback" in e.value.__notes__[0]


def test_a_loader_process_that_is_killed_is_told(tmp_path: Path):
    def die(index: int) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(OSError, match=r"a loader process was ended by SIGKILL \(out of memory\?\).*DORA_N_WORKERS"):
        run(tmp_path, task(read=die), n_workers=2)


def test_no_loader_process_outlives_the_training(tmp_path: Path):
    pids = tmp_path / "pids"
    pids.mkdir()

    def leave_pid(index: int) -> Any:
        (pids / str(os.getpid())).touch()
        return read(0)

    run(tmp_path / "out", task(read=leave_pid), n_workers=2)
    assert len(list(pids.iterdir())) == 2
    assert not any(Path(f"/proc/{pid.name}").exists() for pid in pids.iterdir())


def test_accumulation_that_changes_batch_norm_is_noted(tmp_path: Path):
    whole, parts = run(tmp_path / "whole"), run(tmp_path / "parts", micro_batch=3)
    assert whole.notes == parts.notes[:1]
    assert parts.notes[1] == ("batch norm saw 2 samples at once in training, not the batch of 4 (Machine.micro_batch)")


def test_progress_is_told_in_iterations_to_the_end(tmp_path: Path):
    told: list[tuple[float, float, str]] = []
    machine = finetuner.machine(tmp_path)
    with joined(machine, tmp_path) as team:
        finetune(
            task(), training(), machine, tmp_path, team,
            lambda done, total, unit, note="": told.append((done, total, unit)),
        )  # fmt: skip
    assert told[-1] == (ITERATIONS, ITERATIONS, "iterations") and len(told) <= 3


@pytest.mark.parametrize(
    ("batch", "micro_batch", "world_size", "sizes"),
    [
        (16, 0, 1, [[16]]), (16, 4, 1, [[4, 4, 4, 4]]), (5, 2, 1, [[2, 2, 1]]), (16, 4, 2, [[4, 4], [4, 4]]),
        (7, 2, 2, [[2, 2], [2, 1]]), (3, 0, 3, [[1], [1], [1]]),
    ],
)  # fmt: skip
def test_a_batch_is_shared_out(batch: int, micro_batch: int, world_size: int, sizes: list[list[int]]):
    assert [micro_batches(batch, micro_batch, Ranks(rank, world_size, CPU)) for rank in range(world_size)] == sizes


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match=r"8 processes share a batch of 4 samples. Lower Machine.n_processes"):
        micro_batches(4, 0, Ranks(0, 8, CPU))
    with pytest.raises(ValueError, match=r"unevenly: some would take 2 micro-batches, others 1. Raise Machine.micro_b"):
        micro_batches(3, 1, Ranks(1, 2, CPU))


def test_poly_is_mmcvs():
    factor = rates.poly(160_000, power=1.0, warmup_iterations=1500, warmup_ratio=1e-6)
    assert factor(0) == pytest.approx(1e-6)
    assert factor(750) == pytest.approx((1 - 750 / 160_000) * 0.5, rel=1e-5)
    assert factor(1500) == 1 - 1500 / 160_000
    assert factor(80_000) == 0.5
    assert factor(159_999) == pytest.approx(1 / 160_000)


def test_steps_are_mmcvs():
    factor = rates.steps((80, 110), warmup_iterations=10, warmup_ratio=0.001)
    assert factor(0) == pytest.approx(0.001)
    assert factor(5) == pytest.approx(1 - 0.5 * 0.999)
    assert [factor(i) for i in (10, 79)] == [1, 1]
    assert [factor(i) for i in (80, 109)] == [0.1, 0.1]
    assert factor(110) == pytest.approx(0.01)
