import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import PRETRAIN, PRETRAIN_OF, write_shards
from torch.utils.tensorboard.writer import SummaryWriter  # noqa: F401 (its import is slow; not in a test's time)

from dora.artifacts import Machine, Shards
from dora.config import PretrainConfig, StartConfig
from dora.data.clips import Clips
from dora.data.order import own_places
from dora.data.stream import ReadAhead, batches
from dora.launch import REQUEUE_EXIT_CODE, LaunchError
from dora.lease import process_start
from dora.method.dora import Dora
from dora.method.objective import Lesson, Loss, Moment
from dora.seeds import derived_seed
from dora.training import run as run_module
from dora.training.distributed import Ranks
from dora.training.job import CHECKPOINT, WARNINGS, Job, read_log, read_progress
from dora.training.journal import TIMING, Journal
from dora.training.pretrain import train
from dora.training.run import micro_batches, new_state, only_writer
from dora.training.schedule import Schedules
from dora.training.states import saved_states, saved_step
from dora.weights.load import load_encoder

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
N_STEPS = 8  # PRETRAIN's two epochs over `shards`
ALONE = Ranks(0, 1, CPU)


def without_drop_path(config: PretrainConfig) -> PretrainConfig:
    return config.model_copy(update={"backbone": config.backbone.model_copy(update={"drop_path_rate": 0.0})})


NO_DROP_PATH = without_drop_path(PRETRAIN)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards") / "walk")


@pytest.fixture(scope="module")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted. Only looked at."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    assert train(job(folder, shards))
    return folder


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """By objective, the folder of a run whose batches are taken at once. Only looked at."""
    root = tmp_path_factory.mktemp("runs")

    def folder(objective: str) -> Path:
        if not (root / objective).exists():
            assert train(job(root / objective, shards, without_drop_path(PRETRAIN_OF[objective])))
        return root / objective

    return folder


def job(folder: Path, shards: Path, config: PretrainConfig = PRETRAIN, **machine: Any) -> Job:
    folder.mkdir(exist_ok=True)
    values = {"root": folder.parent, "device": "cpu", "threads": 1, "log_every_steps": 3, "watch_every_steps": 0}
    values |= machine
    return Job(config=config, shards=(shards,), machine=Machine(**values), folder=folder)


def lines(folder: Path) -> list[dict[str, float]]:
    """The log without what depends on the clock."""
    return [{name: value for name, value in line.items() if name not in TIMING} for line in read_log(folder)]


def command(job: Job) -> list[str]:
    path = job.folder / ".job.json"
    path.write_text(job.model_dump_json())
    return ["-m", "dora.training.pretrain", str(path)]


def start(job: Job) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command(job)], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def assert_equal_training(one: Path, other: Path) -> None:
    """Equal to float tolerance, but for the keys' bias: it has no gradient, and AdamW makes steps of the rounding."""
    a, b = load_file(one / CHECKPOINT), load_file(other / CHECKPOINT)
    assert a.keys() == b.keys()
    for name in (name for name in a if not name.startswith("optimizer.")):
        for part in range(3) if name.endswith("qkv.bias") else (None,):
            if part != 1:
                ours, theirs = (x[name] if part is None else x[name].chunk(3)[part] for x in (a, b))
                torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")
    for left, right in zip(lines(one), lines(other), strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_the_first_steps_are_the_method_written_out(shards: Path, tmp_path: Path):
    """Schedules, losses, clipping, AdamW, freezing, teacher and centre in DINO's order, with torch's plain parts."""
    n_steps = 5
    assert not train(job(tmp_path / "run", shards, NO_DROP_PATH), stop_after(n_steps))
    ours = load_file(saved_states(tmp_path / "run")[0])

    clips, schedules, objective = Clips([shards], PRETRAIN.clip), Schedules(PRETRAIN, 4), Dora(NO_DROP_PATH)
    state, _ = new_state(NO_DROP_PATH, objective, ALONE, Machine())
    center = state.centers["cls"]
    places = own_places(len(clips), PRETRAIN, first_step=0, n_steps=n_steps, rank=0, world_size=1)
    decayed = [p for p in state.student.parameters() if p.ndim > 1]
    plain = [p for p in state.student.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}], foreach=False)
    with batches(clips, places, [4], PRETRAIN, device=CPU, n_workers=0) as read:
        all_views = [*read]
    for step, views in enumerate(all_views):
        lesson = objective.teach(state.teacher, views, {"cls": center}, Moment(step, step // 4))
        optimizer.zero_grad()
        sum(task(state.student).loss for task in lesson.tasks).backward()
        for parameter in state.student.parameters():
            torch.nn.utils.clip_grad_norm_([parameter], PRETRAIN.optimizer.clip_grad_norm)
        if step < 4:  # the first epoch
            for parameter in state.student.head.last_layer.parameters():
                parameter.grad = None
        for group in optimizer.param_groups:
            group["lr"] = schedules.lr(step)
        optimizer.param_groups[0]["weight_decay"] = schedules.weight_decay(step)
        optimizer.step()
        momentum = schedules.teacher_momentum(step)
        with torch.no_grad():
            for theirs, mine in zip(state.teacher.parameters(), state.student.parameters(), strict=True):
                theirs.mul_(momentum).add_(mine, alpha=1 - momentum)
        center = 0.9 * center + 0.1 * lesson.means["cls"]
    for name, value in (state.teacher.state_dict() | {"centers.cls": center}).items():
        if not name.endswith("qkv.bias"):
            expected = ours[name if name == "centers.cls" else f"teacher.{name}"]
            torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-3)


def stop_after(n_steps: int):
    """A stop request that arrives during step `n_steps`."""
    answers = iter([False] * (n_steps - 1))
    return lambda: next(answers, True)


@pytest.mark.parametrize("objective", PRETRAIN_OF)
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches_are_one_batch(
    shards: Path, whole: Callable[[str], Path], tmp_path: Path, micro_batch: int, objective: str
):
    config = without_drop_path(PRETRAIN_OF[objective])
    train(job(tmp_path / "split", shards, config, micro_batch=micro_batch))
    assert_equal_training(whole(objective), tmp_path / "split")


@pytest.mark.parametrize(
    ("objective", "precision"),
    [
        ("dora", "fp32"),
        ("dora", "bf16"),
        ("dora", "fp16"),
        ("dora of two views", "fp16"),
        ("dino", "bf16"),
        ("ibot", "fp32"),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bytes(shards: Path, tmp_path: Path, objective: str, precision: str):
    # It takes fp16 11 steps to find a scale at which no gradient overflows.
    config = PRETRAIN_OF[objective].model_copy(
        update={"precision": precision, "steps_per_epoch": 14 if precision == "fp16" else None}
    )
    assert train(job(tmp_path / "unbroken", shards, config))
    assert len(lines(tmp_path / "unbroken")) > 2
    first = 14 if precision == "fp16" else 2
    assert not train(job(tmp_path / "broken", shards, config), stop_after(first))  # between two log lines
    assert not train(job(tmp_path / "broken", shards, config), stop_after(3))  # in the second epoch
    assert not (tmp_path / "broken" / CHECKPOINT).exists()
    assert train(job(tmp_path / "broken", shards, config))
    assert lines(tmp_path / "broken") == lines(tmp_path / "unbroken")
    assert (tmp_path / "broken" / CHECKPOINT).read_bytes() == (tmp_path / "unbroken" / CHECKPOINT).read_bytes()
    assert not saved_states(tmp_path / "broken")


def test_log_lines_after_the_saved_step_are_written_again(shards: Path, unbroken: Path, tmp_path: Path):
    """As after a kill: the log is ahead of the last saved state, and its last line is torn."""
    train(job(tmp_path / "killed", shards), stop_after(4))
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "loss": 99, "seconds": 1}\n{"step": 7, "lo')
    train(job(tmp_path / "killed", shards))
    assert lines(tmp_path / "killed") == lines(unbroken)


def test_a_finished_run_is_left_as_it_is(shards: Path, unbroken: Path):
    before = (unbroken / CHECKPOINT).stat().st_mtime_ns, lines(unbroken)
    assert train(job(unbroken, shards))
    assert ((unbroken / CHECKPOINT).stat().st_mtime_ns, lines(unbroken)) == before


def test_the_log_tells_everything_and_means_are_exact(shards: Path, unbroken: Path, tmp_path: Path):
    train(job(tmp_path / "each", shards, log_every_steps=1))
    each, log = lines(tmp_path / "each"), read_log(unbroken)
    assert [line["step"] for line in log] == [3, 6, 8]
    assert [line["epoch"] for line in log] == [0, 1, 1]
    assert log[0]["loss"] == pytest.approx(sum(line["loss"] for line in each[:3]) / 3)
    assert log[1]["epoch_loss"] == pytest.approx(sum(line["loss"] for line in each[4:6]) / 2)
    assert log[2]["epoch_loss"] == pytest.approx(sum(line["loss"] for line in each[4:8]) / 4)
    assert log[2]["loss"] == pytest.approx((log[2]["object_loss"] + log[2]["local_loss"]) / 2)
    assert all(0 < line["mask_share"] < 1 and line["teacher_entropy"] > 0 for line in log)
    assert all(0 <= line["data_wait_share"] <= 1 and line["clips_per_s"] > 0 for line in log)
    assert [*(unbroken / "tensorboard").iterdir()]
    how_far = read_progress(unbroken)
    assert how_far and (how_far.done, how_far.total, how_far.unit) == (N_STEPS, N_STEPS, "steps")


class BadClips(Dora):
    """A training some of whose clips, by position in the stream, make the loss infinite."""

    bad: frozenset[int] = frozenset()

    def teach(self, teacher: Any, views: Any, centers: Any, moment: Any, **options: Any) -> Lesson:
        lesson = super().teach(teacher, views, centers, moment, **options)
        if not self.bad & {*views.positions}:
            return lesson

        def spoilt(student: Any) -> Loss:
            loss, numbers = lesson.tasks[-1](student)
            return Loss(loss / 0, numbers)

        return lesson._replace(tasks=[*lesson.tasks[:-1], spoilt])


def spoil(monkeypatch: pytest.MonkeyPatch, *positions: int) -> None:
    monkeypatch.setattr(BadClips, "bad", frozenset(positions))
    monkeypatch.setattr(run_module, "build", BadClips)


def test_a_step_that_is_not_finite_is_skipped_and_its_clips_are_kept_to_look_at(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    spoil(monkeypatch, 9)  # in step 2
    assert train(job(tmp_path / "run", shards, log_every_steps=1))
    assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2, 4, 5, 6, 7, 8]
    assert "step 3" in caplog.text and "skip" in caplog.text
    (folder,) = (tmp_path / "run" / "nonfinite").iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert folder.name == "step-00000003" and report["step"] == 3 and [*folder.glob("*.jpg")]
    weights = load_file(tmp_path / "run" / CHECKPOINT)
    assert all(value.isfinite().all() for value in weights.values())


def test_a_skipped_step_leaves_weights_teacher_and_centre_alone(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before, after = tmp_path / "before", tmp_path / "after"
    train(job(before, shards), stop_after(2))
    spoil(monkeypatch, 8, 9, 10, 11)
    train(job(after, shards), stop_after(3))
    one, other = (load_file(saved_states(folder)[0]) for folder in (before, after))
    assert saved_step(saved_states(after)[0]) == 3
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_many_bad_steps_in_a_row_roll_back_and_go_on_with_other_clips(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    watch = PRETRAIN.watch.model_copy(update={"max_skipped": 1, "max_rollbacks": 1})
    config = PRETRAIN.model_copy(update={"watch": watch})
    spoil(monkeypatch, 8, 12)  # steps 2 and 3
    assert train(job(tmp_path / "run", shards, config, log_every_steps=1))
    assert "step 0: rolled back from step 4 (1 of 1 times), and going on with other clips" in caplog.text
    assert [line["step"] for line in read_log(tmp_path / "run")] == [*range(1, N_STEPS + 1)]
    spoil(monkeypatch, 8, 12, 24, 28)  # again, in steps 2 and 3 of what comes after the first four steps' clips
    with pytest.raises(ValueError, match=r"lower optimizer.lr_per_256 \(0.05\)"):
        train(job(tmp_path / "hopeless", shards, config))


@pytest.mark.parametrize("words", ["skipped", "rolled back"])
def test_a_run_killed_after_a_warning_says_it_again_but_keeps_it_once(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
):
    config = PRETRAIN.model_copy(update={"watch": PRETRAIN.watch.model_copy(update={"max_skipped": 1})})
    spoil(monkeypatch, 8, 12)  # steps 3 and 4
    assert train(job(tmp_path / "unbroken", shards, config, save_every_s=1e-9))
    warn = Journal.warn

    def warn_and_die(journal: Journal, step: int, warning: str) -> None:
        warn(journal, step, warning)
        if words in warning:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "warn", warn_and_die)
        train(job(tmp_path / "run", shards, config, save_every_s=1e-9))
    assert train(job(tmp_path / "run", shards, config, save_every_s=1e-9))
    kept = read_log(tmp_path / "run", WARNINGS)
    assert [line["step"] for line in kept] == [3, 3]  # rolled back to the state after step 3
    assert kept == read_log(tmp_path / "unbroken", WARNINGS)


def test_the_log_ends_with_the_last_step_though_it_was_skipped(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spoil(monkeypatch, 28)  # in step 8
    assert train(job(tmp_path / "run", shards, log_every_steps=1))
    log = read_log(tmp_path / "run")
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert log[-1]["loss"] == log[-1]["epoch_loss"] == log[-2]["epoch_loss"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_training_without_a_finite_step_is_not_done(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
):
    watch = PRETRAIN.watch.model_copy(update={"max_skipped": 9})
    config = PRETRAIN.model_copy(update={"watch": watch, "precision": precision})
    if precision == "fp32":
        spoil(monkeypatch, *range(4 * N_STEPS))
    with pytest.raises(ValueError, match="not one step of the last epoch was finite"):
        train(job(tmp_path / "run", shards, config))
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_a_loss_that_is_never_finite_stops_the_run_with_advice(shards: Path, tmp_path: Path):
    optimizer = PRETRAIN.optimizer.model_copy(update={"lr_per_256": 1e38, "warmup_epochs": 0})
    watch = PRETRAIN.watch.model_copy(update={"max_skipped": 0, "max_rollbacks": 0})
    config = PRETRAIN.model_copy(update={"optimizer": optimizer, "watch": watch})
    with pytest.raises(ValueError, match=r"the loss is nan .* at step 2\. .*lower optimizer.lr_per_256 \(1e\+38\)"):
        train(job(tmp_path / "run", shards, config))
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_networks_are_kept_along_the_way_if_wanted(shards: Path, tmp_path: Path):
    config = PRETRAIN.model_copy(update={"keep_every_epochs": 1})
    train(job(tmp_path / "run", shards, config))
    kept = sorted((tmp_path / "run" / "epochs").iterdir())
    assert [path.name for path in kept] == ["epoch-0001.safetensors", "epoch-0002.safetensors"]
    last, final = load_file(kept[1]), load_file(tmp_path / "run" / CHECKPOINT)
    assert all(torch.equal(value, final[name]) for name, value in last.items())
    assert load_encoder(kept[0]).embed_dim == 24


def test_a_training_begins_with_the_weights_of_another(shards: Path, unbroken: Path, tmp_path: Path):
    start = StartConfig(path=unbroken / CHECKPOINT, head=True)
    config = PRETRAIN.model_copy(update={"start": start})
    state, _ = new_state(config, Dora(config), ALONE, Machine())
    theirs = load_file(unbroken / CHECKPOINT)
    for network in (state.student, state.teacher):
        for name, value in network.state_dict().items():
            assert torch.equal(value, theirs[f"teacher.{name}"])


def test_a_training_goes_on_though_the_weights_that_it_began_with_lie_elsewhere(
    shards: Path, unbroken: Path, tmp_path: Path
):
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    shutil.copy(unbroken / CHECKPOINT, here)
    train(job(tmp_path / "run", shards, PRETRAIN.model_copy(update={"start": StartConfig(path=here)})), stop_after(2))
    here.rename(there)
    moved = StartConfig(path=there)
    assert train(job(tmp_path / "run", shards, PRETRAIN.model_copy(update={"start": moved})), stop_after(9))
    with pytest.raises(ValueError, match="start was"):
        train(job(tmp_path / "run", shards))
    other = PRETRAIN.model_copy(update={"start": moved.model_copy(update={"head": True})})
    with pytest.raises(ValueError, match=r"start\.head was False, is True"):
        train(job(tmp_path / "run", shards, other))


def test_recomputing_changes_nothing_but_rounding(shards: Path, whole: Callable[[str], Path], tmp_path: Path):
    train(job(tmp_path / "run", shards, NO_DROP_PATH, recompute=True))
    assert_equal_training(whole("dora"), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch's own, while it compiles
def test_compiling_changes_nothing_but_rounding(shards: Path, whole: Callable[[str], Path], tmp_path: Path):
    train(job(tmp_path / "run", shards, NO_DROP_PATH, compile=True))
    assert_equal_training(whole("dora"), tmp_path / "run")


def test_too_few_clips_are_refused_before_anything_starts(shards: Path, tmp_path: Path):
    config = PRETRAIN.model_copy(update={"clips_per_batch": 19})
    with pytest.raises(ValueError, match=r"18 clips \(18 starts x 1 passes\), fewer than one batch of 19"):
        train(job(tmp_path / "run", shards, config))
    assert not [*(tmp_path / "run").iterdir()]


def test_micro_batches_share_out_the_batch():
    whole = PRETRAIN.model_copy(update={"clips_per_batch": 7})
    assert micro_batches(whole, Machine(micro_batch=0), ALONE) == [7]
    assert micro_batches(whole, Machine(micro_batch=3), ALONE) == [3, 2, 2]
    assert [sum(micro_batches(whole, Machine(micro_batch=2), Ranks(rank, 3, CPU))) for rank in range(3)] == [3, 2, 2]
    with pytest.raises(ValueError, match="8 processes share a batch of 7 clips"):
        micro_batches(whole, Machine(micro_batch=0), Ranks(0, 8, CPU))


def with_threshold(n_clips: int | None, clips_per_batch: int = 4) -> PretrainConfig:
    tracking = PRETRAIN.tracking.model_copy(update={"threshold": "batch", "threshold_clips": n_clips})
    return PRETRAIN.model_copy(update={"tracking": tracking, "clips_per_batch": clips_per_batch})


def test_clips_that_share_a_threshold_stay_in_one_process():
    config = with_threshold(2, clips_per_batch=12)
    places = {
        rank: [place.position for place in own_places(99, config, first_step=1, n_steps=2, rank=rank, world_size=4)]
        for rank in range(4)
    }
    assert places == {0: [12, 18, 16, 22], 1: [13, 19, 17, 23], 2: [14, 20], 3: [15, 21]}
    assert micro_batches(config, Machine(micro_batch=3), Ranks(0, 4, CPU)) == [2, 2]  # whole pairs
    assert micro_batches(config, Machine(micro_batch=0), Ranks(3, 4, CPU)) == [2]
    with pytest.raises(ValueError, match=r"compares 2 clips with one another \(.*\), but a process would see 1"):
        micro_batches(config, Machine(micro_batch=1), Ranks(0, 4, CPU))
    with pytest.raises(ValueError, match="8 processes share a batch of 12 clips, 2 of which have to be in one process"):
        micro_batches(config, Machine(micro_batch=0), Ranks(0, 8, CPU))
    with pytest.raises(ValueError, match="2 processes share a batch of 4 clips, 4 of which"):
        micro_batches(with_threshold(None), Machine(micro_batch=0), Ranks(0, 2, CPU))


def test_a_shared_threshold_does_not_depend_on_the_split(shards: Path, tmp_path: Path):
    config = without_drop_path(with_threshold(2))
    train(job(tmp_path / "whole", shards, config))
    train(job(tmp_path / "split", shards, config, micro_batch=2))
    assert_equal_training(tmp_path / "whole", tmp_path / "split")


@pytest.mark.parametrize("objective", PRETRAIN_OF)
def test_clips_that_keep_apart_do_not_depend_on_the_split(shards: Path, tmp_path: Path, objective: str):
    base = without_drop_path(PRETRAIN_OF[objective])
    config = base.model_copy(update={
        "loss": base.loss.model_copy(update={"koleo_weight": 0.5, "koleo_clips": 2}), "clips_per_batch": 4,
    })  # fmt: skip
    train(job(tmp_path / "whole", shards, config))
    train(job(tmp_path / "split", shards, config, micro_batch=2))
    assert_equal_training(tmp_path / "whole", tmp_path / "split")
    with pytest.raises(ValueError, match=r"compares 2 clips .*koleo_clips.*would see 1.*koleo_weight 0"):
        train(job(tmp_path / "alone", shards, config, micro_batch=1))


def test_only_one_run_trains_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_module, "LOCK_PATIENCE_S", 0.3)
    alone = Ranks(0, 1, CPU)
    with only_writer(tmp_path, alone), pytest.raises(OSError, match="another run is training in"):
        with only_writer(tmp_path, alone):
            pass
    with only_writer(tmp_path, alone):
        pass


def test_reading_ahead_keeps_order_ends_and_hands_errors_on():
    ahead = ReadAhead(iter(range(5)), depth=2)
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(ahead)
    broken = ReadAhead((1 // (1 - i) for i in range(3)), depth=2)
    assert next(broken) == 1
    with pytest.raises(ZeroDivisionError):
        next(broken)
    endless = ReadAhead(iter(int, 1), depth=1)
    next(endless)
    endless.close()
    assert not endless._thread.is_alive()


def test_a_seed_belongs_to_its_purpose():
    seeds = {derived_seed(0, "views", 1, 2), derived_seed(0, "views", 12), derived_seed(1, "views", 1, 2)}
    assert len(seeds) == 3 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.slow
def test_loader_processes_read_the_same_clips_and_report_a_broken_one_plainly(shards: Path, tmp_path: Path):
    clips = Clips([shards], PRETRAIN.clip)

    def views(n_workers: int) -> list[Any]:
        places = own_places(len(clips), PRETRAIN, first_step=0, n_steps=2, rank=0, world_size=1)
        with batches(clips, places, [3, 1], PRETRAIN, device=CPU, n_workers=n_workers) as read:
            return [*read]

    for here, there in zip(views(0), views(2), strict=True):
        assert torch.equal(here.global_views, there.global_views)
        assert torch.equal(here.local_views, there.local_views)
    clips = Clips([write_shards(tmp_path / "broken")], PRETRAIN.clip)
    for tar in (tmp_path / "broken").glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(ValueError, match=r"^frame \d+ of walk \(in .*\) is no readable JPEG"):
        views(1)


@pytest.mark.slow
def test_a_run_killed_at_random_steps_ends_in_the_same_bytes(shards: Path, tmp_path: Path):
    config = PRETRAIN.model_copy(update={"epochs": 15})
    machine = {"log_every_steps": 1, "save_every_s": 0.01}
    train(job(tmp_path / "unbroken", shards, config, **machine))
    broken = job(tmp_path / "broken", shards, config, **machine)
    draw = random.Random(os.getpid())
    for _ in range(2):
        n_before = len(read_log(broken.folder))
        kill_at = n_before + draw.randint(1, 20)
        running = start(broken)
        while len(read_log(broken.folder)) < kill_at and running.poll() is None:
            time.sleep(0.002)
        running.kill()
        running.communicate()
        assert running.returncode == -signal.SIGKILL, f"over before step {kill_at}"
    running = start(broken)
    output, _ = running.communicate()
    assert running.returncode == 0, output
    assert lines(broken.folder) == lines(tmp_path / "unbroken")
    assert (broken.folder / CHECKPOINT).read_bytes() == (tmp_path / "unbroken" / CHECKPOINT).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_asked_to_stop_saves_and_exits_with_the_requeue_code(shards: Path, tmp_path: Path, number: int):
    run = job(tmp_path / "run", shards, PRETRAIN.model_copy(update={"epochs": 500}), log_every_steps=1)
    running = start(run)
    while not read_log(run.folder):
        time.sleep(0.01)
    running.send_signal(number)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == REQUEUE_EXIT_CODE, output
    assert f"asked to stop: saved step {read_log(run.folder)[-1]['step']} of 2000" in output
    assert saved_states(run.folder)


def start_with_loaders(shards: Path, tmp_path: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A training that has logged a step, and its two loader processes."""
    config = PRETRAIN.model_copy(update={"epochs": 500})
    run = job(tmp_path / "run", shards, config, log_every_steps=1, n_workers=2)
    running = start(run)
    while not read_log(run.folder):
        assert running.poll() is None
        time.sleep(0.01)
    pid = running.pid
    loaders = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert len(loaders) == 2
    return running, loaders


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL])
def test_loader_processes_end_with_their_training_and_never_before_it(shards: Path, tmp_path: Path, number: int):
    """Slurm warns every process of a job; for a loader that ended of it amid a clip, training would wait for ever."""
    running, loaders = start_with_loaders(shards, tmp_path)
    if number == signal.SIGKILL:
        running.kill()
    else:
        os.killpg(running.pid, number)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == (-number if number == signal.SIGKILL else REQUEUE_EXIT_CODE), output
    give_up = time.monotonic() + 10
    while any(map(process_start, loaders)):
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.slow
def test_a_loader_process_that_is_killed_ends_the_training_with_a_sentence(shards: Path, tmp_path: Path):
    running, loaders = start_with_loaders(shards, tmp_path)
    os.kill(loaders[0], signal.SIGKILL)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 2 and "a loader process was ended by SIGKILL (out of memory?)" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "parallel"),
    [("dora", "ddp"), ("dora", "fsdp"), ("dora of two views", "fsdp"), ("dino", "ddp"), ("ibot", "fsdp")],
)
def test_two_processes_are_one(shards: Path, tmp_path: Path, objective: str, parallel: str):
    """An odd batch, three steps by one process, the others by two gloo ranks with micro-batches of two."""
    config = without_drop_path(PRETRAIN_OF[objective]).model_copy(update={"clips_per_batch": 5})
    train(job(tmp_path / "one", shards, config))
    two = job(tmp_path / "two", shards, config, micro_batch=2, parallel=parallel)
    assert not train(two, stop_after(3))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*torchrun, *command(two)], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert_equal_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_the_stage_makes_a_checkpoint_once_and_tells_how_far_it_is(shards: Path, tmp_path: Path):
    from dora.training.stage import pretrain as pretrain_stage

    source = Shards(
        folder=shards, fingerprint="f", digest="d", name="walk", n_frames=20, n_tars=3, size_bytes=1, fps=10,
        width=64, height=48, n_source_frames=20, n_bad_frames=0, faces="none", n_faces=0, store=None,
    )  # fmt: skip
    machine = Machine(root=tmp_path, device="cpu", threads=1)
    heard: list[tuple[float, float, str]] = []

    def listen(done: float, total: float, unit: str, note: str = "") -> None:
        heard.append((done, total, unit))

    checkpoint = pretrain_stage([source], PRETRAIN, machine, progress=listen)
    assert (checkpoint.n_steps, checkpoint.n_clips, checkpoint.reused) == (N_STEPS, 4 * N_STEPS, False)
    assert checkpoint.loss == read_log(checkpoint.folder)[-1]["epoch_loss"]
    assert heard[-1] == (N_STEPS, N_STEPS, "steps")
    manifest = json.loads((checkpoint.folder / "manifest.json").read_text())
    assert {"checkpoint.safetensors", "log.jsonl"} < set(manifest["files"])
    assert not [name for name in manifest["files"] if name.startswith(".")]
    again = pretrain_stage([source], PRETRAIN, machine)
    assert again.reused and again.digest == checkpoint.digest

    with pytest.raises(LaunchError, match=r"^an epoch has 18 clips .* fewer than one batch of 19") as error:
        pretrain_stage([source], PRETRAIN.model_copy(update={"clips_per_batch": 19}), machine)
    assert error.value.exit_code == 2 and "Traceback" not in str(error.value)
