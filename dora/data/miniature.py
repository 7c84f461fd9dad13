"""A miniature walking tour: a street walked in the first person, rendered with its ground truth.

Everything is a pure function of the world and the time: things live in slots along the street, what stands (or walks,
or drives) in a slot is drawn from the seed, so any moment can be rendered without the ones before.
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Float32, Int32, UInt8
from pydantic import Field

from dora.config import Frozen, MiniatureVideo
from dora.data.miniature_shapes import N_CORNERS, N_PHASES, N_VIEWS, Shape, shape
from dora.data.miniature_street import CROSSING_EVERY_M, FAR_M, Camera, Light, scenery
from dora.data.miniature_textures import TEXTURES
from dora.data.polygons import paint
from dora.progress import Progress, silent

CLASSES: tuple[str, ...] = (
    "background", "sky", "road", "pavement", "building", "tree", "person", "car", "bus", "bicycle", "dog",
    "lamp", "sign", "bench", "bin",
)  # fmt: skip
_CLASS_OF = {name: index for index, name in enumerate(CLASSES)} | {"rider": CLASSES.index("person")}
_NEAR_M, _HORIZON_M = 0.7, 90.0  # things are drawn between these distances
_WALK_M_S = 1.3


class World(Frozen):
    """One street, and the size of the pictures of it."""

    seed: int = Field(ge=0)
    width: int = Field(320, ge=16)
    height: int = Field(180, ge=16)


class Frame(NamedTuple):
    """A picture and what is in it."""

    image: UInt8[np.ndarray, "Y X 3"]
    classes: UInt8[np.ndarray, "Y X"]  # index in CLASSES
    instances: Int32[np.ndarray, "Y X"]  # 0: scenery; else a thing's identity, the same at all times
    depth: Float32[np.ndarray, "Y X"]  # metres along the line of sight's axis


class _Stream(NamedTuple):
    """Slots along the street, `spacing` metres apart, that move together."""

    kinds: tuple[str, ...]
    spacing: float
    x: tuple[float, float]  # metres to the right of the middle of the road
    speed: float = 0.0  # metres a second along the street
    presence: float = 0.7  # share of the slots in use
    jitter: float = 0.35  # of the spacing
    heading: float = 0.0  # radians; 0 looks along the street


_STREAMS = (
    _Stream(("tree",), 9, (5.5, 5.8), presence=0.75),
    _Stream(("tree",), 9, (-5.8, -5.5), presence=0.75),
    _Stream(("lamp", "sign", "sign", "lamp"), 8, (5.25, 5.4), presence=0.8),
    _Stream(("lamp", "sign", "sign", "lamp"), 8, (-5.4, -5.25), presence=0.8),
    _Stream(("bench", "bin", "bicycle", "bicycle"), 7, (8.3, 8.6), presence=0.7),
    _Stream(("bench", "bin", "bicycle", "bicycle"), 7, (-8.6, -8.3), presence=0.7, heading=np.pi),
    _Stream(("car",), 6.5, (3.9, 4.1), presence=0.7, jitter=0.1),
    _Stream(("car",), 6.5, (-4.1, -3.9), presence=0.7, jitter=0.1, heading=np.pi),
    _Stream(("car", "car", "car", "bus"), 24, (1.5, 1.7), speed=7.0, jitter=0.2),
    _Stream(("car", "car", "car", "bus"), 24, (-1.7, -1.5), speed=-6.0, jitter=0.2, heading=np.pi),
    _Stream(("rider",), 40, (2.9, 3.0), speed=4.0),
    _Stream(("rider",), 40, (-3.0, -2.9), speed=-3.5, heading=np.pi),
    _Stream(("person",), 6, (5.9, 6.9), speed=-1.1, presence=0.5, heading=np.pi),
    _Stream(("person",), 7, (6.6, 8.0), speed=0.9, presence=0.6),
    _Stream(("person",), 13, (5.8, 7.5), speed=1.8, presence=0.5),
    _Stream(("person",), 5, (-8.0, -5.9), speed=1.2, presence=0.6),
    _Stream(("person",), 6, (-8.0, -5.9), speed=-1.2, presence=0.6, heading=np.pi),
    _Stream(("dog",), 17, (6.0, 7.6), speed=1.0, presence=0.6),
    _Stream(("dog",), 19, (-7.6, -6.0), speed=-1.1, presence=0.6, heading=np.pi),
    _Stream(("person", "person", "dog"), CROSSING_EVERY_M / 4, (-8.0, 8.0), presence=0.8),  # cross the road
)
_CROSSING = len(_STREAMS) - 1


class _Resident(NamedTuple):
    """Who is in a slot, whenever one looks."""

    kind: str
    stream: int
    slot: int
    x: float
    offset: float  # metres from the slot's middle
    look: int
    phase: float  # 0 … 1


class _Thing(NamedTuple):
    """A resident at one moment."""

    kind: str
    instance: int
    look: int
    x: float
    z: float
    heading: float
    stride: float  # steps so far, two a cycle


def render(world: World, time_s: float) -> Frame:
    """Render the picture that the walker sees `time_s` seconds into the tour, with exact ground truth."""
    camera, light = _camera(world, time_s), _light(world.seed, time_s)
    scene = scenery(world.seed, camera, light, time_s)
    things = sorted(_things(world.seed, camera, time_s), key=lambda t: -np.hypot(t.x - camera.x, t.z - camera.z))
    polygons = _polygons(things, camera)

    shadow = paint(polygons.shadows, width=world.width, height=world.height) >= 0
    ground = shadow & ((scene.classes == 2) | (scene.classes == 3))
    colour = scene.colour
    colour[ground] *= np.float32(0.55)
    classes, depth = scene.classes, scene.depth
    instances = np.zeros(classes.shape, np.int32)

    nearest = paint(polygons.points, width=world.width, height=world.height)
    row, column = np.nonzero(nearest >= 0)
    polygon = nearest[row, column]
    across, down = column + np.float32(0.5), row + np.float32(0.5)
    classes[row, column] = polygons.classes[polygon]
    instances[row, column] = polygons.instances[polygon]
    a, b, c = polygons.inverse_depth[polygon].T
    depth[row, column] = np.clip(1 / np.maximum(a * across + b * down + c, 1 / FAR_M), _NEAR_M / 4, FAR_M)
    x0, y0, per_x, per_y = polygons.boxes[polygon].T
    texel_x = np.clip((across - x0) * per_x, 0, TEXTURES.shape[2] - 1).astype(np.int32)
    texel_y = np.clip((down - y0) * per_y, 0, TEXTURES.shape[1] - 1).astype(np.int32)
    shade = TEXTURES[polygons.textures[polygon], texel_y, texel_x]
    shade *= polygons.shade(light, camera)[polygon]
    colour[row, column] = polygons.colours[polygon] * shade[:, None]
    return Frame(_develop(world.seed, colour, classes, depth, light), classes, instances, depth)


def _develop(seed: int, colour: np.ndarray, classes: np.ndarray, depth: np.ndarray, light: Light) -> np.ndarray:
    """Light and haze: what is far fades into the horizon's colour."""
    is_sky = classes == 1
    haze = (1 - np.exp(-depth / np.float32(110))) * np.float32(0.9)
    lit = colour * light.sun.astype(np.float32)
    lit += (light.horizon.astype(np.float32) - lit) * haze[..., None]
    lit[is_sky] = colour[is_sky]
    np.clip(lit, 0, 1, out=lit)
    return (lit * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _camera(world: World, time_s: float) -> Camera:
    rng = np.random.default_rng((world.seed, 7))
    phase, start = rng.uniform(0, 2 * np.pi, 6), rng.uniform(0, 1e4)
    step = 2 * np.pi * 1.8 * time_s
    return Camera(
        x=6.3 + 0.8 * np.sin(time_s / 11 + phase[0]) + 0.3 * np.sin(time_s / 3.7 + phase[1]) + 0.015 * np.sin(step / 2),
        y=1.65 + 0.025 * np.sin(step),
        z=start + _WALK_M_S * (time_s + 0.5 * np.sin(time_s / 9 + phase[2])),
        yaw=-0.12 + 0.22 * np.sin(time_s / 7.3 + phase[3]) + 0.08 * np.sin(time_s / 2.9 + phase[4]),
        focal=0.72 * world.width,
        horizon=world.height * (0.47 + 0.025 * np.sin(time_s / 4.1 + phase[5]) + 0.004 * np.sin(step)),
        width=world.width,
        height=world.height,
    )


def _light(seed: int, time_s: float) -> Light:
    phase = np.random.default_rng((seed, 8)).uniform(0, 2 * np.pi, 4)
    evening = 0.5 + 0.5 * np.sin(time_s / 97 + phase[0])
    clouds = 0.5 + 0.5 * np.sin(time_s / 61 + phase[1])
    exposure = 1.0 + 0.12 * np.sin(time_s / 13 + phase[2])
    day, dusk = np.array([1.12, 1.1, 1.06]), np.array([1.0, 0.8, 0.62])
    sun = (day * (1 - evening) + dusk * evening) * (1 - 0.22 * clouds) * exposure
    zenith = np.array([0.3, 0.5, 0.85]) * (1 - evening) + np.array([0.32, 0.36, 0.6]) * evening
    horizon = np.array([0.75, 0.84, 0.95]) * (1 - evening) + np.array([0.96, 0.75, 0.55]) * evening
    grey = np.array([0.62, 0.64, 0.68])
    return Light(sun, zenith + (grey - zenith) * clouds * 0.7, horizon + (grey * 1.2 - horizon) * clouds * 0.5,
                 clouds, float(phase[3]) + time_s / 600)  # fmt: skip


@lru_cache(maxsize=8192)
def _resident(seed: int, stream: int, slot: int) -> _Resident | None:
    spec = _STREAMS[stream]
    rng = np.random.default_rng((seed, 200 + stream, slot % (1 << 31)))
    if rng.random() > spec.presence:
        return None
    kind = spec.kinds[int(rng.integers(len(spec.kinds)))]
    offset = float(rng.uniform(-spec.jitter, spec.jitter)) * spec.spacing
    along = (slot * spec.spacing + offset) % CROSSING_EVERY_M - CROSSING_EVERY_M / 2
    if spec.speed == 0 and stream != _CROSSING and abs(along) < 4.5:
        return None  # keep the zebra crossing free
    if stream == _CROSSING:
        if slot % 4 != 2:
            return None
        offset = float(rng.uniform(-1.2, 1.2))
    return _Resident(
        kind, stream, slot, float(rng.uniform(*spec.x)), offset, int(rng.integers(1 << 31)), float(rng.random())
    )


def _things(seed: int, camera: Camera, time_s: float) -> Iterator[_Thing]:
    """All things in front of the camera."""
    for stream, spec in enumerate(_STREAMS):
        moved = spec.speed * time_s
        first = int((camera.z - 12 - moved) // spec.spacing)
        last = int((camera.z + _HORIZON_M - moved) // spec.spacing)
        for slot in range(first, last + 1):
            resident = _resident(seed, stream, slot)
            if resident is not None:
                yield from _at(resident, spec, moved, time_s)


def _at(who: _Resident, spec: _Stream, moved: float, time_s: float) -> Iterator[_Thing]:
    z = who.slot * spec.spacing + who.offset + moved
    x, heading, stride = who.x, spec.heading, 0.0
    instance = 1 + 2 * (who.stream + len(_STREAMS) * (2 * who.slot if who.slot >= 0 else -2 * who.slot - 1))
    if who.stream == _CROSSING:
        cycle = (time_s / 26 + who.phase) % 1
        x, heading = (-7 + 28 * cycle, np.pi / 2) if cycle < 0.5 else (7 - 28 * (cycle - 0.5), -np.pi / 2)
        stride = time_s * 0.9 + who.phase
    elif who.kind in ("person", "dog"):
        sway = 2 * np.pi * (time_s / 14 + who.phase)
        x, z = x + 0.25 * np.sin(sway), z + 0.4 * np.cos(sway)
        stride = time_s * (0.55 + 0.3 * abs(spec.speed)) + who.phase
    elif spec.speed == 0:
        heading += (who.phase - 0.5) * (1.2 if who.kind == "bicycle" else 0.06)
    if who.kind == "rider":
        yield _Thing("bicycle", instance + 1, who.look, x, z, heading, 0.0)
    yield _Thing(who.kind, instance, who.look, x, z, heading, stride)


class _Polygons(NamedTuple):
    points: np.ndarray  # (P, N_CORNERS, 2) pixels
    shadows: np.ndarray  # (S, N_CORNERS, 2) pixels
    colours: np.ndarray  # (P, 3)
    textures: np.ndarray  # (P)
    classes: np.ndarray  # (P) uint8
    instances: np.ndarray  # (P) int32
    inverse_depth: np.ndarray  # (P, 3): 1/depth = a x + b y + c, for x, y in pixels
    boxes: np.ndarray  # (P, 4): left, top in pixels; texels a pixel across and down
    normals: np.ndarray  # (P, 3) of unit length in the camera's axes (right, down, ahead), towards the camera
    solid: np.ndarray  # (P) bool

    def shade(self, light: Light, camera: Camera) -> np.ndarray:
        """How bright the sun makes each polygon; flat ones have no side."""
        bearing = light.bearing - camera.yaw
        sun = np.array([0.7 * np.sin(bearing), -0.7, 0.7 * np.cos(bearing)])
        return np.where(self.solid, 0.85 + 0.3 * (self.normals @ sun), 1.0).astype(np.float32)


def _polygons(things: list[_Thing], camera: Camera) -> _Polygons:
    """Bring all things into the picture: their polygons, the farthest first."""
    shapes: list[Shape] = []
    poses: list[tuple[float, float, float]] = []
    seen: list[_Thing] = []
    for thing in things:
        dx, dz = thing.x - camera.x, thing.z - camera.z
        ahead = dx * np.sin(camera.yaw) + dz * np.cos(camera.yaw)
        beside = dx * np.cos(camera.yaw) - dz * np.sin(camera.yaw)
        margin = 6.0 if thing.kind == "bus" else 2.5
        if (
            ahead < (_NEAR_M if margin < 6 and thing.kind != "car" else -4)
            or abs(beside) > 0.75 * max(ahead, 0) + margin
        ):
            continue
        bearing = float(np.arctan2(dx, dz))
        moves = thing.kind in ("person", "rider", "dog")
        phase = int(thing.stride % 1 * N_PHASES) if moves else 0
        view = round((bearing - thing.heading) / (2 * np.pi) * N_VIEWS) % N_VIEWS if moves else 0
        found = shape(thing.kind, thing.look, phase, view)
        seen.append(thing)
        shapes.append(found)
        poses.append((thing.x, thing.z, bearing if found.flat else thing.heading))

    counts = np.array([len(s.colours) for s in shapes], np.int32)
    owner = np.repeat(np.arange(len(shapes)), counts)
    pose = np.array(poses, np.float32).reshape(-1, 3)
    corners = np.concatenate([s.corners for s in shapes] or [np.zeros((0, N_CORNERS, 3), np.float32)])
    in_view = _to_camera(corners, pose[owner], camera)
    points = _project(in_view, camera)
    solid = np.concatenate([s.solid for s in shapes] or [np.zeros(0, bool)])
    x, y = points[..., 0], points[..., 1]
    area = (x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(1)
    keep = (in_view[..., 2].max(1) > 0.3) & ~(solid & (area > 0)) & (x.max(1) > 0) & (x.min(1) < camera.width)

    angle = np.arange(N_CORNERS) * 2 * np.pi / N_CORNERS
    ring = np.stack([np.cos(angle), np.zeros(N_CORNERS), np.sin(angle)], 1).astype(np.float32) * np.float32(1.15)
    half = np.array([(s.shadow[0], 0, s.shadow[1]) for s in shapes], np.float32).reshape(-1, 1, 3)
    shadows = _project(_to_camera(ring * half, pose, camera), camera)

    in_view, points, owner, solid = in_view[keep], points[keep], owner[keep], solid[keep]
    normals = np.cross(in_view, np.roll(in_view, -1, 1)).sum(1)  # Newell's: right for any number of corners
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    offset = (normals * in_view.mean(1)).sum(1)
    normals = np.where(offset[:, None] > 0, -normals, normals)
    offset = np.minimum(-np.abs(offset), -1e-6)[:, None]
    a, b = normals[:, :1] / offset / camera.focal, normals[:, 1:2] / offset / camera.focal
    c = normals[:, 2:] / offset - a * camera.width / 2 - b * camera.horizon
    low, high = points.min(1), points.max(1)
    scale = TEXTURES.shape[1] / np.maximum(high - low, 1e-3)
    return _Polygons(
        points, shadows,
        colours=np.concatenate([s.colours for s in shapes] or [np.zeros((0, 3), np.float32)])[keep],
        textures=np.concatenate([s.textures for s in shapes] or [np.zeros(0, np.int32)])[keep],
        classes=np.array([_CLASS_OF[t.kind] for t in seen], np.uint8)[owner],
        instances=np.array([t.instance for t in seen], np.int32)[owner],
        inverse_depth=np.concatenate([a, b, c], 1).astype(np.float32),
        boxes=np.concatenate([low, scale], 1).astype(np.float32),
        normals=normals, solid=solid,
    )  # fmt: skip


def _to_camera(corners: np.ndarray, pose: np.ndarray, camera: Camera) -> np.ndarray:
    """Corners (P, V, 3) of shapes at poses (x, z, angle) in the camera's axes: right, down, ahead."""
    turn = pose[:, 2, None] - camera.yaw
    dx, dz = pose[:, 0, None] - camera.x, pose[:, 1, None] - camera.z
    right = dx * np.cos(camera.yaw) - dz * np.sin(camera.yaw)
    ahead = dx * np.sin(camera.yaw) + dz * np.cos(camera.yaw)
    x, y, z = np.moveaxis(corners, -1, 0)
    sin, cos = np.sin(turn), np.cos(turn)
    return np.stack([right + x * cos + z * sin, camera.y - y, ahead - x * sin + z * cos], -1)


def _project(in_view: np.ndarray, camera: Camera) -> np.ndarray:
    scale = camera.focal / np.maximum(in_view[..., 2], 0.25)  # what is beside or behind us lands outside the picture
    points = in_view[..., :2] * scale[..., None] + np.array([camera.width / 2, camera.horizon])
    return np.clip(points, -1e4, 1e4)


def write_video(config: MiniatureVideo, path: Path, progress: Progress = silent) -> None:
    """Write the rendered walk as an H.264 mp4; the same config and libraries give the same bytes."""
    world = World(seed=config.seed, width=config.width, height=config.height)
    n_frames = max(1, round(config.duration_s * config.fps))
    unfinished = path.with_name(f".{path.name}")
    with av.open(str(unfinished), "w", format="mp4") as container:
        # One thread: x264 may place its slices and key frames differently with another number of them.
        options = {"crf": "20", "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264", rate=Fraction(config.fps).limit_denominator(1001), options=options)
        stream.width, stream.height, stream.pix_fmt = config.width, config.height, "yuv420p"
        for index in range(n_frames):
            picture = av.VideoFrame.from_ndarray(render(world, index / config.fps).image, format="rgb24")
            container.mux(stream.encode(picture))
            progress(index + 1, n_frames, "frames")
        container.mux(stream.encode(None))
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.rename(path)
