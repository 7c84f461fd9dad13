import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import PRETRAIN, write_shards
from torch.utils.tensorboard.writer import SummaryWriter  # noqa: F401 (its import is slow; not in a test's time)

from dora.artifacts import Machine, Shards
from dora.config import PretrainConfig
from dora.data.clips import Clips
from dora.data.order import own_places
from dora.data.stream import ReadAhead, batches
from dora.launch import REQUEUE_EXIT_CODE, LaunchError
from dora.method.dora import dora_step, draw_heads
from dora.seeds import derived_seed
from dora.training import pretrain
from dora.training.distributed import Ranks
from dora.training.job import CHECKPOINT, RESUME, Job, read_log, read_progress
from dora.training.journal import TIMING
from dora.training.pretrain import micro_batches, new_state, only_writer, train
from dora.training.schedule import Schedules

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
N_STEPS = 8  # PRETRAIN's two epochs over `shards`
NO_DROP_PATH = PRETRAIN.model_copy(update={"backbone": PRETRAIN.backbone.model_copy(update={"drop_path_rate": 0.0})})


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
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose batches are taken at once. Only looked at."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train(job(folder, shards, NO_DROP_PATH))
    return folder


def job(folder: Path, shards: Path, config: PretrainConfig = PRETRAIN, **machine: Any) -> Job:
    folder.mkdir(exist_ok=True)
    values = {"root": folder.parent, "device": "cpu", "threads": 1, "log_every_steps": 3} | machine
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
        [sys.executable, *command(job)], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


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
    """Schedules, loss, clipping, AdamW, freezing, teacher and centre, in DINO's order and with torch's plain parts."""
    n_steps = 5
    assert not train(job(tmp_path / "run", shards, NO_DROP_PATH), stop_after(n_steps))
    ours = load_file(tmp_path / "run" / RESUME)

    clips, schedules, state = Clips([shards], PRETRAIN.clip), Schedules(PRETRAIN, 4), new_state(NO_DROP_PATH, CPU)
    places = own_places(len(clips), PRETRAIN, first_step=0, n_steps=n_steps, rank=0, world_size=1)
    decayed = [p for p in state.student.parameters() if p.ndim > 1]
    plain = [p for p in state.student.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}], foreach=False)
    for step, views in enumerate(batches(clips, places, [4], PRETRAIN, device=CPU, n_workers=0)):
        found = dora_step(
            state.student, state.teacher, views, center=state.center, teacher_temperature=0.04,
            head_indices=draw_heads(3, 2, seed=0, step=step), tracking=PRETRAIN.tracking, loss=PRETRAIN.loss,
        )  # fmt: skip
        optimizer.zero_grad()
        found.loss.backward()
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
        state.center = 0.9 * state.center + 0.1 * found.teacher_logits.mean((0, 1))
    for name, value in (state.teacher.state_dict() | {"center": state.center}).items():
        if not name.endswith("qkv.bias"):
            expected = ours[name if name == "center" else f"teacher.{name}"]
            torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-3)


def stop_after(n_steps: int):
    """A stop request that arrives during step `n_steps`."""
    answers = iter([False] * (n_steps - 1))
    return lambda: next(answers, True)


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches_are_one_batch(shards: Path, whole: Path, tmp_path: Path, micro_batch: int):
    train(job(tmp_path / "split", shards, NO_DROP_PATH, micro_batch=micro_batch))
    assert_equal_training(whole, tmp_path / "split")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_stopped_run_goes_on_to_the_same_bytes(shards: Path, tmp_path: Path, precision: str):
    config = PRETRAIN.model_copy(update={"precision": precision})
    assert train(job(tmp_path / "unbroken", shards, config))
    assert not train(job(tmp_path / "broken", shards, config), stop_after(2))  # between two log lines
    assert not train(job(tmp_path / "broken", shards, config), stop_after(3))  # in the second epoch
    assert not (tmp_path / "broken" / CHECKPOINT).exists()
    assert train(job(tmp_path / "broken", shards, config))
    assert lines(tmp_path / "broken") == lines(tmp_path / "unbroken")
    assert (tmp_path / "broken" / CHECKPOINT).read_bytes() == (tmp_path / "unbroken" / CHECKPOINT).read_bytes()
    assert not (tmp_path / "broken" / RESUME).exists()


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


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(shards: Path, tmp_path: Path):
    optimizer = PRETRAIN.optimizer.model_copy(update={"lr_per_256": 1e38, "warmup_epochs": 0})
    config = PRETRAIN.model_copy(update={"optimizer": optimizer})
    with pytest.raises(ValueError, match=r"the loss is nan at step 1.*lower optimizer.lr_per_256 \(1e\+38\)"):
        train(job(tmp_path / "run", shards, config))
    assert not [*(tmp_path / "run").glob("**/*.safetensors")]


def test_too_few_clips_are_refused_before_anything_starts(shards: Path, tmp_path: Path):
    config = PRETRAIN.model_copy(update={"clips_per_batch": 19})
    with pytest.raises(ValueError, match=r"18 clips \(18 starts x 1 passes\), fewer than one batch of 19"):
        train(job(tmp_path / "run", shards, config))
    assert not [*(tmp_path / "run").iterdir()]


def test_micro_batches_share_out_the_batch():
    whole = PRETRAIN.model_copy(update={"clips_per_batch": 7})
    assert micro_batches(whole, 0, Ranks(0, 1, CPU)) == [7]
    assert micro_batches(whole, 3, Ranks(0, 1, CPU)) == [3, 3, 1]
    assert [sum(micro_batches(whole, 2, Ranks(rank, 3, CPU))) for rank in range(3)] == [3, 2, 2]
    with pytest.raises(ValueError, match="8 processes share a batch of 7 clips"):
        micro_batches(whole, 0, Ranks(0, 8, CPU))


def test_a_threshold_over_the_batch_refuses_to_be_split():
    tracking = PRETRAIN.tracking.model_copy(update={"threshold": "batch"})
    config = PRETRAIN.model_copy(update={"tracking": tracking})
    assert micro_batches(config, 4, Ranks(0, 1, CPU)) == [4]
    with pytest.raises(ValueError, match="compares all 4 clips of a batch with one another, but a process would see 2"):
        micro_batches(config, 2, Ranks(0, 1, CPU))
    with pytest.raises(ValueError, match=r"Set Machine.micro_batch to 0 and n_processes to 1"):
        micro_batches(config, 0, Ranks(0, 2, CPU))


def test_only_one_run_trains_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretrain, "LOCK_PATIENCE_S", 0.3)
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
        return [*batches(clips, places, [3, 1], PRETRAIN, device=CPU, n_workers=n_workers)]

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
    assert (run.folder / RESUME).exists()


@pytest.mark.slow
def test_two_processes_are_one(shards: Path, tmp_path: Path):
    """An odd batch, three steps by one process, the others by two gloo ranks with micro-batches of two."""
    config = NO_DROP_PATH.model_copy(update={"clips_per_batch": 5})
    train(job(tmp_path / "one", shards, config))
    two = job(tmp_path / "two", shards, config, micro_batch=2)
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
