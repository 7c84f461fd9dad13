import math
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from dora.config import MiniatureVideo
from dora.data.miniature import CLASSES, World, photograph, render, view, write_video
from dora.data.street.film import _blurred
from dora.data.street.houses import row_of_houses
from dora.data.street.layout import CROSSING_EVERY_M
from dora.data.street.polygons import paint
from dora.data.street.residents import things
from dora.data.street.shapes import COARSEST, FORMS, shape
from dora.data.street.traffic import driven_m, lit_lamp

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


@pytest.mark.parametrize("seed", [0, 1])
def test_two_minutes_of_walk_show_all_classes(seed: int):
    seen: set[int] = set()
    for time_s in range(0, 120, 3):
        seen |= set(np.unique(render(World(seed=seed, width=160, height=90), time_s).classes).tolist())
    assert {CLASSES[index] for index in seen} == set(CLASSES)


def test_everything_that_is_drawn_is_of_a_class_and_every_class_of_things_is_drawn():
    assert {form.of for form in FORMS.values()} == set(CLASSES) - {"sky", "road", "pavement", "building"}


def test_parked_cars_keep_their_identity_and_grow_as_we_come_nearer():
    ratios: list[float] = []
    for seed in range(8):
        world = World(seed=seed, width=160, height=90)
        first, later = (render(world, time_s).instances for time_s in (0, 1.5))
        parked = {thing.instance for thing in things(seed, view(world, 0), 0) if thing.kind == "car" and thing.x > 3}
        uncut = parked & set(first.ravel().tolist()) & set(later.ravel().tolist()) - set(later[:, [0, -1]].ravel())
        ratios += [(later == i).sum() / (first == i).sum() for i in uncut]
    assert len(ratios) >= 8 and np.median(ratios) > 1.1  # people in between may hide the one or the other


def test_a_truck_has_its_cab_in_front_of_its_load_at_any_distance():
    for level in range(COARSEST + 1):
        n_views = FORMS["truck"].seen_from(level)[1]
        assert n_views == 2
        back, front = (shape("truck", 5, 0.0, view / n_views, level) for view in range(n_views))
        assert not np.array_equal(back.colours, front.colours)  # painted in another order


def test_who_walks_faces_where_they_go_and_some_turn_round():
    dt, n_walking, turned = 0.05, 0, 0.0
    first_headings: dict[int, float] = {}
    for time_s in np.arange(0.0, 16.0, 0.5):
        before = {thing.instance: thing for thing in things(0, view(SMALL, time_s), time_s)}
        for after in things(0, view(SMALL, time_s + dt), time_s + dt):
            if after.kind not in ("person", "dog", "cat") or after.instance not in before:
                continue
            dx, dz = after.x - before[after.instance].x, after.z - before[after.instance].z
            if math.hypot(dx, dz) < 0.25 * dt:
                continue  # someone who waits
            n_walking += 1
            assert _between(math.atan2(dx, dz), after.heading) < 0.6, after
            turned = max(turned, _between(first_headings.setdefault(after.instance, after.heading), after.heading))
    assert n_walking > 300 and turned > 2.5


def _between(one: float, other: float) -> float:
    return abs((one - other + math.pi) % (2 * math.pi) - math.pi)


def test_nothing_appears_in_the_middle_of_the_picture():
    world, dt = World(seed=1, width=160, height=90), 0.1
    known = {thing.instance for thing in things(1, view(world, 0), 0)}
    for time_s in np.arange(dt, 6.0, dt):
        frame = render(world, time_s)
        inner = np.where(frame.depth < 60, frame.instances, 0)[:, 8:-8]
        assert set(np.unique(inner).tolist()) - {0} <= known
        known = {thing.instance for thing in things(1, view(world, time_s), time_s)}


def test_traffic_halts_clear_of_the_crossings_while_its_lights_are_red():
    for time_s in np.arange(0.0, 60.0, 0.5):
        moves = driven_m(time_s + 0.01, 3) - driven_m(time_s, 3) > 1e-3
        assert not (moves and lit_lamp(time_s) == 0)
        if lit_lamp(time_s) != 0 or moves:
            continue
        for thing in things(0, view(SMALL, time_s), time_s):
            if thing.kind in ("car", "truck", "bus", "motorcycle", "bicycle") and abs(thing.x) < 3:
                assert abs(thing.z % CROSSING_EVERY_M - CROSSING_EVERY_M / 2) > 4


def test_a_head_that_turns_blurs_the_picture_but_not_the_truth():
    still = view(SMALL, 2.5)._replace(turning=0.0)
    sharp, smeared = photograph(3, still, 2.5), photograph(3, still._replace(turning=8.0), 2.5)
    assert all(np.array_equal(x, y) for x, y in zip(sharp[1:], smeared[1:], strict=True))
    across = [np.abs(np.diff(frame.image.astype(int), axis=1)).mean() for frame in (sharp, smeared)]
    assert across[1] < 0.8 * across[0]


def test_the_sensors_noise_changes_from_moment_to_moment_and_is_mild():
    camera = view(SMALL, 2.5)
    one, other = (photograph(3, camera, time_s) for time_s in (2.5, 2.501))
    same = (one.instances == other.instances) & (one.instances == 0)
    difference = (one.image.astype(int) - other.image)[same]
    assert 1 < difference.std() < 6


def test_blur_keeps_the_mean_of_a_line_and_spreads_a_point_evenly():
    line = np.zeros((1, 9), np.float32)
    line[0, 4] = 1
    np.testing.assert_allclose(_blurred(line, 1.5)[0], np.array([0, 0, 0.5, 1, 1, 1, 0.5, 0, 0]) / 4, atol=1e-6)
    np.testing.assert_allclose(_blurred(np.ones((2, 5), np.float32), 2.3), 1, atol=1e-6)


def test_houses_stay_as_they_are_when_the_walker_reaches_the_next_stretch_of_street():
    before, after = row_of_houses(0, 10), row_of_houses(0, 11)  # one house further
    assert np.array_equal(before.starts[:, 1:], after.starts[:, :-1])
    on_the_left = len(before.starts[0])
    assert np.array_equal(before.sizes[1:on_the_left], after.sizes[: on_the_left - 1])


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
