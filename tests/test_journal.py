import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import PRETRAIN

from dora.training.distributed import Ranks
from dora.training.job import LOG, WARNINGS, read_log, read_progress, read_spent, write_spent
from dora.training.journal import Journal
from dora.training.stage import _facts

CPU = torch.device("cpu")
VALUES = {"epoch": 1, "loss": 2.0, "epoch_loss": 2.1, "lr": 1e-3, "teacher_entropy": 1.5}


def journal(folder: Path, *, first_step: int = 0, rank: int = 0) -> Journal:
    return Journal(folder, PRETRAIN, first_step=first_step, n_steps=1000, ranks=Ranks(rank, 2, CPU))


def write(folder: Path, steps: range, *, first_step: int = 0, **values: float) -> None:
    this = journal(folder, first_step=first_step)
    for step in steps:
        this.line(step, VALUES | values, waited_s=0)
    this.close()


def test_a_line_has_what_was_measured_and_how_fast(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    write(tmp_path, range(10, 11), online_knn=41.25, online_knn_chance=11.6)
    (line,) = read_log(tmp_path)
    assert line.items() >= (VALUES | {"step": 10, "online_knn": 41.25}).items()
    assert line["clips_per_s"] == pytest.approx(10 * 4 / line["seconds"])
    assert "mfu" not in line  # of a CPU no peak is known
    assert "step 10/1000  loss 2.000  lr 0.001" in caplog.text and "online k-NN 41.2 %" in caplog.text


def test_what_the_numbers_mean_is_said_in_the_log_and_kept_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    this = journal(tmp_path)
    for step in range(1, 31):
        this.line(step, VALUES | {"teacher_entropy": 2.772}, waited_s=0)
    this.warn(30, "something else")
    this.close()
    kept = read_log(tmp_path, WARNINGS)
    assert [line["step"] for line in kept] == [20, 30] and "evenly over all prototypes" in kept[0]["warning"]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "step 20: the teacher spreads each frame evenly" in caplog.text
    assert all(isinstance(value, int | float) for line in read_log(tmp_path) for value in line.values())


def test_a_resumed_run_forgets_later_lines_and_warnings_and_says_nothing_twice(tmp_path: Path):
    uneven = {"teacher_entropy": 2.772}
    write(tmp_path, range(1, 26), **uneven)
    with (tmp_path / LOG).open("a") as log:
        log.write('{"step": 26, "lo')  # torn by a kill
    write(tmp_path, range(23, 40), first_step=22, **uneven)  # warned of at step 20
    assert [line["step"] for line in read_log(tmp_path)] == [*range(1, 40)]
    assert [line["step"] for line in read_log(tmp_path, WARNINGS)] == [20]
    write(tmp_path, range(11, 30), first_step=10, **uneven)
    assert [line["step"] for line in read_log(tmp_path, WARNINGS)] == [20]


def test_seconds_are_of_all_runs_also_of_steps_that_were_lost(tmp_path: Path):
    write(tmp_path, range(1, 11))
    write_spent(tmp_path, 1000)  # as long as the first run took until it was killed
    write(tmp_path, range(6, 11), first_step=5)
    assert [line["seconds"] > 1000 for line in read_log(tmp_path)] == [False] * 5 + [True] * 5
    assert read_spent(tmp_path) >= read_log(tmp_path)[-1]["seconds"]


def test_speed_is_that_of_the_steps_that_count_and_cost_that_of_all(tmp_path: Path):
    lines = [
        {"step": 10, "clips_per_s": 4.0, "seconds": 10.0},
        {"step": 20, "clips_per_s": 2.0, "seconds": 100.0},  # of which 70 s were lost with a killed run
    ]
    rest = {"epoch_loss": 1.0, "teacher_entropy": 1.0, "data_wait_share": 0.1, "memory_bytes": 5}
    (tmp_path / LOG).write_text("".join(json.dumps(line | rest) + "\n" for line in lines))
    facts = _facts(tmp_path, PRETRAIN)  # 4 clips a step: 10 s and 20 s
    assert facts["seconds"] == 100 and facts["clips_per_s"] == pytest.approx(80 / 30)


def test_pictures_are_kept_beside_the_log_and_shown_in_tensorboard(tmp_path: Path):
    this = journal(tmp_path)
    (events,) = (tmp_path / "tensorboard").iterdir()
    this.sheet(500, Image.new("RGB", (64, 48), "red"))
    this.close()
    with Image.open(tmp_path / "sheets" / "step-00000500.jpg") as image:
        assert image.size == (64, 48)
    assert b"PNG" in events.read_bytes()


def test_progress_says_the_loss(tmp_path: Path):
    this = journal(tmp_path)
    this.tell(1, 7.4126)
    this.close()
    how_far = read_progress(tmp_path)
    assert how_far and (how_far.done, how_far.total, how_far.note) == (1, 1000, "loss 7.413")


def test_other_ranks_write_nothing(tmp_path: Path):
    this = journal(tmp_path, rank=1)
    this.line(1, VALUES, waited_s=0)
    this.warn(1, "")
    this.tell(1, 1.0)
    this.sheet(1, Image.new("RGB", (8, 8)))
    this.close()
    assert not [*tmp_path.iterdir()]
