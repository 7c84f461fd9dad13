"""One pass over GOT-10k's folders: numbers, the toolkit's files, the server's zip, kills, and what is odd in data."""

import hashlib
import json
import os
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import small_tracks
import torch

from dora.artifacts import Machine
from dora.launch import Interrupted
from dora.progress import Progress, silent
from eval.benchmark import RECORDS, Result
from eval.finetune.team import joined
from eval.trackers import overlap, results
from eval.trackers.one_pass import one_pass_evaluation
from eval.trackers.sequences import listed, read_sequence
from eval.trackers.tracker import Tracker

torch.set_num_threads(1)
NAMES = ["GOT-10k_Val_000001", "GOT-10k_Val_000002", "GOT-10k_Val_000003"]


class Still:
    """Says the first box again and again."""

    def __init__(self) -> None:
        self.n_started = 0

    def start(self, frame: np.ndarray, box: np.ndarray) -> None:
        self.n_started, self.box = self.n_started + 1, box

    def follow(self, frame: np.ndarray) -> np.ndarray:
        return self.box


class Knowing(Still):
    """Says the true box, which it knows by the first one; `stop_at` interrupts it in its n-th frame over all."""

    def __init__(self, data: Path, subset: str = "val", *, stop_at: int = -1) -> None:
        super().__init__()
        self.known = {
            tuple(sequence.boxes[0]): sequence.boxes
            for sequence in (read_sequence(data, subset, name) for name in listed(data, subset))
        }
        self.left = stop_at

    def start(self, frame: np.ndarray, box: np.ndarray) -> None:
        super().start(frame, box)
        self.boxes = iter(self.known[tuple(box)][1:])

    def follow(self, frame: np.ndarray) -> np.ndarray:
        self.left -= 1
        if not self.left:
            raise Interrupted
        return next(self.boxes)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    small_tracks.write_subset(tmp_path / "data", "val", 3, n_frames=5, seed=0)
    return tmp_path / "data"


def run(
    tracker: Tracker, data: Path, out: Path, *, subset: str = "val", progress: Progress = silent, n_workers: int = 0,
    whole_pixels: bool = False, max_broken_share: float = 0,
) -> Result:  # fmt: skip
    machine = Machine(n_workers=n_workers, device="cpu")
    with joined(machine, out) as team:
        return one_pass_evaluation(
            tracker, machine, out, team, progress, data=data, subset=subset, name="ours", whole_pixels=whole_pixels,
            max_broken_share=max_broken_share, notes=("first",),
        )  # fmt: skip


def content(folder: Path) -> dict[str, str]:
    """Hash of every file that an equal run has too."""
    names = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if not any(part.startswith(".") for part in Path(name).parts)
        and not any(fnmatch(name, pattern) for pattern in RECORDS)
    }


def test_the_truth_as_prediction_has_ao_1(data: Path, tmp_path: Path):
    result = run(Knowing(data), data, tmp_path / "out")
    assert {name: result.metrics[name] for name in ("AO", "SR_0.50", "SR_0.75")} == dict.fromkeys(
        ("AO", "SR_0.50", "SR_0.75"), 100
    )
    assert result.n_samples == 3 * 4 and result.notes == ("first",)  # the first frames do not count
    assert result.metrics["AO_still_box"] < 60


def test_a_still_box_has_what_ao_still_box_says(data: Path, tmp_path: Path):
    metrics = run(Still(), data, tmp_path / "out").metrics
    assert metrics["AO"] == pytest.approx(metrics["AO_still_box"], abs=1e-12)


def test_results_are_read_back_with_the_toolkits_means_to_the_same_numbers(data: Path, tmp_path: Path):
    out = tmp_path / "out"
    noisy = Knowing(data)
    draw = np.random.default_rng(0)
    noisy.known = {key: boxes + draw.uniform(-3, 3, boxes.shape) for key, boxes in noisy.known.items()}
    metrics = run(noisy, data, out).metrics
    found: list[np.ndarray] = []
    for name in NAMES:
        folder, sequence = out / "results/GOT-10k/ours" / name, read_sequence(data, "val", name)
        text = (folder / f"{name}_001.txt").read_text()
        assert all(len(number.split(".")[1]) == 3 for number in text.replace("\n", ",").rstrip(",").split(","))
        boxes = np.loadtxt(folder / f"{name}_001.txt", delimiter=",")
        assert boxes.shape == (5, 4) and np.array_equal(boxes[0], sequence.boxes[0])
        seconds = np.loadtxt(folder / f"{name}_time.txt", delimiter=",")
        assert seconds.shape == (5,) and (seconds > 0).all()
        found.append(overlap.iou(boxes, sequence.boxes, size=sequence.size)[1:])
    scores = overlap.scores(np.concatenate(found))
    assert [metrics[name] for name in ("AO", "SR_0.50", "SR_0.75")] == [100 * share for share in scores]
    assert 5 < metrics["AO"] < 95


def test_what_is_left_tells_of_each_sequence_and_of_the_curve(data: Path, tmp_path: Path):
    result, out = run(Knowing(data), data, tmp_path / "out"), tmp_path / "out"
    rows = json.loads((out / "sequences.json").read_text())
    assert [(row["name"], row["class"], row["frames"], row["counted"], row["AO"]) for row in rows] == [
        (name, "square", 5, 4, 100) for name in NAMES
    ]
    assert np.mean([row["AO_still_box"] for row in rows]) == pytest.approx(result.metrics["AO_still_box"])
    curve = json.loads((out / "success.json").read_text())
    assert len(curve["thresholds"]) == len(curve["tracker"]) == len(curve["still_box"]) == 101
    assert curve["tracker"] == [100.0] * 100 + [0.0]  # no overlap is above 1
    speed = json.loads((out / "speed.json").read_text())
    assert speed["frames"] == 12 and speed["fps"] == pytest.approx(12 / speed["seconds"]) and speed["device"]
    assert result.pictures == ("got10k.jpg", "success.png", *(f"films/{name}.mp4" for name in NAMES))
    assert all((out / picture).stat().st_size for picture in result.pictures)


def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(data: Path, tmp_path: Path):
    whole = run(Knowing(data), data, tmp_path / "whole")
    out = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        run(Knowing(data, stop_at=7), data, out)
    first = out / "results/GOT-10k/ours" / NAMES[0] / f"{NAMES[0]}_001.txt"
    kept = first.stat().st_mtime_ns
    assert not (out / "results/GOT-10k/ours" / NAMES[1]).exists()
    rest = Knowing(data)
    told: list[tuple[float, float, str]] = []
    progress = lambda done, total, unit, note="": told.append((done, total, unit))  # noqa: E731
    assert run(rest, data, out, progress=progress, n_workers=2)._replace(cost=None) == whole._replace(cost=None)
    assert content(out) == content(tmp_path / "whole")
    assert rest.n_started == 2 and first.stat().st_mtime_ns == kept
    assert told[0] == (6, 15, "frames") and told[-1] == (15, 15, "frames")
    again = Knowing(data)
    assert run(again, data, out)._replace(cost=None) == whole._replace(cost=None)
    assert again.n_started == 0


def test_one_frame_an_empty_first_box_and_absent_things(tmp_path: Path):
    data, boxes = tmp_path / "data", small_tracks.moving(5, seed=2)
    empty = boxes.copy()
    empty[0, 2] = 0
    small_tracks.write_track(data / "val" / NAMES[0], boxes[:1], seed=0)
    small_tracks.write_track(data / "val" / NAMES[1], empty, seed=1)
    small_tracks.write_track(data / "val" / NAMES[2], boxes + np.array([0, 1, 0, -1]), seed=2, absent=[2], hidden=[3])
    (data / "val/list.txt").write_text("\n".join(NAMES))
    tracker = Knowing(data)
    result = run(tracker, data, tmp_path / "out")
    assert tracker.n_started == 2  # the empty box starts nothing
    rows = json.loads((tmp_path / "out/sequences.json").read_text())
    assert [(row["frames"], row["counted"], row["AO"]) for row in rows] == [(1, 0, None), (5, 4, 0), (5, 2, 100)]
    assert result.n_samples == 6 and result.metrics["AO"] == pytest.approx(100 * 2 / 6)
    assert result.notes[1] == (
        f"1 sequences begin with a box without an area, which stayed unmoved; the first is {NAMES[1]}"
    )
    (data / "val/list.txt").write_text(NAMES[0])
    with pytest.raises(ValueError, match="no frame of 1 sequences counts"):
        run(tracker, data, tmp_path / "nothing")


def test_a_frame_that_cannot_be_read_stops_the_run_or_costs_its_sequence(data: Path, tmp_path: Path):
    frame = data / "val" / NAMES[1] / "00000003.jpg"
    frame.write_bytes(frame.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"GOT-10k_Val_000002/00000003.jpg is no readable image"):
        run(Knowing(data), data, tmp_path / "out")
    result = run(Knowing(data), data, tmp_path / "out", max_broken_share=0.4)
    assert result.n_samples == 8 and result.metrics["AO"] == 100
    assert "00000003.jpg" in result.notes[1]


def test_the_test_subset_gives_a_zip_as_its_server_wants_it_and_says_so(tmp_path: Path):
    data, out = tmp_path / "data", tmp_path / "out"
    names = small_tracks.write_subset(data, "test", 2, n_frames=4, seed=5)
    tracker = Knowing(data, "test")
    tracker.known = {key: small_tracks.moving(4, seed=9) + 0.7 for key in tracker.known}
    result = run(tracker, data, out, subset="test", whole_pixels=True)
    assert result.metrics == {} and result.n_samples == 8
    assert result.notes[1].endswith("upload results/GOT-10k/ours.zip")
    path = out / "results/GOT-10k/ours.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"{name}/{name}_{what}.txt" for name in names for what in ("001", "time")]
        lines = archive.read(f"{names[0]}/{names[0]}_001.txt").decode().splitlines()
        assert [len(line.split(",")) for line in lines] == [4] * 4 and "." not in "".join(lines)
        kept = results.read_results(out / "results/GOT-10k/ours", names[0], n_frames=4)
        assert lines == [",".join(str(int(number)) for number in box) for box in kept]
        seconds = (out / "results/GOT-10k/ours" / names[0] / f"{names[0]}_time.txt").read_bytes()
        assert archive.read(f"{names[0]}/{names[0]}_time.txt") == seconds
    before = path.read_bytes()
    os.utime(path.parent / "ours" / names[0] / f"{names[0]}_001.txt")
    results.write_submission(path.parent / "ours", names, whole_pixels=True)
    assert path.read_bytes() == before


def test_results_that_are_of_other_frames_are_refused(data: Path, tmp_path: Path):
    run(Still(), data, tmp_path / "out")
    small_tracks.write_subset(tmp_path / "longer", "val", 3, n_frames=6, seed=0)
    with pytest.raises(ValueError, match=r"_001.txt has 5 boxes, but the sequence has 6 frames"):
        run(Still(), tmp_path / "longer", tmp_path / "out")


def test_a_trackers_name_is_a_folders(tmp_path: Path):
    with pytest.raises(ValueError, match=r"a tracker's name names a folder, got '../ours'"):
        results.results_folder(tmp_path, "../ours")
