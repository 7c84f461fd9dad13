"""A miniature walking tour: a street walked in the first person, rendered with exact ground truth.

The page to read; the parts are in dora/data/street. A picture is a pure function of the world and the time: any
moment can be rendered without the ones before.
"""

from fractions import Fraction
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

__all__ = ["CLASSES", "FOCAL_PER_WIDTH", "Frame", "World", "annotations", "render", "write_video"]

FOCAL_PER_WIDTH = 0.72
_WALK_M_S = 1.3
_STEPS_PER_S = 1.8


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
    camera, light = _camera(world, time_s), _light(world.seed, time_s)
    layers = scenery(world.seed, camera, light, time_s)
    paint_things(things(world.seed, camera, time_s), layers, light, camera)
    return Frame(_develop(layers, light), layers.classes, layers.instances, layers.depth)


def annotations(world: World, time_s: float, frame: Frame) -> tuple[Annotation, ...]:
    """Every thing of which something is seen in a rendered frame, the largest first: its box, and what of it is hidden.

    Several times slower than rendering, so the labelled sets ask for it and the video does not.
    """
    camera = _camera(world, time_s)
    return annotate(
        things(world.seed, camera, time_s), camera,
        classes=frame.classes, instances=frame.instances, depth=frame.depth,
    )  # fmt: skip


def write_video(config: MiniatureVideo, path: Path, progress: Progress = silent) -> None:
    """Write the rendered walk as an H.264 mp4; the same config and libraries give the same bytes."""
    world = World(seed=config.seed, width=config.width, height=config.height)
    n_frames = max(1, round(config.duration_s * config.fps))
    with whole_file(path) as file, av.open(file, "w", format="mp4") as container:
        # One thread: with several, x264 decides otherwise where key frames and bits go.
        options = {"crf": "20", "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264", rate=Fraction(config.fps).limit_denominator(1001), options=options)
        stream.width, stream.height, stream.pix_fmt = config.width, config.height, "yuv420p"
        for index in range(n_frames):
            picture = av.VideoFrame.from_ndarray(render(world, index / config.fps).image, format="rgb24")
            container.mux(stream.encode(picture))
            progress(index + 1, n_frames, "frames")
        container.mux(stream.encode(None))


def _camera(world: World, time_s: float) -> Camera:
    """A walker on the right pavement who sways, bobs with each step, looks around and changes pace."""
    rng = np.random.default_rng((world.seed, 7))
    phase, start = rng.uniform(0, 2 * np.pi, 6), rng.uniform(0, 1e4)
    step = 2 * np.pi * _STEPS_PER_S * time_s
    return Camera(
        x=float(
            6.7
            + 0.45 * np.sin(time_s / 11 + phase[0])
            + 0.15 * np.sin(time_s / 3.7 + phase[1])
            + 0.015 * np.sin(step / 2)
        ),
        y=float(1.65 + 0.025 * np.sin(step)),
        z=float(start + _WALK_M_S * (time_s + 3 * np.sin(time_s / 9 + phase[2]))),
        yaw=float(-0.12 + 0.22 * np.sin(time_s / 7.3 + phase[3]) + 0.08 * np.sin(time_s / 2.9 + phase[4])),
        focal=FOCAL_PER_WIDTH * world.width,
        horizon=float(world.height * (0.47 + 0.025 * np.sin(time_s / 4.1 + phase[5]) + 0.004 * np.sin(step))),
        width=world.width,
        height=world.height,
    )


def _light(seed: int, time_s: float) -> Light:
    """Daylight that drifts over minutes between noon and evening, clear and overcast; exposure drifts faster."""
    phase = np.random.default_rng((seed, 8)).uniform(0, 2 * np.pi, 4)
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


def _develop(layers: Layers, light: Light) -> UInt8[np.ndarray, "Y X 3"]:
    """Light and haze: what is far fades into the horizon's colour."""
    is_sky = layers.classes == SKY
    clear = np.float32(0.1) + np.float32(0.9) * np.exp(layers.depth * np.float32(-1 / 110))
    image = np.empty((*layers.depth.shape, 3), np.uint8)
    for index, (plane, sun, horizon) in enumerate(zip(layers.colour, light.sun, light.horizon, strict=True)):
        lit = (plane * sun - horizon) * clear + horizon
        np.copyto(lit, plane, where=is_sky)
        image[..., index] = np.clip(lit * np.float32(255) + np.float32(0.5), 0, 255)
    return image
