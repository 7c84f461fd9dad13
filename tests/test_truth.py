"""Boxes, visibility and depth of what stands in a picture, held against rendering each thing alone."""

import numpy as np
import pytest

from dora.data.miniature import CLASSES, Frame, World, annotations, photograph, render, view
from dora.data.street.layout import FAR_M, SKY, Camera, Layers, Light
from dora.data.street.residents import Thing, things
from dora.data.street.things import paint_things
from dora.data.street.truth import MARGIN, Annotation, box_of, is_whole

WORLD = World(seed=1003, width=240, height=136)
TIMES_S = (2.0, 31.0, 77.0)
GREY = Light(np.ones(3, np.float32), np.ones(3, np.float32), np.ones(3, np.float32), 0.0, 0.0)


def look(time_s: float) -> tuple[Frame, tuple[Annotation, ...]]:
    camera = view(WORLD, time_s)
    frame = photograph(WORLD.seed, camera, time_s)
    return frame, annotations(WORLD.seed, camera, time_s, frame)


def alone(thing: Thing, camera: Camera) -> Layers:
    """A picture of the thing when nothing else is in the street."""
    shape = (camera.height, camera.width)
    layers = Layers(
        np.zeros((3, *shape), np.float32), np.full(shape, SKY, np.uint8), np.zeros(shape, np.int32),
        np.full(shape, FAR_M, np.float32),
    )  # fmt: skip
    paint_things([thing], layers, GREY, camera)
    return layers


def wider(camera: Camera) -> Camera:
    """The same camera with MARGIN pictures more on each side."""
    x, y = MARGIN * camera.width, MARGIN * camera.height
    return camera._replace(width=camera.width + 2 * x, height=camera.height + 2 * y, horizon=camera.horizon + y)


@pytest.mark.parametrize("time_s", TIMES_S)
def test_every_thing_in_the_picture_is_annotated_with_its_box_and_its_pixels(time_s: float):
    frame, found = look(time_s)
    assert {thing.instance for thing in found} == set(np.unique(frame.instances).tolist()) - {0}
    assert [thing.n_visible for thing in found] == sorted((thing.n_visible for thing in found), reverse=True)
    for thing in found:
        mask = frame.instances == thing.instance
        assert thing.box == box_of(mask) and thing.n_visible == mask.sum()
        assert (frame.classes[mask] == thing.class_index).all()
        assert thing.distance_m == frame.depth[mask].min()


@pytest.mark.parametrize("time_s", TIMES_S)
def test_the_whole_of_a_thing_is_what_it_fills_when_it_stands_alone_in_a_wider_picture(time_s: float):
    camera = view(WORLD, time_s)
    _, found = look(time_s)
    here = {thing.instance: thing for thing in things(WORLD.seed, camera, time_s)}
    for annotation in found:
        whole = alone(here[annotation.instance], wider(camera)).instances > 0
        box = np.subtract(box_of(whole), np.tile([MARGIN * WORLD.width, MARGIN * WORLD.height], 2))
        # The silhouette is filled on a shifted grid: an edge pixel may be rounded the other way.
        assert annotation.n_whole == pytest.approx(whole.sum(), abs=2 + 0.01 * whole.sum())
        assert np.abs(np.subtract(annotation.whole_box, box)).max() <= 1
        assert 0 < annotation.visibility <= 1
    assert sum(annotation.visibility < 0.7 for annotation in found) > 2  # crowded enough for the question to matter


@pytest.mark.parametrize("time_s", TIMES_S)
def test_the_nearer_of_two_things_hides_the_other(time_s: float):
    frame, found = look(time_s)
    camera = view(WORLD, time_s)
    here = {thing.instance: thing for thing in things(WORLD.seed, camera, time_s)}
    n_wrong = n_shared = 0
    for annotation in found:
        own = alone(here[annotation.instance], camera)
        covered = (own.instances > 0) & (frame.instances > 0) & (frame.instances != annotation.instance)
        n_shared += covered.sum()
        n_wrong += (frame.depth[covered] > own.depth[covered] + 0.5).sum()
    # A thing is painted whole before the next: where two are as far, or reach around each other, one has to win.
    assert n_shared > 1000 and n_wrong < 0.02 * n_shared


def test_a_thing_that_reaches_out_of_the_picture_is_cut_and_less_than_fully_visible():
    cut = [thing for time_s in TIMES_S for thing in look(time_s)[1] if thing.is_cut(WORLD.width, WORLD.height)]
    assert len(cut) > 2
    assert all(thing.visibility < 1 for thing in cut if thing.n_whole > 50)


@pytest.mark.parametrize("visibility", [0.2, 0.75, 1.0])
def test_whether_a_thing_is_whole_is_known_without_the_picture(visibility: float):
    answers: list[bool] = []
    for time_s in TIMES_S:
        camera = view(WORLD, time_s)
        here = things(WORLD.seed, camera, time_s)
        seen = {one.instance: one for one in look(time_s)[1]}
        for instance in [thing.instance for thing in here]:
            one = seen.get(instance)
            wanted = one is not None and one.visibility >= visibility and not one.is_cut(WORLD.width, WORLD.height)
            answers.append(is_whole(instance, here, camera, visibility=visibility))
            assert answers[-1] == wanted, instance
        assert not is_whole(-1, here, camera, visibility=visibility)
    assert 0 < sum(answers) < len(answers)


def test_identities_last_and_never_change_class():
    seen: dict[int, set[int]] = {}
    shown: dict[int, int] = {}
    for step in range(40):
        frame = render(WORLD, 10 + step / 4)
        for instance in np.unique(frame.instances[frame.instances > 0]).tolist():
            seen.setdefault(instance, set()).update(np.unique(frame.classes[frame.instances == instance]).tolist())
            shown[instance] = shown.get(instance, 0) + 1
    assert all(len(classes) == 1 for classes in seen.values())
    assert sum(n >= 20 for n in shown.values()) > 10  # for five seconds and more


def test_depth_of_the_ground_under_the_walker_is_geometry():
    frame, camera = render(WORLD, 2.0), view(WORLD, 2.0)
    ground = np.isin(frame.classes, [CLASSES.index("road"), CLASSES.index("pavement")])
    rows = np.broadcast_to(np.arange(WORLD.height)[:, None] + 0.5, ground.shape)[ground]
    expected = camera.y * camera.focal / (rows - camera.horizon)
    assert np.allclose(frame.depth[ground], expected, rtol=1e-4)


def test_no_depth_of_a_thing_lies_far_off_the_thing():
    for time_s in TIMES_S:
        camera = view(WORLD, time_s)
        frame, found = look(time_s)
        here = {thing.instance: thing for thing in things(WORLD.seed, camera, time_s)}
        for annotation in found:
            thing = here[annotation.instance]
            dx, dz = thing.x - camera.x, thing.z - camera.z
            ahead = dx * np.sin(camera.yaw) + dz * np.cos(camera.yaw)
            depth = frame.depth[frame.instances == annotation.instance]
            reach = {"bus": 7.0, "truck": 6.0}.get(CLASSES[annotation.class_index], 4.0)
            assert depth.max() < max(ahead, 0) + reach and depth.min() > ahead - reach, CLASSES[annotation.class_index]


def test_another_camera_sees_the_same_street():
    for time_s in TIMES_S:
        camera = view(WORLD, time_s)
        beside = camera._replace(x=camera.x - 3, z=camera.z + 2, yaw=0.2)
        here, there = ({t.instance: t for t in things(WORLD.seed, c, time_s)} for c in (camera, beside))
        shared = set(here) & set(there)
        assert len(shared) > 20 and all(here[instance] == there[instance] for instance in shared)
