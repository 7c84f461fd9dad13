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
from dora.data.street.daylight import daylight
from dora.data.street.film import develop
from dora.data.street.layout import CLASSES, Camera
from dora.data.street.residents import things
from dora.data.street.scenery import scenery
from dora.data.street.things import paint_things
from dora.data.street.truth import Annotation, annotate
from dora.data.street.walker import walker
from dora.progress import Progress, silent

__all__ = [
    "CLASSES", "VERSION", "Frame", "World", "annotations", "photograph", "render", "view", "world_of", "write_video",
]  # fmt: skip

VERSION = 2  # raised in the commit that changes a picture, its ground truth or the video's bytes


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


def world_of(video: MiniatureVideo) -> World:
    """The street that a video shows, at the video's size."""
    return World(seed=video.seed, width=video.width, height=video.height)


def render(world: World, time_s: float) -> Frame:
    """What the walker sees `time_s` seconds into the tour."""
    return photograph(world.seed, view(world, time_s), time_s)


def view(world: World, time_s: float) -> Camera:
    """The walker's eye, `time_s` seconds into the tour."""
    return walker(world.seed, time_s, width=world.width, height=world.height)


def photograph(seed: int, camera: Camera, time_s: float) -> Frame:
    """What a camera anywhere in the street sees; it may look ahead and to the sides, not back."""
    light = daylight(seed, time_s)
    layers = scenery(seed, camera, light, time_s)
    paint_things(things(seed, camera, time_s), layers, light, camera)
    return Frame(develop(layers, light, seed, camera, time_s), layers.classes, layers.instances, layers.depth)


def annotations(seed: int, camera: Camera, time_s: float, frame: Frame) -> tuple[Annotation, ...]:
    """Every thing of which something is seen in a photograph, the largest first: its box, and what of it is hidden.

    This takes longer than the photograph, so the labelled sets ask for it and the video does not.
    """
    return annotate(
        things(seed, camera, time_s), camera, classes=frame.classes, instances=frame.instances, depth=frame.depth
    )


def write_video(config: MiniatureVideo, path: Path, progress: Progress = silent) -> None:
    """Write the rendered walk as an H.264 mp4; the same config and libraries give the same bytes."""
    world = world_of(config)
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
