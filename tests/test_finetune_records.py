"""Measuring image by image: each once, whoever did it and however often it was interrupted."""

import errno
import json
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import finetuner
import pytest
import torch

from dora.launch import Interrupted
from eval.finetune.records import PARTS, Measured, measure_each
from eval.finetune.team import SPENT, SpentBefore, joined

torch.set_num_threads(1)
N = 10
BROKEN = (4, 7)


def work(index: int) -> dict[str, Any]:
    if index in BROKEN:
        raise OSError(f"val-{index}.jpg is truncated")
    return {"square": index * index, "third": index / 3, "by": os.getpid()}


def measure(folder: Path, work: Callable[[Any], Any] = work, share: float = 0.2, **options: Any) -> Measured:
    progress = options.pop("progress", lambda done, total, unit, note="": None)
    with joined(finetuner.machine(folder), folder) as team:
        return measure_each(folder, N, work, team, progress, share, **options)


def numbers(measured: Measured) -> dict[int, Any]:
    return {number: {**record, "by": None} for number, record in measured.records.items()}


EXPECTED = {i: {"square": i * i, "third": i / 3, "by": None} for i in range(N) if i not in BROKEN}
NOTE = "2 of 10 images could not be read and count for nothing: val-4.jpg is truncated; val-7.jpg is truncated"


def test_all_images_are_measured_in_order_and_broken_ones_named(tmp_path: Path):
    told: list[tuple[float, float, str]] = []
    measured = measure(tmp_path, progress=lambda done, total, unit, note="": told.append((done, total, unit)))
    assert list(measured.records) == list(EXPECTED) and numbers(measured) == EXPECTED
    assert measured.notes == (NOTE,)
    assert told[-1] == (N, N, "images")


@pytest.mark.parametrize("n_workers", [0, 2, 30])
def test_images_may_be_read_ahead_by_other_processes(tmp_path: Path, n_workers: int):
    def read(index: int) -> tuple[int, int]:
        return work(index)["square"], os.getpid()

    def look(image: tuple[int, int]) -> dict[str, Any]:
        return {"root": image[0] ** 0.5, "read_here": image[1] == os.getpid()}

    measured = measure(tmp_path, look, read=read, n_workers=n_workers)
    assert measured.records == {i: {"root": i, "read_here": n_workers == 0} for i in EXPECTED}
    assert measured.notes == (NOTE,)


def test_a_killed_measurement_goes_on_and_does_nothing_twice(tmp_path: Path):
    seen: list[int] = []

    def die(index: int) -> dict[str, Any]:
        if index == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(index)

    def remember(index: int) -> dict[str, Any]:
        seen.append(index)
        return work(index)

    process = get_context("fork").Process(target=measure, args=(tmp_path, die))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (part,) = (tmp_path / PARTS).glob("*.jsonl")
    part.write_text(part.read_text()[:-9])  # as if the kill had torn the last line, image 5's
    assert numbers(measure(tmp_path, remember)) == EXPECTED
    assert seen == [4, 5, 6, 7, 8, 9]
    assert numbers(measure(tmp_path, remember)) == EXPECTED
    assert seen[6:] == [4, 7]  # only the broken ones are tried again


def test_an_image_that_was_mended_counts(tmp_path: Path):
    measure(tmp_path)
    measured = measure(tmp_path, lambda index: {"mended": True})
    assert measured.notes == () and list(measured.records) == list(range(N))


def test_asked_to_stop_it_keeps_what_it_has(tmp_path: Path):
    def stop(index: int) -> dict[str, Any]:
        if index == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"first": True}

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        measure(tmp_path, stop)
    assert signal.getsignal(signal.SIGTERM) == before
    measured = measure(tmp_path, lambda index: {"first": False})
    assert [record["first"] for record in measured.records.values()] == [True] * 4 + [False] * 6


def test_too_many_broken_images_are_refused(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"2 of 10 images cannot be read, more than the share of 0.1.*val-4.jpg.*val-7"
    ):
        measure(tmp_path, share=0.1)


def test_a_full_disk_is_no_broken_image(tmp_path: Path):
    def write(index: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", f"results/{index}.png")

    with pytest.raises(OSError, match="No space left on device"):
        measure(tmp_path, write, share=1.0)


def test_a_cost_adds_up_runs_of_different_numbers_of_processes(tmp_path: Path):
    (tmp_path / SPENT).write_text(SpentBefore(seconds=50, device_seconds=800).model_dump_json())  # of 16 processes
    with joined(finetuner.machine(tmp_path), tmp_path) as team:
        cost = team.cost()
    assert cost.n_devices == 1 and 50 < cost.seconds < 80
    assert cost.device_hours == pytest.approx((800 + cost.seconds - 50) / 3600, rel=1e-3)


def test_processes_share_the_images_and_any_number_goes_on(tmp_path: Path):
    results = tmp_path / "results"
    results.mkdir()

    def all_but_some(index: int) -> dict[str, Any]:
        if index in (6, 9):
            os.kill(os.getpid(), signal.SIGTERM)
        return work(index)

    def again() -> None:
        rank = os.environ["RANK"]
        measured = measure(tmp_path)
        (results / rank).write_text(json.dumps([numbers(measured), measured.notes]))

    codes = finetuner.side_by_side(2, lambda: measure(tmp_path, all_but_some))
    assert any(codes)
    n_done = sum(path.read_text().count("record") for path in (tmp_path / PARTS).glob("*.jsonl"))
    assert 2 <= n_done < len(EXPECTED)
    assert finetuner.side_by_side(3, again) == [0, 0, 0]
    told = [json.loads((results / f"{rank}").read_text()) for rank in range(3)]
    assert told == [[{str(i): record for i, record in EXPECTED.items()}, [NOTE]], [{}, [NOTE]], [{}, [NOTE]]]
    assert numbers(measure(tmp_path)) == EXPECTED
