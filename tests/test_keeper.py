import multiprocessing
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from learner import ALONE, CONFIG, Learner
from safetensors.torch import load_file

from dora.training.checkpoint import save_state
from dora.training.job import CHECKPOINT
from dora.training.keeper import Keeper
from dora.training.states import STATES, saved_states, saved_step
from dora.weights.load import load_encoder


def keeper(folder: Path, keep_last: int = 2) -> Keeper:
    return Keeper(folder, keep_last=keep_last, ranks=ALONE)


def steps(folder: Path) -> list[int]:
    return [saved_step(path) for path in saved_states(folder)]


def save_steps(folder: Path, *n_steps: int, keep_last: int = 2) -> Learner:
    learner, own = Learner(), keeper(folder, keep_last)
    for n in n_steps:
        own.save(learner.learn(n).state)
    own.close()
    return learner


def change_a_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0b100
    path.write_bytes(content)


def test_a_saved_state_is_of_its_step_though_the_training_goes_on(tmp_path: Path):
    learner, own = Learner().learn(2), keeper(tmp_path)
    save_state(tmp_path / "expected", learner.state)
    own.save(learner.state)
    with torch.no_grad():
        for tensor in (*learner.state.student.parameters(), *learner.state.teacher.parameters()):
            tensor.zero_()
    for values in learner.state.optimizer.state.values():
        values["exp_avg"].zero_()
        values["step"].zero_()
    learner.state.centers["cls"].zero_()
    learner.state.step = 99
    own.close()
    assert (tmp_path / STATES / "step-00000002.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()


def test_the_last_few_are_kept_and_the_newest_is_gone_on_from(tmp_path: Path):
    save_steps(tmp_path, 1, 2, 3, 4, keep_last=3)
    assert steps(tmp_path) == [4, 3, 2]
    later = Learner()
    assert keeper(tmp_path).newest(later.state)
    state = later.state
    assert (state.step, state.shift, state.n_skipped, state.n_rollbacks) == (4, 5, 2, 1)


def test_a_resumed_training_ends_in_the_same_bytes(tmp_path: Path):
    save_steps(tmp_path, 1, 2)
    resumed = Learner()
    keeper(tmp_path).newest(resumed.state)
    keeper(tmp_path).finish(tmp_path / "resumed", resumed.learn(4).state)
    save_state(tmp_path / "unbroken", Learner().learn(4).state)
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "unbroken").read_bytes()
    assert steps(tmp_path) == []


def test_nothing_saved_is_nothing_loaded(tmp_path: Path):
    assert not keeper(tmp_path).newest(Learner().state)


@pytest.mark.parametrize(
    "damage", ["truncated", "bit in a tensor", "bit in the metadata", "bit in a name", "bit in our mark", "empty"]
)
def test_a_damaged_state_is_put_aside_for_the_one_before_it(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    save_steps(tmp_path, 1, 2)
    newest = saved_states(tmp_path)[0]
    content = newest.read_bytes()
    if damage in ("truncated", "empty"):
        newest.write_bytes(content[:-1] if damage == "truncated" else b"")
    else:
        places = {
            "bit in a tensor": len(content) - 5, "bit in the metadata": content.index(b"lr_per_256") + 14,
            "bit in our mark": content.index(b'"dora":') + 4,
        }  # fmt: skip
        change_a_bit(newest, places.get(damage, content.index(b'"teacher.backbone.norm.weight"') + 5))
    learner = Learner()
    assert keeper(tmp_path).newest(learner.state) and learner.state.step == 1
    assert "step-00000002.safetensors is " in caplog.text and "put aside as step-00000002" in caplog.text
    assert (tmp_path / STATES / "step-00000002.safetensors.damaged").exists() and steps(tmp_path) == [1]


def test_no_state_readable_is_an_error_and_stays_one(tmp_path: Path):
    save_steps(tmp_path, 1, 2)
    for path in saved_states(tmp_path):
        change_a_bit(path, -1)
    for _ in range(2):  # not a beginning anew at the second try
        with pytest.raises(ValueError, match=r"no training state in .*/\.states is readable any more: step-00000002.*"):
            keeper(tmp_path).newest(Learner().state)


def test_a_state_of_another_recipe_is_no_damage(tmp_path: Path):
    save_steps(tmp_path, 1)
    with pytest.raises(ValueError, match="of a run with other values: epochs was 2, is 7"):
        keeper(tmp_path).newest(Learner(CONFIG.model_copy(update={"epochs": 7})).state)
    assert steps(tmp_path) == [1]


def test_the_end_of_a_run_that_was_killed_between_its_last_file_and_the_states_before_it(tmp_path: Path):
    learner = save_steps(tmp_path, 1, 2)
    own = keeper(tmp_path)
    own.finish(tmp_path / CHECKPOINT, learner.state)
    own.save(learner.state)  # as if the states were still there
    own.wait()
    content = (tmp_path / CHECKPOINT).read_bytes()
    own.finish(tmp_path / CHECKPOINT, learner.learn(3).state)
    assert not steps(tmp_path) and (tmp_path / CHECKPOINT).read_bytes() == content


def test_an_epoch_keeps_both_networks_and_no_more(tmp_path: Path):
    learner = Learner().learn(1)
    keeper(tmp_path).keep_epoch(learner.state, 20)
    path = tmp_path / "epochs" / "epoch-0020.safetensors"
    assert {name.split(".")[0] for name in load_file(path)} == {"student", "teacher"}
    for which in ("student", "teacher"):
        expected = getattr(learner.state, which).backbone.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in load_encoder(path, which).state_dict().items())


def test_a_write_that_fails_is_told_at_the_next_call_and_leaves_the_states_before(tmp_path: Path):
    """A limit on the size of files stands in for a full disk: with its signal ignored, writing fails alike."""
    learner, own = save_steps(tmp_path, 1), keeper(tmp_path)
    before = saved_states(tmp_path)[0].read_bytes()
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        own.save(learner.learn(2).state)
        with pytest.raises(OSError, match=r"cannot write .*step-00000002.safetensors.*Free some space"):
            own.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    own.wait()  # told once
    assert [path.name for path in (tmp_path / STATES).iterdir()] == ["step-00000001.safetensors"]
    own.save(learner.state)
    own.close()
    assert steps(tmp_path) == [2, 1]


def test_one_state_is_written_at_a_time(tmp_path: Path):
    learner, own = Learner().learn(1), keeper(tmp_path, keep_last=9)
    for step in range(1, 6):
        learner.state.step = step
        own.save(learner.state)
        assert sum(thread.name == "state writer" for thread in threading.enumerate()) <= 1
    own.close()
    assert steps(tmp_path) == [5, 4, 3, 2, 1] and own._writer is None


def save_for_ever(folder: Path) -> None:
    learner, own = Learner().learn(1), keeper(folder)
    for step in range(10**6):
        learner.state.step = step
        own.save(learner.state)


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_readable_state_and_no_rubbish_for_long(tmp_path: Path):
    for _ in range(8):
        saver = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(tmp_path,))
        n_before = len(steps(tmp_path))
        saver.start()
        while len(steps(tmp_path)) <= min(n_before, 1):
            time.sleep(0.01)
        time.sleep(0.1 + int.from_bytes(os.urandom(1)) / 1000)
        saver.kill()
        saver.join()
        learner = Learner()
        newest = steps(tmp_path)[0]
        assert keeper(tmp_path).newest(learner.state) and learner.state.step == newest
        assert not [*(tmp_path / STATES).glob(".tmp-*")] and not [*(tmp_path / STATES).glob("*.damaged")]
