"""A benchmark that trains on labels as a job: from the command line's words to a Score, over several processes."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_eval
import torch

import eval.benchmarks
from dora.artifacts import Checkpoint, Machine
from dora.launch import LaunchError
from dora.torchrun import n_processes, on_all_devices
from dora.training.states import saved_states
from eval import benchmark
from eval.__main__ import main
from eval.finetune.state import MODEL

torch.set_num_threads(1)
HERE = Path(__file__).parent
LEARNING = '''
"""Learning: how small the loss is."""

import os
import time

from dora.config import Frozen
from eval.benchmark import Result, missing
from eval.finetune.training import Training

VERSION, PROTOCOL, DATASET, HEADLINE = 1, "learning-v1", "noise", "share"
HOW_TO_GET, COST = "Listen.", "nothing"
PARALLEL = True


class Config(Training):
    iterations: int = 8
    batch_size: int = 4
    max_broken_share: float = 0.05
    precision: str = "fp32"
    pause_s: float = 0


PRESETS = {"short": Config(iterations=4)}


def check(data, config):
    return {"n": 20}


def evaluate(checkpoint, config, machine, out, progress):
    import finetuner
    import torch
    from eval.finetune.loop import finetune
    from eval.finetune.records import measure_each
    from eval.finetune.team import joined

    def loss(network, samples):
        time.sleep(config.pause_s)
        return finetuner.loss(network, samples)

    with joined(machine, out) as team:
        network = finetuner.model()
        spent = finetune(finetuner.task(network, loss=loss), config, machine, out, team, progress)
        network.eval()

        def work(index):
            return finetuner.loss(network, [finetuner.read(index)])["accuracy"].item()

        measured = measure_each(out, 20, work, team, progress, config.max_broken_share)
        if team.ranks.rank:
            return Result({}, (), 0)
        time.sleep(0.5)  # to judge takes a while
        share = sum(measured.records.values()) / 20
        return Result({HEADLINE: 100 * share}, (), 20, notes=spent.notes + measured.notes, cost=team.cost())


def miniature(world, folder, *, times=1):
    (folder / "noise").touch()
    return Config()
'''


@pytest.fixture(autouse=True)
def learning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A benchmark more, of which processes that are started here know too."""
    folder = tmp_path / "more_benchmarks"
    folder.mkdir()
    (folder / "learning.py").write_text(LEARNING)
    monkeypatch.setattr(eval.benchmarks, "__path__", [*eval.benchmarks.__path__, str(folder)])
    (tmp_path / "sitecustomize.py").write_text(f"import eval.benchmarks as b\nb.__path__.append({str(folder)!r})\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{HERE}:{HERE.parent}")
    yield
    sys.modules.pop("eval.benchmarks.learning", None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_eval.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


def score(checkpoint: Checkpoint, machine: Machine, *overrides: str, progress: Callable[..., None]) -> benchmark.Score:
    config = benchmark.configure("learning", overrides=overrides)
    launch = on_all_devices(machine)
    return benchmark.score(checkpoint, "learning", config, machine, launch=launch, progress=progress)


@pytest.mark.slow
def test_two_processes_make_one_score_also_when_they_are_stopped(checkpoint: Checkpoint, tmp_path: Path):
    def machine(name: str) -> Machine:
        return Machine(root=tmp_path / name, device="cpu", n_processes=2, threads=1, datasets={"noise": tmp_path})

    told: list[tuple[float, float, str]] = []

    def listen(done: float, total: float, unit: str, note: str = "") -> None:
        told.append((done, total, unit))

    def stop(done: float, total: float, unit: str, note: str = "") -> None:
        if unit == "iterations" and done > 1:
            raise KeyboardInterrupt

    slowly = ("iterations=40", "pause_s=0.1")
    with pytest.raises(KeyboardInterrupt):
        score(checkpoint, machine("stopped"), *slowly, progress=stop)
    (folder,) = (tmp_path / "stopped" / "score-learning").iterdir()
    assert saved_states(folder) and not (folder / MODEL).exists()
    assert "saved its state" in (folder / ".error").read_text()
    scores = [score(checkpoint, machine(name), *slowly, progress=listen) for name in ("stopped", "whole")]
    assert scores[0].digest == scores[1].digest and not scores[0].reused
    assert told[-1] == (20, 20, "images")
    assert scores[0].cost is not None and scores[0].cost.n_devices == 2
    assert [note.split(" could")[0] for note in scores[0].notes] == ["1 of 20 training samples", "1 of 20 images"]
    assert (scores[0].folder / "log.jsonl").exists() and not saved_states(scores[0].folder)


@pytest.mark.slow
def test_an_error_of_all_processes_is_one_sentence(checkpoint: Checkpoint, tmp_path: Path):
    machine = Machine(root=tmp_path, device="cpu", n_processes=2, threads=1, datasets={"noise": tmp_path})
    with pytest.raises(LaunchError, match=r"^2 processes share a batch of 1 samples. Lower Machine.n_processes"):
        score(checkpoint, machine, "batch_size=1", progress=lambda *_: None)


@pytest.mark.slow
def test_the_command_line_knows_presets(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    assert main(["list"]) == 0
    assert '--preset short: protocol learning-v1-short, with\n    {"iterations": 4}' in capsys.readouterr().out
    command = [
        "learning",
        "--checkpoint",
        str(checkpoint.path),
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit):
        main([*command, "--preset", "short", "--miniature"])
    assert "not allowed with" in capsys.readouterr().err
    assert main([*command, "--preset", "long"]) == 2
    assert "learning has no preset 'long'. Known: short." in capsys.readouterr().err

    monkeypatch.setenv("DORA_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--preset", "short"]) == 0
    said = capsys.readouterr().out
    assert "learning (learning-v1-short), 20 samples" in said and "<- headline" in said
    assert "note: 1 of 20 images could not be read" in said and "cost: 1 x " in said


def test_several_processes_are_started_by_torchrun(tmp_path: Path):
    started: list[list[str]] = []

    def one_process(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
        started.append(command)

    for n in (1, 4):
        machine = Machine(root=tmp_path, n_processes=n, threads=3)
        on_all_devices(machine, one_process)(["python", "-m", "eval", "--job", "x"], tmp_path, lambda: None)
    assert started[0] == ["python", "-m", "eval", "--job", "x"]
    assert started[1][:5] == ["env", "OMP_NUM_THREADS=3", "python", "-m", "torch.distributed.run"]
    assert "--nproc-per-node=4" in started[1] and started[1][-4:] == ["-m", "eval", "--job", "x"]


def test_no_more_processes_are_started_than_a_batch_has_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    started: list[list[str]] = []
    caplog.set_level("INFO")
    for at_most in (1, 4, 64, None):
        launched = on_all_devices(Machine(root=tmp_path), lambda command, *_: started.append(command), at_most=at_most)
        launched(["python", "-m", "eval", "--job", "x"], tmp_path, lambda: None)
    assert started[0] == ["python", "-m", "eval", "--job", "x"]
    assert ["--nproc-per-node=4" in started[1], *("--nproc-per-node=8" in one for one in started[2:])] == 3 * [True]
    assert [record.getMessage()[:19] for record in caplog.records] == ["1 of 8 processes wo", "4 of 8 processes wo"]


def test_a_benchmarks_batch_says_among_how_many_processes_it_is_shared():
    def at_most(name: str, **values: Any) -> int | None:
        return benchmark.processes_at_most(name, benchmark.load(name).Config(**values))

    assert at_most("ade20k") == at_most("depth") == 16 and at_most("coco", batch_size=4) == 4
    assert at_most("imagenet_linear") == 2048
    assert at_most("imagenet_linear", augment=False) == 32  # of 64 rows each
    assert at_most("davis") is at_most("imagenet_knn") is None  # sequences and photos, as many as there are
    assert {at_most(name) for name in benchmark.names() if not benchmark.is_parallel(name)} <= {1}


@pytest.mark.parametrize(
    ("visible", "values", "n"),
    [("0,1,2", {}, 3), ("", {}, 1), ("0,1", {"device": "cpu"}, 1), ("0,1", {"n_processes": 5}, 5)],
)
def test_there_is_a_process_for_each_visible_gpu_unless_the_machine_says_otherwise(
    visible: str, values: dict[str, Any], n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert n_processes(Machine(root=tmp_path, **values)) == n
