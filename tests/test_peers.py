"""Also the training that is ended here: `test_peers.py FOLDER TIMEOUT_S WHAT` under torchrun."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from learner import ALONE

from dora.artifacts import Machine
from dora.launch import REQUEUE_EXIT_CODE, LaunchError, run_job
from dora.torchrun import on_all_devices
from dora.training.distributed import StopSignals, process_group
from dora.training.peers import FOLDER, Peers
from dora.training.states import STATES

SAVED_STEP = 7


def rounds(folder: Path, timeout_s: float, what: str) -> int:
    """Exchange a number over and over, until asked to stop or until rank 1 does what it is told at step 30."""
    should_stop = StopSignals()
    to_do = "Run again: what was measured is kept."
    with (
        process_group("cpu", timeout_s) as ranks,
        Peers(folder, ranks, timeout_s=timeout_s, without_state=to_do) as peers,
    ):
        for step in range(10**6):
            if step == 30 and ranks.rank == 1:
                if what == "fail":
                    raise ZeroDivisionError("nothing to divide by")
                if what == "refuse":
                    raise ValueError("clip 12 of walk is no JPEG. Make the shards again.")
                if what == "hang":
                    time.sleep(10**6)
            peers.tell(step)  # what it was alone with is done
            asked = torch.tensor(float(should_stop()))
            ranks.sum_(asked)
            if asked:
                return REQUEUE_EXIT_CODE
            time.sleep(0.02)
            peers.tell(step + 1)
    return 0


def run(
    folder: Path, poll: Callable[[], None], *, timeout_s: float = 60, what: str = "go on", has_state: bool = True
) -> tuple[str, float]:
    """How the launcher says it ended, and how long that took from the first call of `poll` that did something."""
    (folder / STATES).mkdir(parents=True)
    if has_state:
        (folder / STATES / f"step-{SAVED_STEP:08d}.safetensors").touch()
    command = [sys.executable, str(Path(__file__)), str(folder), str(timeout_s), what]
    acted_at: list[float] = []

    def watch() -> None:
        if not acted_at and len([*(folder / FOLDER).glob("*.json")]) == 2 and sign(folder, 0)["step"] > 20:
            acted_at.append(time.monotonic())
            poll()

    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(LaunchError) as error:
        patch.setenv("PYTHONPATH", path)
        on_all_devices(Machine(root=folder, device="cpu", n_processes=2, threads=1))(command, folder, watch)
    return str(error.value), time.monotonic() - acted_at[0]


def sign(folder: Path, rank: int) -> dict[str, Any]:
    return json.loads((folder / FOLDER / f"rank-{rank:05d}.json").read_text() or '{"step": 0}')


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def nothing() -> None:
    pass


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_at_once_and_is_named(tmp_path: Path):
    pids: list[int] = []

    def kill() -> None:
        pids.extend(sign(tmp_path, rank)["pid"] for rank in range(2))
        os.kill(pids[1], signal.SIGKILL)

    said, took_s = run(tmp_path, kill)
    assert said.startswith(f"training process 1 (pid {pids[1]} on ") and " is gone (killed, or out of memory?) " in said
    assert said.endswith(f"The state after step {SAVED_STEP} is saved: run again to go on from there.")
    assert int(said.partition("after step ")[2].partition(".")[0]) > 20
    assert took_s < 20 and not any(is_alive(pid) for pid in pids)


@pytest.mark.slow
def test_where_there_is_no_training_state_it_is_said_what_to_do_instead(tmp_path: Path):
    said, _ = run(tmp_path, lambda: os.kill(sign(tmp_path, 1)["pid"], signal.SIGKILL), has_state=False)
    assert said.endswith("Run again: what was measured is kept.")


@pytest.mark.slow
def test_a_stopped_rank_is_ended_with_the_others_after_the_timeout(tmp_path: Path):
    pids: list[int] = []

    def stop() -> None:
        pids.extend(sign(tmp_path, rank)["pid"] for rank in range(2))
        os.kill(pids[0], signal.SIGSTOP)

    said, took_s = run(tmp_path, stop, timeout_s=5)
    assert said.startswith(f"training process 0 (pid {pids[0]} on ") and " gives no sign of life since " in said
    assert took_s < 40 and not any(is_alive(pid) for pid in pids)


@pytest.mark.slow
def test_a_rank_that_hangs_while_its_other_threads_live_is_found_by_its_steps(tmp_path: Path):
    said, took_s = run(tmp_path, nothing, timeout_s=4, what="hang")
    assert said.startswith("training process 1 (") and " hangs since " in said and ", after step 30. " in said
    assert took_s < 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("refuse", "clip 12 of walk is no JPEG. Make the shards again."),
        ("fail", "failed (ZeroDivisionError: nothing to divide by) since "),
    ],
)
def test_an_error_of_one_rank_is_what_all_say(tmp_path: Path, what: str, sentence: str):
    said, took_s = run(tmp_path, nothing, what=what)
    assert (said == sentence) if what == "refuse" else (sentence in said)
    assert took_s < 20


@pytest.mark.slow
def test_ranks_that_are_asked_to_stop_do_not_take_each_other_for_dead(tmp_path: Path):
    said, _ = run(tmp_path, lambda: os.kill(int((tmp_path / "torchrun").read_text()), signal.SIGTERM))
    assert said == "the job was asked to stop and saved its state; run again to go on"


def test_one_process_alone_gives_no_signs(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), Peers(tmp_path, ALONE, timeout_s=1) as peers:
        peers.tell(1)
        raise ZeroDivisionError
    assert not [*tmp_path.iterdir()]


if __name__ == "__main__":
    folder, timeout_s, what = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    (folder / "torchrun").write_text(str(os.getppid()))
    sys.exit(run_job(folder, lambda: rounds(folder, timeout_s, what)))
