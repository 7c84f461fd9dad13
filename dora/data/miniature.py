"""A miniature walking tour: a street walked in the first person, rendered with exact ground truth.

The page to read; the parts are in dora/data/street. A picture is a pure function of the world and the time: any
moment can be rendered without the ones before.
"""

from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Float32, Int32, UInt8
from pydantic import Field

from dora.config import Frozen, MiniatureVideo
from dora.data.disk import whole_file
from dora.data.street.layout import CLASSES, SKY, Camera, Layers, Light
from dora.data.street.residents import things
from dora.data.street.scenery import scenery
from dora.data.street.things import paint_things
from dora.data.street.truth import Annotation, annotate
from dora.progress import Progress, silent

__all__ = [
    "CLASSES",
    "FOCAL_PER_WIDTH",
    "Frame",
    "World",
    "annotations",
    "photograph",
    "render",
    "walker",
    "write_video",
]

FOCAL_PER_WIDTH = 0.72
_WALK_M_S = 1.3
_STEPS_PER_S = 1.8
_GLANCE_S = 8.0
_EXPOSURE_S = 1 / 90
_GRAIN_MARGIN = 64


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
    depth: Float32[np.ndarray, "Y X"]  # metres ahead of the camera; 400 is the sky


def render(world: World, time_s: float) -> Frame:
    """What the walker sees `time_s` seconds into the tour."""
    return photograph(world.seed, walker(world, time_s), time_s)


def photograph(seed: int, camera: Camera, time_s: float) -> Frame:
    """What a camera anywhere in the street sees; it may look ahead and to the sides, not back."""
    light = _light(seed, time_s)
    layers = scenery(seed, camera, light, time_s)
    paint_things(things(seed, camera, time_s), layers, light, camera)
    image = _develop(layers, light, _lens(seed, camera, time_s), _grain(seed, camera, time_s))
    return Frame(image, layers.classes, layers.instances, layers.depth)


def annotations(seed: int, camera: Camera, time_s: float, frame: Frame) -> tuple[Annotation, ...]:
    """Every thing of which something is seen in a photograph, the largest first: its box, and what of it is hidden.

    This takes longer than the photograph, so the labelled sets ask for it and the video does not.
    """
    return annotate(
        things(seed, camera, time_s), camera, classes=frame.classes, instances=frame.instances, depth=frame.depth
    )


def write_video(config: MiniatureVideo, path: Path, progress: Progress = silent) -> None:
    """Write the rendered walk as an H.264 mp4; the same config and libraries give the same bytes."""
    world = World(seed=config.seed, width=config.width, height=config.height)
    n_frames = max(1, round(config.duration_s * config.fps))
    with whole_file(path) as file, av.open(file, "w", format="mp4") as container:
        # One thread and no mbtree: with either, x264 decides from run to run otherwise where bits go.
        options = {"crf": "20", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(config.fps).limit_denominator(1001), options=options)
        stream.width, stream.height, stream.pix_fmt = config.width, config.height, "yuv420p"
        for index in range(n_frames):
            picture = av.VideoFrame.from_ndarray(render(world, index / config.fps).image, format="rgb24")
            container.mux(stream.encode(picture))
            progress(index + 1, n_frames, "frames")
        container.mux(stream.encode(None))


def walker(world: World, time_s: float) -> Camera:
    """A walker on the right pavement who sways, bobs with each step, looks around and changes pace."""
    yaw, down = _gaze(world.seed, time_s)
    rng = np.random.default_rng((world.seed, 7))
    phase, start = rng.uniform(0, 2 * np.pi, 6), rng.uniform(0, 1e4)
    step = 2 * np.pi * _STEPS_PER_S * time_s
    return Camera(
        x=float(
            6.85
            + 0.3 * np.sin(time_s / 11 + phase[0])
            + 0.12 * np.sin(time_s / 3.7 + phase[1])
            + 0.015 * np.sin(step / 2)
        ),
        y=float(1.65 + 0.025 * np.sin(step)),
        z=float(start + _WALK_M_S * (time_s + 3 * np.sin(time_s / 9 + phase[2]))),
        yaw=yaw,
        focal=FOCAL_PER_WIDTH * world.width,
        horizon=float(world.height * (0.46 - down + 0.02 * np.sin(time_s / 4.1 + phase[5]) + 0.004 * np.sin(step))),
        width=world.width,
        height=world.height,
        turning=(_gaze(world.seed, time_s + 0.01)[0] - _gaze(world.seed, time_s - 0.01)[0]) / 0.02,
    )


def _gaze(seed: int, time_s: float) -> tuple[float, float]:
    """Where the walker looks: radians to the right, and down as a share of the picture.

    The head turns slowly, and in most stretches of _GLANCE_S seconds it turns once to a shop front or over the street,
    or down at what is at its feet, stays for a moment and comes back.
    """
    phase = _phases(seed, 7)
    yaw = -0.1 + 0.15 * np.sin(time_s / 7.3 + phase[3]) + 0.05 * np.sin(time_s / 2.9 + phase[4])
    stretch, into = divmod(time_s, _GLANCE_S)
    glance = _glance(seed, int(stretch))
    turned = _eased((into - glance.start_s) / 1.2) - _eased((into - glance.stop_s + 1.3) / 1.3)
    return float(yaw + glance.aside * turned), glance.down * turned


class _Glance(NamedTuple):
    """One turn of the head, in one stretch of _GLANCE_S seconds."""

    aside: float  # radians
    down: float  # share of the picture
    start_s: float
    stop_s: float


@lru_cache(maxsize=64)
def _glance(seed: int, stretch: int) -> _Glance:
    rng = np.random.default_rng((seed, 9, stretch % (1 << 31)))
    aside = float(rng.choice([0.0, 0.0, 0.3, 0.5, -0.4, -0.6]) * rng.uniform(0.8, 1.15))
    down = float(rng.choice([0.03, 0.1, 0.18]))
    return _Glance(aside, down, float(rng.uniform(0.2, 1.5)), float(rng.uniform(5.0, _GLANCE_S - 0.2)))


@lru_cache(maxsize=64)
def _phases(seed: int, of: int) -> tuple[float, ...]:
    """Six angles that set a seed's slow oscillations apart from another's."""
    return tuple(np.random.default_rng((seed, of)).uniform(0, 2 * np.pi, 6).tolist())


def _eased(share: float) -> float:
    """From 0 to 1, starting and ending at rest."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)


def _light(seed: int, time_s: float) -> Light:
    """Daylight that drifts over minutes between noon and evening, clear and overcast; exposure drifts faster."""
    phase = _phases(seed, 8)
    evening = 0.5 + 0.5 * np.sin(time_s / 97 + phase[0])
    clouds = 0.5 + 0.5 * np.sin(time_s / 61 + phase[1])
    exposure = 1 + 0.12 * np.sin(time_s / 13 + phase[2])

    # Rows: sun, zenith, horizon.
    noon = np.array([(1.12, 1.1, 1.06), (0.3, 0.5, 0.85), (0.75, 0.84, 0.95)])
    dusk = np.array([(1.0, 0.8, 0.62), (0.32, 0.36, 0.6), (0.96, 0.75, 0.55)])
    grey = np.array([0.66, 0.68, 0.72])
    colour = noon + (dusk - noon) * evening
    colour += (grey - colour) * clouds * np.array([[0.25], [0.7], [0.5]])
    colour[0] *= exposure * (1 - 0.1 * clouds)
    sun, zenith, horizon = colour.astype(np.float32)
    return Light(
        sun=sun,
        zenith=zenith,
        horizon=horizon,
        clouds=float(clouds),
        bearing=float(phase[3] + time_s / 600),
    )


def _lens(seed: int, camera: Camera, time_s: float) -> tuple[float, float]:
    """How far a point spreads in the picture, pixels to either side across and down.

    The lens's sharpness drifts; a head that turns smears the picture sideways.
    """
    soft = (0.2 + 0.14 * np.sin(time_s / 8.7 + _phases(seed, 10)[0])) * max(camera.width / 480, 0.5)
    return float(soft + abs(camera.turning) * _EXPOSURE_S * camera.focal / 2), float(soft)


def _grain(seed: int, camera: Camera, time_s: float) -> Float32[np.ndarray, "C Y X"]:
    """The sensor's noise at one moment, in steps of 255: a part of a larger pattern, chosen by the time."""
    rng = np.random.default_rng((seed, 11, round(time_s * 1000) % (1 << 31)))
    left, top = (int(offset) for offset in rng.integers(0, _GRAIN_MARGIN, 2))
    return _sensor(seed, camera.width, camera.height)[:, top : top + camera.height, left : left + camera.width]


@lru_cache(maxsize=4)
def _sensor(seed: int, width: int, height: int) -> Float32[np.ndarray, "C Y X"]:
    shape = (3, height + _GRAIN_MARGIN, width + _GRAIN_MARGIN)
    noise = np.random.default_rng((seed, 12)).standard_normal(shape, np.float32)
    return np.float32(1.7) * noise + np.float32(0.5)  # half a step, so that what follows rounds


def _develop(
    layers: Layers, light: Light, spread: tuple[float, float], grain: Float32[np.ndarray, "C Y X"]
) -> UInt8[np.ndarray, "Y X 3"]:
    """Light, haze (what is far fades into the horizon's colour), the lens's blur and the sensor's noise."""
    is_sky = layers.classes == SKY
    clear = np.float32(0.1) + np.float32(0.9) * np.exp(layers.depth * np.float32(-1 / 110))
    image = np.empty((*layers.depth.shape, 3), np.uint8)
    for index, (plane, sun, horizon) in enumerate(zip(layers.colour, light.sun, light.horizon, strict=True)):
        lit = (plane * sun - horizon) * clear + horizon
        np.copyto(lit, plane, where=is_sky)
        spread_out = _blurred(_blurred(lit, spread[0]).T, spread[1]).T
        spread_out *= np.float32(255)
        spread_out += grain[index]
        image[..., index] = np.clip(spread_out, 0, 255, out=spread_out)
    return image


def _blurred(plane: Float32[np.ndarray, "Y X"], radius: float) -> Float32[np.ndarray, "Y X"]:
    """The mean over 2 radius + 1 pixels across, a fraction of the outermost two; the edge pixels go on for ever."""
    share = plane * np.float32(1 / (2 * radius + 1))
    total = share.copy(order="K")
    for shift in range(1, int(np.ceil(radius)) + 1):
        part = share * np.float32(radius - shift + 1) if shift > radius else share
        total[:, shift:] += part[:, :-shift]
        total[:, :shift] += part[:, :1]
        total[:, :-shift] += part[:, shift:]
        total[:, -shift:] += part[:, -1:]
    return total
