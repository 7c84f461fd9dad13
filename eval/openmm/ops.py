"""A stand-in for mmcv's compiled operations: the two that our detector calls, by torchvision's kernels.

mmcv's sources need a compiler and C++17, torch's headers C++20; nobody has to build them. Both libraries' kernels come
from the same place (detectron2), and docs/openmm.md tells how their results were compared.
"""

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
import torchvision.ops  # registers torch.ops.torchvision  # noqa: F401  # pyright: ignore[reportUnusedImport]
from jaxtyping import Float, Int64
from torch import Tensor

NAME = "mmcv._ext"


def install() -> bool:
    """Whether the stand-in serves: it steps aside where mmcv is compiled. To be called before mmcv.ops is imported."""
    if NAME in sys.modules:
        return isinstance(sys.modules[NAME], _StandIn)
    if importlib.util.find_spec(NAME):
        return False
    sys.modules[NAME] = _StandIn(NAME)
    return True


class _StandIn(ModuleType):
    """A module that has every operation, because mmcv looks all of them up, and refuses most when they are called."""

    def __init__(self, name: str) -> None:
        super().__init__(name, __doc__)
        self.__spec__ = ModuleSpec(name, None, origin=__file__)
        self.nms, self.roi_align_forward, self.roi_align_backward = nms, roi_align_forward, roi_align_backward

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

        def refused(*_: Any, **__: Any) -> NoReturn:
            raise _not_served(name)

        return refused


def nms(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, "N"], iou_threshold: float, offset: int
) -> Int64[Tensor, "n"]:
    """Indices of the boxes that no better one overlaps by more than the threshold, best first.

    `offset` is 1 where corners are pixels that belong to the box.
    """
    boxes, scores = _precise(boxes), _precise(scores)
    # The very call of mmcv's kernel: torch leaves the order of equal scores open, and it depends on this.
    order = scores.sort(0, descending=True)[1]
    ranked = boxes[order]
    # mmcv compares with a threshold that was rounded to float32.
    threshold = float(np.float32(iou_threshold))
    if offset:
        return order[_suppress(ranked, threshold, offset)]
    ranks = torch.arange(len(ranked), 0, -1, device=boxes.device, dtype=ranked.dtype)
    return order[torch.ops.torchvision.nms(ranked, ranks, threshold)]


def _suppress(ranked: Float[Tensor, "N 4"], threshold: float, offset: int) -> Int64[Tensor, "n"]:
    """NMS of boxes that are in order, one after the other: torchvision's kernel knows no offset."""
    low, high = ranked[:, :2], ranked[:, 2:]
    areas = (high - low + offset).prod(1)
    waiting = torch.arange(len(ranked), device=ranked.device)
    kept: list[Tensor] = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        sides = (torch.minimum(high[best], high[waiting]) - torch.maximum(low[best], low[waiting]) + offset).clamp(0)
        overlap = sides.prod(1)
        waiting = waiting[~(overlap / (areas[best] + areas[waiting] - overlap) > threshold)]
    return torch.stack(kept) if kept else waiting


def roi_align_forward(
    images: Float[Tensor, "B C Y X"], rois: Float[Tensor, "N 5"], output: Float[Tensor, "N C y x"],
    argmax_y: Tensor, argmax_x: Tensor, *, aligned_height: int, aligned_width: int, spatial_scale: float,
    sampling_ratio: int, pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """Fill `output` with the mean of bilinear samples in each cell of each region (index in the batch, x1, y1, x2, y2).

    Raises:
        NotImplementedError: for the maximum instead of the mean, which torchvision has not.
        ValueError: for an aligned region that ends before it begins (on the CPU, as mmcv).
    """
    _require_mean(pool_mode)
    images, rois = _precise(images), _precise(rois)
    if aligned and rois.device.type == "cpu" and bool((rois[:, 3:] < rois[:, 1:3]).any()):
        raise ValueError("roi_align: expected regions with x1 <= x2 and y1 <= y2, got one that ends before it begins")
    pooled = torch.ops.torchvision.roi_align(
        images, rois.to(images.dtype), float(np.float32(spatial_scale)), aligned_height, aligned_width, sampling_ratio,
        aligned,
    )  # fmt: skip
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Float[Tensor, "N C y x"], rois: Float[Tensor, "N 5"], argmax_y: Tensor, argmax_x: Tensor,
    grad_input: Float[Tensor, "B C Y X"], *, aligned_height: int, aligned_width: int, spatial_scale: float,
    sampling_ratio: int, pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """Add the gradient of `roi_align_forward` with respect to its images to `grad_input`.

    Raises:
        NotImplementedError: as there.
    """
    _require_mean(pool_mode)
    gradient, rois = _precise(grad_output), _precise(rois)
    grad_input += torch.ops.torchvision._roi_align_backward(
        gradient, rois.to(gradient.dtype), float(np.float32(spatial_scale)), aligned_height, aligned_width,
        *grad_input.shape, sampling_ratio, aligned,
    )  # fmt: skip


def _require_mean(pool_mode: int) -> None:
    if pool_mode != 1:
        raise _not_served("roi_align with pool_mode 'max'")


def _not_served(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name} of mmcv is compiled code, which {__name__} does not stand in for: it has nms and roi_align (avg). "
        "Choose a model without it, or build mmcv 2.1.0 with its operations (docs/openmm.md)."
    )


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
