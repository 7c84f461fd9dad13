"""Works side by side: how many at once, in which order, with what share of the machine, on which GPUs."""

import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dora.artifacts import Machine
from flows.launch import launcher, n_devices, on_gpus
from flows.side_by_side import Place, places, side_by_side


class Submitted(NamedTuple):
    wrapped_future: Future[Any]  # as Prefect's futures have it


class Watched:
    """Works of some steps, and how many steps there were at once."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool, self.lock = pool, threading.Lock()
        self.n_now, self.n_most, self.ended = 0, 0, list[str]()

    def step(self, name: str, seconds: float) -> None:
        with self.lock:
            self.n_now += 1
            self.n_most = max(self.n_most, self.n_now)
        time.sleep(seconds)
        with self.lock:
            self.n_now -= 1
            self.ended.append(name)

    def work(self, name: str, n_steps: int, seconds: float, machine: Machine) -> Generator[Submitted, None, str]:
        for number in range(n_steps):
            yield Submitted(self.pool.submit(self.step, f"{name}{number}", seconds))
        return f"{name} with {machine.threads} threads"


def test_so_many_works_are_under_way_and_what_they_return_is_in_their_order():
    with ThreadPoolExecutor() as pool:
        watched = Watched(pool)
        works = [
            partial(watched.work, name, n_steps, 0.05) for name, n_steps in zip("abcde", (3, 1, 1, 0, 2), strict=True)
        ]
        found = side_by_side(works, Machine(cells_at_once=2, threads=7))
    assert found == [f"{name} with 7 threads" for name in "abcde"]
    assert watched.n_most == 2
    assert watched.ended.index("b0") < watched.ended.index("a2")  # a place that is free is taken at once
    assert sorted(watched.ended) == ["a0", "a1", "a2", "b0", "c0", "e0", "e1"]


def test_one_at_a_time_is_one_after_the_other():
    with ThreadPoolExecutor() as pool:
        watched = Watched(pool)
        side_by_side([partial(watched.work, name, 2, 0.0) for name in "abc"], Machine())
    assert watched.ended == ["a0", "a1", "b0", "b1", "c0", "c1"] and watched.n_most == 1


def test_a_work_that_breaks_stops_what_is_still_to_begin():
    def broken(_: Machine) -> Generator[Submitted, None, str]:
        raise ValueError("broken")
        yield

    with ThreadPoolExecutor() as pool:
        watched = Watched(pool)
        works = [broken, partial(watched.work, "a", 1, 0.0)]
        with pytest.raises(ValueError, match="broken"):
            side_by_side(works, Machine())
    assert not watched.ended


def test_each_has_its_share_of_cores_and_what_is_set_by_hand_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    assert places(Machine()) == [Place(Machine())]
    for place in places(Machine(cells_at_once=2)):
        assert (place.machine.threads, place.machine.n_processes) == (max(1, Machine().n_cores // 8), 4)
    many = places(Machine(cells_at_once=1000, device="cpu"))
    assert len(many) == 1000 and {(place.machine.threads, place.machine.n_processes) for place in many} == {(1, 1)}
    by_hand = Machine(cells_at_once=2, threads=3, n_processes=1)
    assert [place.machine for place in places(by_hand)] == [by_hand, by_hand]
    of_slurm = Machine(cells_at_once=24, launcher="slurm")
    assert places(of_slurm) == 24 * [Place(of_slurm)]


@pytest.mark.parametrize(
    ("visible", "at_once", "n_processes", "expected"),
    [
        ("0,1,2,3", 2, 0, ["0,1", "2,3"]),
        ("0,1,2,3", 3, 0, ["0", "1", "2"]),
        ("0,1,2,3", 3, 2, ["0,1", "2,3", "0,1"]),
        ("GPU-a, GPU-b", 3, 0, ["GPU-a", "GPU-b", "GPU-a"]),  # more than there are: they share
        ("5", 2, 0, ["5", "5"]),
        ("5", 2, 2, ["5", "5"]),  # the training says that these are too few
        ("0,1", 1, 0, [""]),  # all, as ever
        ("", 2, 0, ["", ""]),
    ],
)
def test_places_get_gpus_of_their_own_as_long_as_there_are_enough(
    visible: str, at_once: int, n_processes: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine = Machine(cells_at_once=at_once, n_processes=n_processes)
    assert [",".join(place.gpus) for place in places(machine)] == expected
    on_cpu = machine.model_copy(update={"device": "cpu"})
    assert {place.gpus for place in places(on_cpu)} == {()}


@pytest.mark.parametrize("spread", ["process", "nodes"])
def test_a_stages_job_sees_the_gpus_of_its_place(spread: Any, tmp_path: Path):
    machine = Machine(root=tmp_path, n_processes=1)
    tell = [sys.executable, "-c", "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"]
    with on_gpus(("2", "3")):
        launcher(machine, spread)(tell, tmp_path, lambda: None)
    assert (tmp_path / ".output").read_text() == "2,3\n"


@pytest.mark.parametrize(
    ("values", "n_groups", "n"),
    [
        ({}, 1, 1),
        ({}, 6, 6),
        ({}, 64, 8),
        ({"n_processes": 3}, 2, 2),
        ({"hosts": {"n": 2, "address": "10.0.0.1"}}, 16, 16),
        ({"launcher": "slurm", "slurm": {"gres": "gpu:4"}}, 3, 3),
        ({"launcher": "slurm", "slurm": {"nodes": 2, "gres": "gpu:4"}}, 64, 8),
        ({"launcher": "slurm", "slurm": {"nodes": 2, "gres": "gpu:4"}}, 5, 4),  # as many on each node
        ({"launcher": "slurm", "slurm": {"nodes": 2, "gres": "gpu:4"}, "n_processes": 1}, 5, 2),
    ],
)
def test_a_training_has_no_more_processes_than_groups_of_clips(
    values: dict[str, Any], n_groups: int, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    assert n_devices(Machine(root=tmp_path, **values), at_most=n_groups) == n
