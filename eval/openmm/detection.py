"""mmdet's part of the detection benchmark: transforms, data preprocessor, the cascade. Call `require()` first.

What they are made of is said in configs, dicts with the type's name ("mmdet.FPN"), in the benchmark's own file. The
published protocol was run with mmdet 2.x, whose last is 2.28.2; this is 3.3.0. Compared source with source, where the
protocol is concerned:

- RandomChoice of transforms and RandomChoiceResize are 2.x's AutoAugment and Resize(multiscale_mode="value"): one of
  the policies, and one of the sizes, each equally likely; photos bilinear by OpenCV, masks nearest, boxes clipped.
- RandomCrop "absolute_range": height and width each drawn evenly from min(side, 384) ... min(side, 600); boxes that lie
  outside the crop go with their masks, boxes that reach outside are clipped; the same.
- Images without annotation and those below 32 px are not trained on (filter_empty_gt, min_size); no box is too small
  beyond 1 px (min_bbox_size 0, allowed_border 0): the same, the first of it in eval/dense/coco_annotations.py.
- Crowds are no objects to learn, but a proposal on one may well be background (ignore_iof_thr -1): the same.
- Normalising and padding with 0 moved from the pipeline into DetDataPreprocessor, in this order still.
- GroupSampler (2.x) and AspectRatioBatchSampler (3.x) both keep upright and wide images apart; how ours differs is said
  in eval/dense/orientation.py.
- An outline of less than three points makes its object ignored in 3.3; in 2.x it stays one, whatever its mask.
- Half precision: iBOT had apex (O1) compute losses in float32, 2.x's own casts what heads say before boxes and losses
  are computed, and features before regions are cut out of them (force_fp32); 3.3 does neither, and would round the
  regions to the features' precision, pixels at a photo's far end. Here it is done as in 2.x (`_says_float32`).
"""
# pyright: reportMissingImports=false

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from torch import Tensor, nn

from eval.openmm import quiet

Described = Mapping[str, Any]  # a config: "type" and arguments


class Sample(NamedTuple):
    """One photo, not yet normalised."""

    image: UInt8[Tensor, "3 Y X"]  # blue, green, red, as OpenMMLab's transforms have it
    data: DetDataSample  # its objects, and the size that the photo had


class Detections(NamedTuple):
    """What a detector says of one photo, in the photo's own pixels."""

    boxes: Float[np.ndarray, "n 4"]  # x1, y1, x2, y2
    scores: Float[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    masks: Bool[np.ndarray, "n Y X"]


def pipeline(
    steps: Sequence[Described],
) -> Callable[[UInt8[np.ndarray, "Y X 3"], Sequence[dict[str, Any]]], Sample]:
    """Transforms of an RGB photo and its objects, one after the other; they draw from NumPy's global generator.

    The last step has to be "mmdet.PackDetInputs". An object is a dict: bbox (x1, y1, x2, y2), bbox_label, ignore_flag
    and mask (polygons or run lengths).
    """
    transforms = [TRANSFORMS.build(dict(step)) for step in steps]

    def run(image: UInt8[np.ndarray, "Y X 3"], instances: Sequence[dict[str, Any]]) -> Sample:
        results: dict[str, Any] = {
            "img": np.ascontiguousarray(image[..., ::-1]), "img_shape": image.shape[:2],
            "ori_shape": image.shape[:2], "instances": list(instances),
        }  # fmt: skip
        with quiet():
            for transform in transforms:
                results = transform(results)
        return Sample(results["inputs"], results["data_samples"])

    return run


def preprocessor(config: Described) -> nn.Module:
    """What normalises and pads samples."""
    return MODELS.build(dict(config))


def detector(backbone: nn.Module, config: Described) -> nn.Module:
    """The detector of a config without backbone around `backbone`; neck and heads have mmdet's initial weights."""

    def given() -> nn.Module:
        return backbone

    model = MODELS.build(ConfigDict({**config, "backbone": {"type": given}}))
    # Not model.init_weights(), which would reach the backbone's own method of that name.
    heads = (model.rpn_head, *model.roi_head.bbox_head, *model.roi_head.mask_head)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("WARNING")  # it tells of each weight
    for part in (model.neck, *heads):
        part.init_weights()
    logger.setLevel(level)
    for part in (model.neck, *heads):
        _says_float32(part)
    return model


def losses(model: nn.Module, samples: Sequence[Sample], preprocess: nn.Module) -> dict[str, Tensor]:
    """Losses of the proposals and of each stage (s0, s1, s2), and how many percent of its regions are named right."""
    # A copy, because the preprocessor pads the masks in place.
    data = {"inputs": [sample.image for sample in samples], "data_samples": [sample.data.clone() for sample in samples]}
    made = preprocess(data, training=True)
    found: dict[str, Any] = model(made["inputs"], made["data_samples"], mode="loss")
    return {name: _total(value) for name, value in found.items()}


@torch.no_grad()
def detect(model: nn.Module, preprocess: nn.Module, sample: Sample) -> Detections:
    """All that the detector finds in a photo, at the photo's own size, best first."""
    made = preprocess({"inputs": [sample.image], "data_samples": [sample.data]}, training=False)
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "To copy construct from a tensor", UserWarning)  # mmdet's mask head does
        (found,) = model(made["inputs"], made["data_samples"], mode="predict")
    objects = found.pred_instances
    return Detections(*(objects[name].cpu().numpy() for name in ("bboxes", "scores", "labels", "masks")))


def _says_float32(part: nn.Module) -> None:
    part.register_forward_hook(lambda module, images, said: _as_float32(said))


def _as_float32(said: Any) -> Any:
    if isinstance(said, Tensor):
        return said.float()
    return type(said)(map(_as_float32, said)) if isinstance(said, list | tuple) else said


def _total(value: Tensor | Sequence[Tensor]) -> Tensor:
    """The sum over a feature pyramid's levels, where there is a loss for each."""
    return value.sum() if isinstance(value, Tensor) else torch.stack([part.sum() for part in value]).sum()
