import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from dora.config import MiniatureVideo
from dora.data.miniature import CLASSES, World, render, write_video
from dora.data.street.houses import row_of_houses
from dora.data.street.polygons import paint

SMALL = World(seed=3, width=96, height=54)


def test_a_picture_depends_on_world_and_time_alone():
    before = render(SMALL, 2.5)
    render(SMALL, 100.0)
    render(World(seed=4, width=96, height=54), 2.5)
    again = render(SMALL, 2.5)
    assert all(np.array_equal(x, y) for x, y in zip(before, again, strict=True))


def test_a_picture_is_the_same_in_another_process():
    show = "import hashlib; from dora.data.miniature import *; f = render(World(seed=3, width=96, height=54), 2.5)"
    command = [sys.executable, "-c", f"{show}; print(hashlib.sha256(b''.join(x.tobytes() for x in f)).hexdigest())"]
    digests = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(digests) == 1


def test_another_seed_is_another_street():
    assert (render(SMALL, 0).classes != render(World(seed=1003, width=96, height=54), 0).classes).mean() > 0.1


def test_ground_truth_fits_the_picture():
    for time_s in (0.0, 7.0, 31.0):
        frame = render(SMALL, time_s)
        assert frame.image.shape == (54, 96, 3) and frame.depth.shape == frame.classes.shape == (54, 96)
        scenery = np.isin(frame.classes, [CLASSES.index(name) for name in ("sky", "road", "pavement", "building")])
        assert np.array_equal(scenery, frame.instances == 0)
        for instance in np.unique(frame.instances[frame.instances > 0]):
            assert len(np.unique(frame.classes[frame.instances == instance])) == 1
        assert (frame.depth > 0).all() and (frame.depth[frame.classes == CLASSES.index("sky")] == 400).all()


def test_a_walk_shows_at_least_eight_classes_of_things_and_all_of_them_in_time():
    seen: set[int] = set()
    for time_s in range(0, 120, 8):
        seen |= set(np.unique(render(World(seed=0, width=160, height=90), time_s).classes).tolist())
    assert {CLASSES[index] for index in seen} == {
        "sky",
        "road",
        "pavement",
        "building",
        "tree",
        "person",
        "car",
        "bus",
        "bicycle",
        "dog",
        "lamp",
        "sign",
        "bench",
        "bin",
    }


def test_a_parked_car_keeps_its_identity_and_grows_as_we_come_nearer():
    world = World(seed=0, width=160, height=90)
    first, later = render(world, 0), render(world, 2)
    cars = first.instances[first.classes == CLASSES.index("car")]
    shared = np.intersect1d(cars, later.instances)
    assert len(shared) >= 2
    grown = [(later.instances == i).sum() > (first.instances == i).sum() for i in shared]
    assert sum(grown) > len(grown) / 2


def test_houses_stay_as_they_are_when_the_walker_reaches_the_next_stretch_of_street():
    before, after = row_of_houses(0, 10), row_of_houses(0, 11)  # one house further
    assert np.array_equal(before.starts[:, 1:], after.starts[:, :-1])
    on_the_left = len(before.starts[0])
    assert np.array_equal(before.sizes[1:on_the_left], after.sizes[: on_the_left - 1])


def test_the_nearer_of_two_things_hides_the_other():
    frame = render(World(seed=0, width=160, height=90), 5.0)
    row, column = np.nonzero((frame.instances[:, 1:] != frame.instances[:, :-1]) & (frame.instances[:, 1:] > 0))
    edges_in_front_of_ground = frame.depth[row, column + 1] < 400
    assert len(row) > 50 and edges_in_front_of_ground.all()


def test_a_polygon_covers_the_pixels_whose_centres_it_contains():
    square = np.array([[1, 3, 3, 1], [1, 1, 4, 4]], np.float32)[..., None]
    triangle = np.array([[0, 6, 0, 0], [0, 0, 6, 6]], np.float32)[..., None]
    covered = paint(np.concatenate([triangle, square[:, ::-1]], axis=2), width=6, height=6)
    y, x = np.mgrid[:6, :6] + 0.5
    expected = np.where(x + y < 6, 0, -1)
    expected[1:4, 1:3] = 1
    assert np.array_equal(covered, expected)


def test_polygons_outside_the_picture_leave_no_trace():
    far_away = np.array([[-9, -5, -5, -9, 9000], [2, 2, 4, 4, -9000]], np.float32)[..., None]
    assert (paint(far_away[:, :4], width=4, height=4) == -1).all()
    assert (paint(np.zeros((2, 4, 0), np.float32), width=4, height=4) == -1).all()


def test_the_video_has_the_asked_length_and_the_same_bytes_each_time(tmp_path: Path):
    config = MiniatureVideo(duration_s=1, fps=12, width=64, height=48)
    calls: list[tuple[float, float]] = []
    write_video(config, tmp_path / "a.mp4", lambda done, total, unit, note="": calls.append((done, total)))
    write_video(config, tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert calls[-1] == (12, 12)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264" and stream.average_rate == 12
        assert stream.pix_fmt == "yuv420p"
    assert len(frames) == 12
    original = render(World(seed=0, width=64, height=48), 0).image.astype(int)
    assert np.abs(frames[0].astype(int) - original).mean() < 12


def test_an_interrupted_rendering_leaves_no_video(tmp_path: Path):
    def stop(done: float, total: float, unit: str, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(MiniatureVideo(duration_s=1, width=64, height=48), tmp_path / "a.mp4", stop)
    assert list(tmp_path.iterdir()) == []
