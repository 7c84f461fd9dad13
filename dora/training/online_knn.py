"""Online k-NN: does the teacher's [CLS] token tell where in the footage a frame is from? It takes no labels.

Up to 256 frames, spread evenly over all videos, are labelled by the stretch of video that they are from. The 10 frames
most like a frame vote for its stretch (Wu et al., CVPR 2018, with DINO's k and temperature). Frames of the same moment
have no vote: they look alike to any network. So what is asked for is the same place, seen from some steps further on.
The number depends on the footage. It is for a curve: to be compared with chance, and with itself as training goes on.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from dora.config import ClipConfig
from dora.data.augment import normalise_
from dora.data.clips import Clips
from dora.drawing import resized
from dora.method.network import Network
from dora.method.vit import cls_token

N_FRAMES, MOST_STRETCHES = 256, 20
STRETCH_S = 10.0  # about, at least, as far as there are two of them
MOMENT_S = 2.0  # frames nearer than this, or a fifth of a stretch, are of one moment
K, TEMPERATURE = 10, 0.07  # DINO's (arXiv:2104.14294, App. F.1)
N_READERS = 8


class Frames(NamedTuple):
    """Frames to be recognised, and who may vote for whom."""

    images: Float[Tensor, "N 3 Y X"]  # normalised
    stretch: Int64[Tensor, "N"]
    may_vote: Bool[Tensor, "N N"]


def read_frames(shards: Sequence[Path], size: int) -> Frames:
    """The same frames for the same shards: the middle square of each, `size` pixels wide. A store is read by range."""
    clips = Clips(shards, ClipConfig(n_frames=1))
    n = min(N_FRAMES, clips.n_starts)
    starts = [(2 * number + 1) * clips.n_starts // (2 * n) for number in range(n)]
    with ThreadPoolExecutor(N_READERS) as readers:
        images = torch.cat([_square(frames, size) for frames in readers.map(clips.read, starts)])
    normalise_(images)
    return Frames(images, *_stretches([(clips.source(start), clips.times_s(start)[0]) for start in starts]))


@torch.no_grad()
def features(teacher: Network, images: Float[Tensor, "N 3 Y X"], *, at_once: int, device: torch.device) -> Tensor:
    """[CLS] tokens on the CPU. Under FSDP all ranks call it together, with the same images."""
    parts = [teacher(_cls, part.to(device)).float().cpu() for part in images.split(at_once)]
    return torch.cat(parts)


def accuracy(cls: Float[Tensor, "N D"], frames: Frames) -> float:
    """Frames whose stretch gets most votes, in percent."""
    unit = F.normalize(cls.double(), dim=-1)
    similarity, nearest = (unit @ unit.T).masked_fill(~frames.may_vote, -math.inf).topk(min(K, len(unit)))
    votes = torch.zeros(len(unit), int(frames.stretch.max()) + 1, dtype=torch.float64)
    votes.scatter_add_(1, frames.stretch[nearest], (similarity / TEMPERATURE).exp())
    return 100 * (votes.argmax(1) == frames.stretch).double().mean().item()


def chance(frames: Frames) -> float:
    """What a single vote of anyone who may vote would get, in percent."""
    same = frames.stretch[:, None] == frames.stretch
    n_voters = frames.may_vote.sum(1).clamp(min=1)
    return 100 * ((same & frames.may_vote).sum(1) / n_voters).mean().item()


def _stretches(places: Sequence[tuple[str, float]]) -> tuple[Int64[Tensor, "N"], Bool[Tensor, "N N"]]:
    """Each frame's stretch and who may vote for whom, from video and time of frames that lie in order."""
    videos = [[time_s for _, time_s in of_video] for _, of_video in groupby(places, key=itemgetter(0))]
    length_s = sum(times_s[-1] - times_s[0] for times_s in videos)
    n_wanted = min(max(2, round(length_s / STRETCH_S)), MOST_STRETCHES)
    stretch: list[int] = []
    n_made = 0
    for times_s in videos:
        n_here = max(1, round(n_wanted * len(times_s) / len(places)))
        stretch += [n_made + number * n_here // len(times_s) for number in range(len(times_s))]
        n_made += n_here
    moment_s = min(MOMENT_S, length_s / n_made / 5)
    video = torch.tensor([number for number, times_s in enumerate(videos) for _ in times_s])
    time_s = torch.tensor([time_s for _, time_s in places], dtype=torch.float64)
    same_moment = (video[:, None] == video) & ((time_s[:, None] - time_s).abs() <= moment_s)
    return torch.tensor(stretch), ~same_moment


def _square(frames: UInt8[np.ndarray, "1 Y X 3"], size: int) -> Float[Tensor, "1 3 y x"]:
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resized(frames[:, top : top + side, left : left + side], size, size)


def _cls(network: Network, images: Tensor) -> Tensor:
    return cls_token(network.backbone, images)
