"""Things become polygons in the picture, and polygons become pixels."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from dora.data.street.layout import CLASSES, FAR_M, PAVEMENT, ROAD, Camera, Layers, Light
from dora.data.street.polygons import paint
from dora.data.street.residents import Thing
from dora.data.street.shapes import COARSEST, FINEST_M, FORMS, N_CORNERS, Shape, shape
from dora.data.street.textures import TEXTURES

_CLASS = {kind: CLASSES.index(form.of) for kind, form in FORMS.items()}
_CLAMP_M = 0.25  # what is nearer or behind is drawn as if here, which puts it outside the picture


class Posed(NamedTuple):
    """Things before the camera, and all their polygons."""

    shapes: list[Shape]
    poses: Float32[np.ndarray, "3 S"]  # of the things: x and z from the camera in metres, angle in radians
    owner: np.ndarray  # (P): which thing a polygon is of
    solid: np.ndarray  # (P)
    in_view: Float32[np.ndarray, "3 V P"]  # metres to the camera's right, down and ahead
    points: Float32[np.ndarray, "2 V P"]  # pixels
    low: Float32[np.ndarray, "2 P"]  # of each polygon's points
    high: Float32[np.ndarray, "2 P"]
    is_shown: np.ndarray  # (P): not behind the camera, and no solid's face that is turned away


class _Polygons(NamedTuple):
    """The polygons of all things in the picture, the farthest thing first."""

    points: Float32[np.ndarray, "2 V P"]  # pixels
    colours: Float32[np.ndarray, "C P"]
    textures: np.ndarray  # (P)
    classes: np.ndarray  # (P)
    instances: np.ndarray  # (P)
    inverse_depth: Float32[np.ndarray, "3 P"]  # 1/depth = a x + b y + c, for x, y in pixels
    boxes: Float32[np.ndarray, "4 P"]  # left, top in pixels; texels a pixel across and down


def paint_things(things: Sequence[Thing], layers: Layers, light: Light, camera: Camera) -> None:
    """Paint the things, the farthest first, and their shadows over the scenery."""
    if not things:
        return
    posed = pose(things, camera)
    _paint(_shadows(posed, camera), _polygons(things, posed, light, camera), layers, camera)


def in_front(things: Sequence[Thing], camera: Camera) -> Int32[np.ndarray, "Y X"]:
    """For every pixel which of the things, the farthest first, is seen there; -1 where none is."""
    posed = pose(things, camera)
    keep = _in_picture(posed, camera)
    owner = np.append(posed.owner[keep], -1).astype(np.int32)  # -1 asks for the last
    return owner[paint(posed.points[:, :, keep], width=camera.width, height=camera.height)]


def bearing(thing: Thing, camera: Camera) -> float:
    """Where the thing is from the camera, radians clockwise from the street's direction."""
    return math.atan2(thing.x - camera.x, thing.z - camera.z)


def shape_of(thing: Thing, camera: Camera) -> Shape:
    """The thing's polygons at this moment of its walk, as seen from the camera's side."""
    form = FORMS[thing.kind]
    metres_a_pixel = math.hypot(thing.x - camera.x, thing.z - camera.z) / camera.focal
    level = min(max(int(math.log2(max(metres_a_pixel, 1e-3) / FINEST_M)), 0), COARSEST)
    n_phases, n_views = form.seen_from(level)
    turn = (bearing(thing, camera) - thing.heading) / (2 * math.pi)
    moment = int(thing.cycles % 1 * n_phases) / n_phases
    return shape(thing.kind, thing.look, moment, round(turn * n_views) % n_views / n_views, level)


def _shadows(posed: Posed, camera: Camera) -> Float32[np.ndarray, "2 V P"]:
    angle = np.arange(N_CORNERS) * 2 * np.pi / N_CORNERS
    half = np.array([s.shadow for s in posed.shapes], np.float32).T
    x, z = np.cos(angle)[:, None] * half[0], np.sin(angle)[:, None] * half[1]
    return _project(_to_camera(np.stack([x, np.zeros_like(x), z]), posed.poses, camera), camera)


def pose(things: Sequence[Thing], camera: Camera) -> Posed:
    """Put the things, at least one, before the camera."""
    shapes = [shape_of(thing, camera) for thing in things]
    angles = [bearing(t, camera) if s.flat else t.heading for t, s in zip(things, shapes, strict=True)]
    poses = np.array([(t.x - camera.x, t.z - camera.z, a) for t, a in zip(things, angles, strict=True)], np.float32).T
    owner = np.repeat(np.arange(len(shapes)), [len(s.colours) for s in shapes])
    solid = np.concatenate([s.solid for s in shapes])
    corners = np.concatenate([s.corners.T for s in shapes], axis=1).reshape(3, N_CORNERS, -1)
    in_view = _to_camera(corners, poses[:, owner], camera)
    x, y = points = _project(in_view, camera)
    area = (x * np.roll(y, -1, axis=0) - np.roll(x, -1, axis=0) * y).sum(axis=0)
    is_shown = (in_view[2].max(axis=0) > _CLAMP_M) & ~(solid & (area > 0))
    return Posed(
        shapes, poses, owner, solid, in_view, points, low=points.min(axis=1), high=points.max(axis=1), is_shown=is_shown
    )


def _in_picture(posed: Posed, camera: Camera) -> np.ndarray:
    """Which polygons can be seen, if nothing is before them."""
    low, high = posed.low, posed.high
    inside = (low[0] < camera.width) & (high[0] > 0) & (low[1] < camera.height) & (high[1] > 0)
    return np.flatnonzero(inside & posed.is_shown)


def _polygons(things: Sequence[Thing], posed: Posed, light: Light, camera: Camera) -> _Polygons:
    shapes, owner, solid = posed.shapes, posed.owner, posed.solid
    low, high, keep = posed.low, posed.high, _in_picture(posed, camera)

    normals, inverse_depth = _planes(posed.in_view[:, :, keep], camera)
    from_sun = light.bearing - camera.yaw
    sun = np.array([0.7 * np.sin(from_sun), -0.7, 0.7 * np.cos(from_sun)], np.float32)
    lit = np.where(solid[keep], np.float32(0.85) + np.float32(0.3) * (sun @ normals), np.float32(1))  # flat: no side
    scale = (TEXTURES.shape[1] - 0.01) / np.maximum(high - low, np.float32(1e-3))
    return _Polygons(
        posed.points[:, :, keep], np.concatenate([s.colours for s in shapes])[keep].T * lit,
        textures=np.concatenate([s.textures for s in shapes])[keep],
        classes=np.array([_CLASS[t.kind] for t in things], np.uint8)[owner[keep]],
        instances=np.array([t.instance for t in things], np.int32)[owner[keep]],
        inverse_depth=inverse_depth,
        boxes=np.concatenate([low, scale])[:, keep],
    )  # fmt: skip


def _to_camera(corners: np.ndarray, poses: np.ndarray, camera: Camera) -> Float32[np.ndarray, "3 V P"]:
    """Corners of shapes, posed at (x and z from the camera, angle), in metres to the camera's right, down and ahead."""
    (x, y, z), (dx, dz, angle) = corners, poses
    sin, cos = np.float32(math.sin(camera.yaw)), np.float32(math.cos(camera.yaw))
    turn_sin, turn_cos = np.sin(angle - np.float32(camera.yaw)), np.cos(angle - np.float32(camera.yaw))
    placed = np.empty((3, *x.shape), np.float32)
    placed[0] = x * turn_cos + z * turn_sin + (dx * cos - dz * sin)
    placed[1] = np.float32(camera.y) - y
    placed[2] = z * turn_cos - x * turn_sin + (dx * sin + dz * cos)
    return placed


def _project(in_view: np.ndarray, camera: Camera) -> Float32[np.ndarray, "2 V P"]:
    """Pixels of corners that `_to_camera` gives."""
    scale = np.float32(camera.focal) / np.maximum(in_view[2], np.float32(_CLAMP_M))
    centre = np.array([camera.width / 2, camera.horizon], np.float32)[:, None, None]
    return np.clip(in_view[:2] * scale + centre, -1e4, 1e4)


def _planes(corners: np.ndarray, camera: Camera) -> tuple[Float32[np.ndarray, "3 P"], Float32[np.ndarray, "3 P"]]:
    """The polygons' normals towards the camera, and 1/depth as a function of the pixel, which is exact on a plane."""
    following = np.roll(corners, -1, axis=1)
    difference, total = corners - following, corners + following
    # Newell's normal: right for any number of corners, repeated ones included.
    normals = np.stack([(difference[(axis + 1) % 3] * total[(axis + 2) % 3]).sum(axis=0) for axis in range(3)])
    normals /= np.maximum(np.sqrt((normals**2).sum(axis=0)), np.float32(1e-9))
    offset = (normals * corners.mean(axis=1)).sum(axis=0)
    normals = np.where(offset > 0, -normals, normals)
    a, b, c = normals / np.minimum(-np.abs(offset), np.float32(-1e-4))
    a, b = a / np.float32(camera.focal), b / np.float32(camera.focal)
    return normals, np.stack([a, b, c - a * np.float32(camera.width / 2) - b * np.float32(camera.horizon)])


def _paint(shadows: np.ndarray, polygons: _Polygons, layers: Layers, camera: Camera) -> None:
    both = np.concatenate([shadows, polygons.points], axis=2)
    nearest = paint(both, width=camera.width, height=camera.height) - np.int32(shadows.shape[2])
    shade = (nearest < 0) & (nearest >= -shadows.shape[2])
    shade &= (layers.classes == ROAD) | (layers.classes == PAVEMENT)
    for plane in layers.colour:
        np.multiply(plane, np.float32(0.55), out=plane, where=shade)
    pixel = np.flatnonzero(nearest >= 0)
    polygon = nearest.ravel()[pixel].astype(np.intp)  # what take is fastest with
    row = np.repeat(np.arange(camera.height, dtype=np.float32), np.count_nonzero(nearest >= 0, axis=1))
    down = row + np.float32(0.5)
    across = (pixel - row.astype(np.intp) * camera.width).astype(np.float32) + np.float32(0.5)
    layers.classes.ravel()[pixel] = polygons.classes.take(polygon, mode="clip")
    layers.instances.ravel()[pixel] = polygons.instances.take(polygon, mode="clip")
    a, b, c = (plane.take(polygon, mode="clip") for plane in polygons.inverse_depth)
    layers.depth.ravel()[pixel] = 1 / np.maximum(a * across + b * down + c, np.float32(1 / FAR_M))
    left, top, per_x, per_y = (plane.take(polygon, mode="clip") for plane in polygons.boxes)
    size = TEXTURES.shape[1]
    texel_x, texel_y = ((across - left) * per_x).astype(np.int32), ((down - top) * per_y).astype(np.int32)
    texel = (polygons.textures.take(polygon, mode="clip") * np.int32(size) + texel_y) * np.int32(size) + texel_x
    shade = TEXTURES.ravel().take(texel, mode="clip")
    for plane, colour in zip(layers.colour, polygons.colours, strict=True):
        plane.ravel()[pixel] = colour.take(polygon, mode="clip") * shade
