"""Frames, clips, steps and bytes of a recipe: arithmetic on what is known of its videos."""

from pathlib import Path
from typing import NamedTuple

from dora.artifacts import Machine
from dora.config import MiniatureVideo, Recipe, VideoConfig, WalkingTour
from dora.data import video as videos
from dora.data.clips import clip_layout
from dora.data.order import steps_per_epoch
from dora.data.tar_pass import frame_size
from dora.data.walking_tours import MEAN_DURATION_S, tour

# Of street videos at quality 90 (0.10 to 0.17 at 456 x 256 and 768 x 432); one shrunk from 4K is sharper.
BYTES_PER_PIXEL = 0.2


class Known(NamedTuple):
    """A video as far as it is known."""

    name: str
    duration_s: float
    fps: float
    width: int
    height: int
    source: str  # of these facts
    path: Path | None  # of the file, if it is on this machine


class VideoAmounts(NamedTuple):
    """What is stored of one video."""

    known: Known
    fps: float
    width: int
    height: int
    n_frames: int
    n_tars: int
    n_starts: int
    size_bytes: float


class Amounts(NamedTuple):
    """What a recipe takes of everything."""

    videos: tuple[VideoAmounts, ...]
    n_starts: int
    steps_per_epoch: int
    n_steps: int
    n_clips: int  # over the whole training

    @property
    def size_bytes(self) -> float:
        """Of all tars."""
        return sum(video.size_bytes for video in self.videos)

    @property
    def n_source_frames(self) -> int:
        """Pictures that are decoded."""
        return round(sum(video.known.duration_s * video.known.fps for video in self.videos))


def amounts(recipe: Recipe, machine: Machine, *, bytes_per_pixel: float = BYTES_PER_PIXEL) -> Amounts:
    """Everything that can be counted without a look at a picture.

    Raises:
        ValueError: if a video is too short for one clip, or the clips too few for one batch.
        FileNotFoundError, PermissionError: if a file that the recipe names is not there, or not for this user.
    """
    each = tuple(_video(known(one, machine), recipe, bytes_per_pixel) for one in recipe.videos)
    n_starts = sum(one.n_starts for one in each)
    per_epoch = steps_per_epoch(n_starts, recipe.pretrain)
    n_steps = per_epoch * recipe.pretrain.epochs
    n_clips = n_steps * recipe.pretrain.clips_per_batch
    return Amounts(each, n_starts, per_epoch, n_steps, n_clips)


def known(config: VideoConfig, machine: Machine) -> Known:
    """What is known of a video: from its file if it is here, from the data set's description, or by assumption.

    Raises:
        FileNotFoundError, PermissionError, ValueError: if its file is not there, or no video.
    """
    name = config.name
    if isinstance(config, MiniatureVideo):
        return Known(name, config.duration_s, config.fps, config.width, config.height, "as it is rendered", None)
    path = videos.file_here(config, machine)
    if path:
        found = videos.probe(path, accept=config.accept)
        return Known(name, found.duration_s, found.fps, found.width, found.height, f"read from {path}", path)
    if isinstance(config, WalkingTour):
        listed = tour(name)
        source = "from the data set's description" if listed.duration_s else "assumed: the data set's mean length"
        return Known(name, listed.duration_s or MEAN_DURATION_S, listed.fps, listed.width, listed.height, source, None)
    return Known(name, 3600, 30, 1920, 1080, "assumed: an hour of 1080p; known once it is downloaded", None)


def _video(of: Known, recipe: Recipe, bytes_per_pixel: float) -> VideoAmounts:
    shards = recipe.shards
    fps = min(shards.fps, of.fps)
    width, height = frame_size(of.width, of.height, shards.short_side)
    n_frames = max(1, int(of.duration_s * fps + 0.5))
    n_starts = clip_layout(recipe.pretrain.clip, name=of.name, fps=fps, n_frames=n_frames).n_starts
    n_tars = -(-n_frames // shards.frames_per_shard)
    return VideoAmounts(of, fps, width, height, n_frames, n_tars, n_starts, n_frames * width * height * bytes_per_pixel)
