"""Label propagation through a video with frozen patch features, no training: DINO's DAVIS procedure.

A frame's patch takes its label from the most similar patches of the first frame and of a few frames before it,
looking only near its own place (Jabri et al., NeurIPS 2020; arXiv:2104.14294, Sec. 4.2.2; behaviour of
facebookresearch/dino eval_video_segmentation at commit 7c446df). Letters: S context frames, h w patch grid,
D feature width, C labels with background first, Y X pixels.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

# A tile's affinities stay in the processor's cache; one row or all rows at a time were slower.
ROWS_PER_TILE = 4


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
    and columns away. Those that tie with the last of the best are kept too, as the reference does.
    """
    height, width, dim = target.shape
    labels = target.new_empty(height, width, values.shape[-1])
    columns = torch.arange(width, device=target.device)
    near_column = (columns[:, None] - columns).abs() <= radius
    for top in range(0, height, ROWS_PER_TILE):
        bottom = min(top + ROWS_PER_TILE, height)
        first, last = max(top - radius, 0), min(bottom + radius, height)
        rows, key_rows = (torch.arange(*ends, device=target.device) for ends in ((top, bottom), (first, last)))
        near_row = (rows[:, None] - key_rows).abs() <= radius
        near = near_row[:, None, :, None, None] & near_column[None, :, None, None, :]
        band, n_targets = keys[first:last], (bottom - top) * width
        cosine = target[top:bottom].reshape(n_targets, dim) @ band.reshape(-1, dim).T
        cosine.view(bottom - top, width, *band.shape[:3]).masked_fill_(~near, -torch.inf)
        weight = _best(cosine, top_k).div_(temperature).exp_()
        weight /= weight.sum(dim=1, keepdim=True)
        labels[top:bottom] = (weight @ values[first:last].reshape(cosine.shape[1], -1)).view_as(labels[top:bottom])
    return labels


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


def _best(cosine: Float[Tensor, "N K"], top_k: int) -> Float[Tensor, "N K"]:
    """The same cosines, with -inf at all but each row's `top_k` highest and their ties."""
    lowest = cosine.topk(min(top_k, cosine.shape[1]), dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    return cosine.masked_fill_(cosine < lowest, -torch.inf)


def _resized(labels: UInt8[np.ndarray, "Y X"], height: int, width: int) -> UInt8[np.ndarray, "y x"]:
    # PIL, because OpenCV's nearest neighbour takes other pixels.
    return np.array(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
