"""Logits of an image of any size from a network that is used to squares: windows that overlap, averaged.

mmsegmentation's EncoderDecoder.slide_inference gives the same (tests/test_sliding.py). That one sends window after
window through the network, and adds each, padded with zeros to the image's size, to a sum; here several windows go
through together and are added where they lie. Nor is the largest logit of a pixel looked for among all classes at
the photo's full size at once, which for ADE20K's largest photos would be gigabytes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

CLASSES_AT_ONCE = 16  # bounds the memory; changes no label


class Place(NamedTuple):
    """Where a window lies."""

    top: int
    left: int
    height: int
    width: int


def places(size: tuple[int, int], *, window: int, stride: int) -> list[Place]:
    """Windows row by row; the last of a row or column is shifted to lie inside. A small image is one small window."""

    def starts(side: int) -> Iterator[tuple[int, int]]:
        for number in range(max(side - window + stride - 1, 0) // stride + 1):
            end = min(number * stride + window, side)
            yield max(end - window, 0), min(window, side)

    columns = list(starts(size[1]))
    return [Place(top, left, height, width) for top, height in starts(size[0]) for left, width in columns]


def cut(
    image: Float[Tensor, "3 Y X"], where: Sequence[Place], *, batch_size: int, multiple: int = 1
) -> Iterator[Float[Tensor, "B 3 y x"]]:
    """The windows' pixels, `batch_size` windows at a time, filled up with zeros to a multiple of `multiple`."""
    for first in range(0, len(where), batch_size):
        windows = torch.stack([
            image[:, top : top + height, left : left + width]
            for top, left, height, width in where[first : first + batch_size]
        ])  # fmt: skip
        below, beside = (-side % multiple for side in windows.shape[-2:])
        yield F.pad(windows, (0, beside, 0, below)) if below or beside else windows


def blend(
    batches: Iterable[Float[Tensor, "B K h w"]], where: Sequence[Place], size: tuple[int, int], *, multiple: int = 1
) -> Float[Tensor, "K Y X"]:
    """Mean of the windows' logits at every pixel; they come at any resolution and are enlarged bilinearly."""
    total: Tensor | None = None
    waiting = iter(where)
    for batch in batches:
        for logits in batch:
            top, left, height, width = next(waiting)
            filled = (height + -height % multiple, width + -width % multiple)
            enlarged = F.interpolate(logits[None].float(), filled, mode="bilinear", align_corners=False)[0]
            enlarged = enlarged[:, :height, :width]
            if total is None:
                if (height, width) == size:
                    return enlarged
                total = enlarged.new_zeros(len(enlarged), *size)
            total[:, top : top + height, left : left + width] += enlarged
    if total is None:
        raise ValueError("no window, nothing to blend.")
    n_windows = total.new_zeros(size)
    for top, left, height, width in where:
        n_windows[top : top + height, left : left + width] += 1
    return total.div_(n_windows)


def slide(
    decode: Callable[[Float[Tensor, "B 3 y x"]], Float[Tensor, "B K h w"]], image: Float[Tensor, "3 Y X"], *,
    window: int, stride: int, batch_size: int, multiple: int = 1,
) -> Float[Tensor, "K Y X"]:  # fmt: skip
    """Logits of every pixel; `decode` gives those of some windows, at any resolution.

    A window is as small as the image where that is smaller; for `decode` it is filled up to a multiple of `multiple`.
    """
    size = (image.shape[1], image.shape[2])
    where = places(size, window=window, stride=stride)
    windows = cut(image, where, batch_size=batch_size, multiple=multiple)
    return blend(map(decode, windows), where, size, multiple=multiple)


def largest(logits: Float[Tensor, "K y x"], size: tuple[int, int]) -> UInt8[Tensor, "Y X"]:
    """The class of every pixel of a photo of another size: bilinear, then the largest logit, of equals the first.

    mmsegmentation takes a softmax in between, which changes no order.
    """
    best = labels = None
    for first in range(0, len(logits), CLASSES_AT_ONCE):
        some = logits[None, first : first + CLASSES_AT_ONCE]
        values, indices = F.interpolate(some, size, mode="bilinear", align_corners=False)[0].max(0)
        indices = indices.to(torch.uint8) + first
        if best is None or labels is None:
            best, labels = values, indices
        else:
            better = values > best
            labels = torch.where(better, indices, labels)
            best = torch.where(better, values, best)
    if labels is None:
        raise ValueError("no class, nothing to compare.")
    return labels
