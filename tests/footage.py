"""Tiny real videos for the tests, written with the libraries that real footage comes from."""

import subprocess
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np

from dora.data.miniature import World, render

WIDTH, HEIGHT, FPS, DURATION_S = 64, 48, 12, 3.0


@lru_cache(maxsize=1)
def walk() -> tuple[np.ndarray, ...]:
    """Three seconds of the miniature, small."""
    world = World(seed=1, width=WIDTH, height=HEIGHT)
    return tuple(render(world, index / FPS).image for index in range(round(DURATION_S * FPS)))


def write(path: Path, frames: Sequence[np.ndarray] | None = None, *, fps: int = FPS, times: Sequence[int] | None = None,
          pix_fmt: str = "yuv420p", options: dict[str, str] | None = None) -> Path:  # fmt: skip
    """Write an H.264 video in the container that the suffix names; `times` are in 1/fps seconds."""
    frames = walk() if frames is None else frames
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12", "g": "12", "threads": "1"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, fps)
        for time, pixels in zip(times or range(len(frames)), frames, strict=True):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def ffmpeg(*arguments: str | Path) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def blot(path: Path) -> Path:
    """Overwrite the first picture of an mp4."""
    with av.open(str(path)) as container:
        packet = next(container.demux(video=0))
        place, size = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    assert place is not None
    content[place : place + size] = b"\xa5" * size
    path.write_bytes(content)
    return path


def rename_codec(path: Path) -> Path:
    """Let an mp4 of H.264 name a codec that there is not."""
    before, _, after = path.read_bytes().rpartition(b"avc1")
    path.write_bytes(before + b"xq1z" + after)
    return path


def cut(path: Path, share: float) -> Path:
    """Keep the first part of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path
