"""A tracker that learns nothing: the box's patches find their nearest neighbours, frame by frame, in frozen features.

The first box is a mask on a grid of patches, of the square around it. In the square around the last box, each patch of
the next frame takes its share of the thing from the patches most like it in the first square and in a few before it,
as labels wander in DINO's DAVIS procedure (eval/propagation.py). The next box has the place and, side by side, the
spread of the new mask, measured as the first mask's are, so that the first mask gives the first box back exactly.
Squares are as large as the box asks for: the thing has about the same size in patches, however large it is, and a box
that came out too large or too small is put right by the next mask.

Nothing is drawn and nothing is learnt; the numbers are ours, chosen on the miniature (docs/tracking.md).
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from eval.features import IMAGENET_MEAN, patch_features, patch_size
from eval.trackers.tracker import Box, Frame

LEAST_SIDE = 4.0  # pixels; a smaller box shows nothing
LEAST_PEAK = 0.05  # a mask that is nowhere higher is of nothing: the thing is hidden, and the box waits
OUTSIDE = tuple(round(255 * share) for share in IMAGENET_MEAN)  # the colour that networks see as 0


class Square(NamedTuple):
    """Whole pixels of a frame, partly outside of it perhaps."""

    left: int
    top: int
    side: int


class Shape(NamedTuple):
    """Where a mask is and how far it spreads, x before y, in patches of its grid."""

    center: Float64[np.ndarray, "2"]
    spread: Float64[np.ndarray, "2"]  # standard deviation


class NearestNeighbourTracker:
    """A Tracker (eval/trackers/tracker.py) of any ViT with frozen weights, on its device.

    `grid` patches make a side of the square, `area_factor` of the box's sqrt(w h). A patch asks the `top_k` most
    similar ones at most `radius` rows and columns away in the first square and in the last `n_last_frames`. Of a mask
    only what is above `threshold` of its peak counts, in the piece that has most of it; from frame to frame a side
    grows by `most_growth` or shrinks by its inverse at most.
    """

    def __init__(
        self, vit: VisionTransformer, *, grid: int, area_factor: float, n_last_frames: int, top_k: int, radius: int,
        temperature: float, threshold: float, most_growth: float,
    ) -> None:  # fmt: skip
        self._vit, self._grid, self._area_factor = vit, grid, area_factor
        self._n_last_frames, self._top_k, self._temperature = n_last_frames, top_k, temperature
        self._threshold, self._most_growth = threshold, most_growth
        self._size = grid * patch_size(vit)
        self._device = next(vit.parameters()).device
        self._near = near(grid, radius).to(self._device)
        self._box, self._sides, self._offset = np.zeros(4), np.ones(2), np.zeros(2)
        self._keys: list[Tensor] = []
        self._masks: list[Tensor] = []

    def start(self, frame: Frame, box: Box) -> None:
        """Take what is in the box for the thing to follow."""
        self._box = box.copy()
        square = square_around(box, self._area_factor)
        unit = square.side / self._grid
        middle, sides = box[:2] + box[2:] / 2, np.maximum(box[2:], unit)  # something of it fills a patch
        mask = covered(np.concatenate([middle - sides / 2, sides]), square, self._grid)
        shape = shape_of(mask, threshold=self._threshold)
        assert shape is not None, "a box covers something of the square around it"
        self._sides = box[2:] / unit / shape.spread  # how the box lies about the mask, in its spread
        self._offset = ((middle - square[:2]) / unit - shape.center) / shape.spread
        self._keys, self._masks = [self._features(frame, square)], [torch.from_numpy(mask).flatten()]

    def follow(self, frame: Frame) -> Box:
        """Where it is in the next frame; where it was, if nothing of it is seen."""
        square = square_around(self._box, self._area_factor)
        features = self._features(frame, square)
        mask = self._propagated(features).reshape(self._grid, self._grid)
        height, width = frame.shape[:2]
        mask *= covered(np.array([0, 0, width, height], np.float64), square, self._grid)
        self._keys, self._masks = [*self._keys, features], [*self._masks, torch.from_numpy(mask).flatten()]
        if len(self._keys) > 1 + self._n_last_frames:  # the first frame stays
            del self._keys[1], self._masks[1]
        shape = shape_of(mask, threshold=self._threshold)
        if shape is not None:
            self._box = self._placed(shape, square, (width, height))
        return self._box.copy()

    def _features(self, frame: Frame, square: Square) -> Float[Tensor, "N D"]:
        crop = cut(frame, square, self._size)
        (features,) = patch_features(self._vit, [crop], batch_size=1)
        return functional.normalize(features.flatten(0, 1).float(), dim=-1)

    def _propagated(self, features: Float[Tensor, "N D"]) -> Float64[np.ndarray, "N"]:
        cosine = torch.cat([(features @ keys.T).masked_fill(~self._near, -torch.inf) for keys in self._keys], dim=1)
        best = cosine.topk(min(self._top_k, cosine.shape[1]), dim=1)
        weights = (best.values / self._temperature).softmax(dim=1).double().cpu()
        return (weights * torch.cat(self._masks)[best.indices.cpu()]).sum(dim=1).numpy()

    def _placed(self, shape: Shape, square: Square, size: tuple[int, int]) -> Box:
        """The box that lies about the mask as the first box lay about the first mask; its middle is in the picture."""
        unit, last = square.side / self._grid, self._box[2:]
        sides = np.clip(self._sides * shape.spread * unit, last / self._most_growth, last * self._most_growth)
        center = np.array(square[:2]) + (shape.center + self._offset * shape.spread) * unit
        return np.concatenate([np.clip(center, 0, size) - sides / 2, sides])


def square_around(box: Box, area_factor: float) -> Square:
    """The square about the box's middle, `area_factor` times as wide as one of the box's area."""
    side = round(area_factor * max(LEAST_SIDE, float(np.sqrt(box[2] * box[3]))))
    left, top = (round(float(middle)) for middle in box[:2] + box[2:] / 2 - side / 2)
    return Square(left, top, side)


def cut(frame: Frame, square: Square, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The square scaled to `size` pixels, antialiased where it shrinks; the mean colour outside of the frame."""
    height, width = frame.shape[:2]
    left, right = (min(max(x, 0), width) for x in (square.left, square.left + square.side))
    top, bottom = (min(max(y, 0), height) for y in (square.top, square.top + square.side))
    pixels = np.empty((square.side, square.side, 3), np.uint8)
    pixels[:] = OUTSIDE
    pixels[top - square.top : bottom - square.top, left - square.left : right - square.left] = frame[
        top:bottom, left:right
    ]
    shrinks = square.side > size
    return np.asarray(
        cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), np.uint8
    )


def covered(box: Box, square: Square, grid: int) -> Float64[np.ndarray, "grid grid"]:
    """Which share of each patch of the square the box covers."""
    begin = (box[:2] - square[:2]) / square.side * grid
    end = begin + box[2:] / square.side * grid
    patches = np.arange(grid)
    columns, rows = (
        np.clip(np.minimum(end[axis], patches + 1) - np.maximum(begin[axis], patches), 0, 1) for axis in (0, 1)
    )
    return np.outer(rows, columns)


def shape_of(mask: Float64[np.ndarray, "grid grid"], *, threshold: float) -> Shape | None:
    """Middle and spread of what is above `threshold` of the peak, in the piece with most of it; None of no mask."""
    peak = float(mask.max())
    if peak < LEAST_PEAK:
        return None
    above = np.maximum(mask - threshold * peak, 0)
    n, pieces = cv2.connectedComponents((above > 0).astype(np.uint8), connectivity=8)
    masses = np.bincount(pieces.ravel(), above.ravel(), minlength=n)
    above[pieces != masses[1:].argmax() + 1] = 0
    middles = np.arange(len(mask)) + 0.5
    shares = np.stack([above.sum(axis=0), above.sum(axis=1)]) / above.sum()
    center = shares @ middles
    # A patch is as wide as it is: 1/12 is the variance within, without which one patch had no spread.
    variance = (shares * np.square(middles - center[:, None])).sum(axis=1) + 1 / 12
    return Shape(center, np.sqrt(variance))


def near(grid: int, radius: int) -> Bool[Tensor, "N N"]:
    """Which patches of a grid are at most `radius` rows and columns apart."""
    rows, columns = torch.arange(grid).repeat_interleave(grid), torch.arange(grid).repeat(grid)
    return ((rows[:, None] - rows).abs() <= radius) & ((columns[:, None] - columns).abs() <= radius)
