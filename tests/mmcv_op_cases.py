"""Calls of mmcv's nms and roi_align, ordinary and odd ones, that compiled mmcv and our stand-in should answer alike."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Case(NamedTuple):
    """One call of both, and what group of the table it belongs to."""

    group: str
    call: Callable[[Any], list[Tensor]]  # of a module that has the operations
    tensors: dict[str, Tensor]
    parameters: dict[str, Any]
    results: tuple[str, ...]


def nms_case(group: str, boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> Case:
    return Case(
        group, lambda of: [of.nms(boxes, scores, iou_threshold=threshold, offset=offset)],
        {"boxes": boxes, "scores": scores}, {"op": "nms", "iou_threshold": threshold, "offset": offset},
        ("kept",),
    )  # fmt: skip


def roi_case(
    group: str, images: Tensor, rois: Tensor, *, size: tuple[int, int] = (7, 7), spatial_scale: float = 0.25,
    sampling_ratio: int = 0, aligned: bool = True,
) -> Case:  # fmt: skip
    """Forward and backward."""
    # Uniform, not normal: the same bits on every machine.
    gradient = torch.rand(len(rois), images.shape[1], *size, generator=torch.Generator().manual_seed(0)) - 0.5
    gradient = gradient.to(images.dtype)
    how: dict[str, Any] = {"spatial_scale": spatial_scale, "sampling_ratio": sampling_ratio, "aligned": aligned}

    def call(of: Any) -> list[Tensor]:
        output, none, grad_images = torch.zeros_like(gradient), gradient.new_zeros(0), torch.zeros_like(images)
        common = how | {"aligned_height": size[0], "aligned_width": size[1], "pool_mode": 1}
        of.roi_align_forward(images, rois, output, none, none, **common)
        of.roi_align_backward(gradient, rois, none, none, grad_images, **common)
        return [output, grad_images]

    tensors = {"images": images, "rois": rois, "grad_output": gradient}
    return Case(group, call, tensors, {"op": "roi_align", "size": size, **how}, ("output", "grad_images"))


def boxes_of(n: int, generator: torch.Generator, *, side: float = 100, shift: float = 0) -> Tensor:
    corner = torch.rand(n, 2, generator=generator) * side + shift
    return torch.cat([corner, corner + torch.rand(n, 2, generator=generator) * side / 2], dim=1)


def nms_cases(generator: torch.Generator, repeats: int) -> Iterator[Case]:
    """Ordinary boxes and every odd kind, with both offsets and several thresholds."""
    for repeat in range(repeats):
        n = (0, 1, 2, 10, 100, 1000)[repeat % 6]
        for offset in (0, 1):
            for threshold in (0.1, 0.3, 0.5, 0.7, 0.95):
                boxes = boxes_of(n, generator)
                scores = torch.rand(n, generator=generator)
                yield nms_case(f"nms, offset {offset}", boxes, scores, threshold, offset)
                tied = (scores * 5).round() / 5
                yield nms_case("nms, tied scores", boxes, tied, threshold, offset)
                yield nms_case("nms, whole numbers", (boxes / 4).round(), tied, threshold, offset)
                again = boxes[torch.randint(0, max(n // 3, 1), (n,), generator=generator)] if n else boxes
                yield nms_case("nms, equal boxes", again, scores, threshold, offset)
                yield nms_case("nms, negative coordinates", boxes - 80, scores, threshold, offset)
                flat = torch.cat([boxes[:, :2], boxes[:, :2]], dim=1)
                yield nms_case("nms, boxes without area", flat, scores, threshold, offset)
                reversed_ = boxes[:, [2, 3, 0, 1]]
                yield nms_case("nms, boxes that end before they begin", reversed_, scores, threshold, offset)


def rois_of(n: int, batch: int, generator: torch.Generator, *, side: float, shift: float = 0) -> Tensor:
    index = torch.randint(0, batch, (n, 1), generator=generator).float()
    return torch.cat([index, boxes_of(n, generator, side=side, shift=shift)], dim=1)


def roi_cases(generator: torch.Generator, repeats: int) -> Iterator[Case]:
    """Ordinary regions and every odd kind, in both precisions, aligned or not, with and without a number of samples."""
    for repeat in range(repeats):
        height, width = ((13, 17), (20, 9), (1, 1), (32, 32))[repeat % 4]
        for dtype in (torch.float32, torch.float64):
            for aligned in (True, False):
                for ratio in (0, 2):
                    images = torch.randn(3, 4, height, width, generator=generator).to(dtype)
                    how: dict[str, Any] = {
                        "aligned": aligned, "sampling_ratio": ratio, "size": ((7, 7), (14, 14), (3, 5))[repeat % 3],
                        "spatial_scale": (1 / 4, 1 / 8, 1 / 16, 0.3)[repeat % 4],
                    }  # fmt: skip
                    bits = "float32" if dtype == torch.float32 else "float64"
                    side = 4 * max(height, width)
                    for what, rois in {
                        "inside": rois_of(20, 3, generator, side=side / 2),
                        "partly or wholly outside": rois_of(20, 3, generator, side=3 * side, shift=-side),
                        "without area": rois_of(20, 3, generator, side=side)[:, [0, 1, 2, 1, 2]],
                        "on cell borders": rois_of(20, 3, generator, side=side).round(),
                        "none": rois_of(0, 3, generator, side=side),
                    }.items():
                        yield roi_case(f"roi_align {bits}: {what}", images, rois.to(dtype), **how)


def golden_cases() -> Iterator[Case]:
    """A few small ones, one of a name."""
    generator = torch.Generator().manual_seed(0)
    for offset in (0, 1):
        boxes, scores = boxes_of(16, generator, side=60, shift=-20), torch.rand(16, generator=generator)
        yield nms_case(f"nms_offset{offset}", boxes, scores, 0.3, offset)
        yield nms_case(f"nms_ties_offset{offset}", (boxes / 4).round(), (scores * 3).round() / 3, 0.5, offset)
    yield nms_case("nms_equal_boxes", boxes[:4].repeat(4, 1), scores, 0.5, 0)
    # IoU 0.1 as float32 has it, which is more than the double 0.1.
    tenth = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 1]])
    yield nms_case("nms_at_the_threshold", tenth, torch.tensor([0.9, 0.8]), 0.1, 0)
    yield nms_case("nms_empty", boxes[:0], scores[:0], 0.5, 0)
    for aligned in (True, False):
        for ratio in (0, 2):
            images = torch.randn(2, 2, 9, 12, generator=generator)
            rois = rois_of(6, 2, generator, side=90, shift=-30)
            rois[0, 3:] = rois[0, 1:3]  # without area
            kind = "aligned" if aligned else "not_aligned"
            yield roi_case(
                f"roi_align_{kind}_{ratio}", images, rois, size=(3, 4), sampling_ratio=ratio, aligned=aligned
            )
    yield roi_case("roi_align_float64", images.double(), rois.double(), size=(2, 2))
