"""Label propagation through a video with frozen patch features, no training: DINO's DAVIS procedure.

A frame's patch takes its label from the most similar patches of the first frame and of a few frames before it,
looking only near its own place (Jabri et al., NeurIPS 2020; arXiv:2104.14294, Sec. 4.2.2; behaviour of
facebookresearch/dino eval_video_segmentation at commit 7c446df). Letters: S context frames, h w patch grid,
D feature width, C labels with background first, Y X pixels.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dora.method.products import product

# A tile's affinities stay in the processor's cache, and few of them lie outside the windows of its patches.
CPU_TILE = (10, 13)
# A GPU has other cares: each of its operations takes a while to start, whatever its size. A constant, and not the share
# that is free, so that the same video gives the same numbers on a GPU that is shared.
CUDA_TILE_BYTES = 256 << 20


class Window(NamedTuple):
    """Rows (or columns) of a tile, and those that lie near one of them."""

    own: slice
    near: slice


def propagate(
    features: Iterable[Float[Tensor, "h w D"]], first_labels: Float[Tensor, "h w C"], *,
    n_last_frames: int, top_k: int, radius: int, temperature: float,
) -> Iterator[Float[Tensor, "h w C"]]:  # fmt: skip
    """Soft labels of the second, third, ... frame, given the features of all frames and the first frame's labels.

    Only the first and the `n_last_frames` frames before the current one are kept, however long the video is.
    """
    frames = iter(features)
    first = functional.normalize(next(frames), dim=-1)
    height, width, dim = first.shape
    # Rows first, so that any band of rows is one contiguous matrix over all context frames.
    keys = first.new_empty(height, 1 + n_last_frames, width, dim)
    values = first.new_empty(height, 1 + n_last_frames, width, first_labels.shape[-1])
    keys[:, 0], values[:, 0] = first, first_labels.to(first)
    for t, frame in enumerate(frames, start=1):
        target, n_context = functional.normalize(frame, dim=-1), min(t, 1 + n_last_frames)
        labels = propagate_frame(
            target, keys[:, :n_context], values[:, :n_context], top_k=top_k, radius=radius, temperature=temperature
        )
        if n_last_frames:
            oldest = 1 + (t - 1) % n_last_frames
            keys[:, oldest], values[:, oldest] = target, labels
        yield labels


def propagate_frame(
    target: Float[Tensor, "h w D"], keys: Float[Tensor, "h S w D"], values: Float[Tensor, "h S w C"], *,
    top_k: int, radius: int, temperature: float,
) -> Float[Tensor, "h w C"]:  # fmt: skip
    """Labels of one frame: mean of its context's labels, weighted by exp(cosine / temperature) of the best `top_k`.

    `keys` and `values` are the unit features and labels of S context frames. Candidates lie at most `radius` rows
    and columns away, 0 for anywhere. Those that tie with the last of the best are kept too, as the reference does.
    """
    height, width, dim = target.shape
    radius = radius or max(height, width)
    labels = target.new_empty(height, width, values.shape[-1])
    tile_height, tile_width = tile_size(keys, radius, on_gpu=target.is_cuda)
    for columns in _windows(width, tile_width, radius):
        # Rows are the first dimension: what a tile looks at is one contiguous matrix of all context frames' patches.
        strip_keys, strip_values = (x[:, :, columns.near].contiguous() for x in (keys, values))
        for rows in _windows(height, tile_height, radius):
            tile, near = target[rows.own, columns.own], strip_keys[rows.near]
            cosine = product(tile.reshape(-1, dim), near.reshape(-1, dim))
            far = _far(rows, radius, target)[:, None, :, None, None] + _far(columns, radius, target)[:, None, None, :]
            cosine.view(*tile.shape[:2], *near.shape[:3]).add_(far)
            voted = _voted(cosine.unflatten(1, (len(near), -1)), strip_values[rows.near], top_k, temperature)
            labels[rows.own, columns.own] = voted.view_as(labels[rows.own, columns.own])
    return labels


def tile_size(keys: Float[Tensor, "h S w D"], radius: int, *, on_gpu: bool) -> tuple[int, int]:
    """Height and width, in patches, of what is compared with its surroundings at once."""
    if not on_gpu:
        return CPU_TILE
    height, n_context, width = keys.shape[:3]
    row_bytes = width * min(height, 3 * radius) * n_context * width * keys.element_size()
    return max(1, min(radius, CUDA_TILE_BYTES // row_bytes)), width


def network_size(height: int, width: int, *, short_side: int, multiple: int) -> tuple[int, int]:
    """Height and width to which a frame is resized: the short side exactly, the long one floored to a multiple.

    Raises:
        ValueError: if nothing is left of the long side.
    """
    long_side = short_side * max(height, width) // (min(height, width) * multiple) * multiple
    if not long_side:
        raise ValueError(f"a {width}x{height} frame at short side {short_side} is smaller than one {multiple} px step.")
    return (long_side, short_side) if height > width else (short_side, long_side)


def grid_labels(annotation: UInt8[np.ndarray, "Y X"], grid: tuple[int, int]) -> Float[Tensor, "h w C"]:
    """One-hot labels at patch resolution, by nearest neighbour.

    An object smaller than a patch can vanish here, and is then lost for the whole sequence, as in the reference.
    """
    small = _resized(annotation, *grid)
    return functional.one_hot(torch.from_numpy(small).long()).float()


def label_map(soft: Float[Tensor, "h w C"], *, patch_size: int, size: tuple[int, int]) -> UInt8[np.ndarray, "Y X"]:
    """Hard labels at original `size` (height, width).

    Bilinear to the network's resolution, each label's map stretched to 0..1 over the frame, arg max, nearest to
    the size. A constant map is left as it is, where the reference divides by zero.
    """
    maps = functional.interpolate(soft.permute(2, 0, 1)[None], scale_factor=patch_size, mode="bilinear")[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = torch.where(high > low, (maps - low) / (high - low), maps)
    return _resized(maps.argmax(dim=0).byte().cpu().numpy(), *size)


def _voted(
    cosine: Float[Tensor, "N R K"], values: Float[Tensor, "R S w C"], top_k: int, temperature: float
) -> Float[Tensor, "N C"]:
    """Weighted mean of the values of each row's `top_k` highest cosines and their ties; -inf is no candidate.

    Only K of the R * K candidates are ranked, each the highest of R, and then the R behind each of the best.
    """
    n_rows, n_groups = cosine.shape[1:]
    flat = values.flatten(0, 2)
    if n_groups <= top_k:
        return _mean(cosine.flatten(1), flat, _lowest(cosine.flatten(1), top_k), temperature)
    groups = cosine.amax(dim=1).topk(top_k + 1, dim=1)
    chosen = groups.indices[:, None, :top_k].expand(-1, n_rows, -1)
    candidates = cosine.gather(2, chosen).flatten(1)
    best = candidates.topk(min(top_k + 1, candidates.shape[1]), dim=1)
    lowest = best.values[:, top_k - 1 : top_k]
    # Whatever ties with the last of the best lies among the candidates, or is the highest of its group.
    next_ones = torch.cat([best.values[:, top_k:], groups.values[:, top_k:]], dim=1)
    if cosine.is_cuda or (next_ones == lowest).any():  # to ask a GPU would mean to wait for it
        return _mean(cosine.flatten(1), flat, lowest, temperature)
    row, slot = best.indices[:, :top_k] // top_k, best.indices[:, :top_k] % top_k
    index = row * n_groups + groups.indices.gather(1, slot)
    weight = (best.values[:, :top_k] / temperature).softmax(dim=1)
    return (weight[:, :, None] * flat[index]).sum(dim=1)


def _mean(
    cosine: Float[Tensor, "N K"], values: Float[Tensor, "K C"], lowest: Float[Tensor, "N 1"], temperature: float
) -> Float[Tensor, "N C"]:
    """Mean of the values whose cosine is not below `lowest`, weighted by exp(cosine / temperature)."""
    return cosine.masked_fill_(cosine < lowest, -torch.inf).div_(temperature).softmax(dim=1) @ values


def _lowest(cosine: Float[Tensor, "N K"], top_k: int) -> Float[Tensor, "N 1"]:
    return cosine.topk(min(top_k, cosine.shape[1]), dim=1, sorted=False).values.amin(dim=1, keepdim=True)


def _windows(n: int, size: int, radius: int) -> Iterator[Window]:
    for first in range(0, n, size):
        last = min(first + size, n)
        yield Window(slice(first, last), slice(max(first - radius, 0), min(last + radius, n)))


def _far(window: Window, radius: int, like: Tensor) -> Float[Tensor, "own near"]:
    """-inf where a row (or column) is more than `radius` away, 0 elsewhere: to be added to cosines."""
    own, near = (torch.arange(part.start, part.stop, device=like.device) for part in window)
    return torch.zeros((), dtype=like.dtype, device=like.device).where(
        (own[:, None] - near).abs() <= radius, -torch.inf
    )


def _resized(labels: UInt8[np.ndarray, "Y X"], height: int, width: int) -> UInt8[np.ndarray, "y x"]:
    # PIL, because OpenCV's nearest neighbour takes other pixels.
    return np.array(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
