"""mmsegmentation's part of the segmentation benchmarks: transforms, data preprocessor, models. Call `require()` first.

What they are made of is said in configs, dicts with the type's name ("mmseg.UPerHead"), in the benchmarks' own files.
The published protocols were run with mmsegmentation 0.x, whose last release is 0.30; this is 1.2.2. Compared source
with source, where the protocol is concerned:

- RandomResize with `scale` and `ratio_range` is 0.x's Resize with `img_scale` and `ratio_range`: one ratio for both
  sides, drawn evenly, each side truncated to whole pixels; photos bilinear by OpenCV, labels nearest.
- RandomCrop's `cat_max_ratio`: the same loop of ten redraws; a crop that fails all ten is taken nevertheless.
- PhotoMetricDistortion: the same draws in the same order, on uint8 BGR; hue is drawn from -18 … +17, without +18.
- RandomFlip: the same probability; the order of draws from the generator differs.
- Normalising and padding (0, and 255 for labels) moved from the pipeline into SegDataPreProcessor, in this order still.
  0.x multiplies by 1 / std where 1.x divides by std: the last bit of float32.
- UPerHead and FCNHead: the same layers, the same initial weights (conv_seg normal with 0.01), align_corners False.
- CrossEntropyLoss: `avg_non_ignore` is False in both: the mean is over all pixels of a crop, unlabelled ones with zero.
- Testing: 0.x takes a softmax before the argmax, which changes no label; with several scales the mean is over
  probabilities in both. Sliding windows and the final labels are eval/dense/sliding.py's, which equal 1.2.2's.
"""
# pyright: reportMissingImports=false

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.structures import PixelData
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from eval.openmm import quiet

Described = Mapping[str, Any]  # a config: "type" and arguments


class Sample(NamedTuple):
    """One crop, not yet normalised."""

    image: UInt8[Tensor, "3 y x"]  # blue, green, red, as OpenMMLab's transforms have it
    labels: UInt8[Tensor, "y x"]


def pipeline(
    steps: Sequence[Described],
) -> Callable[[UInt8[np.ndarray, "Y X 3"], UInt8[np.ndarray, "Y X"]], Sample]:
    """Transforms of an RGB photo and its labels, one after the other; they draw from NumPy's global generator."""
    transforms = [TRANSFORMS.build(dict(step)) for step in steps]

    def run(image: UInt8[np.ndarray, "Y X 3"], labels: UInt8[np.ndarray, "Y X"]) -> Sample:
        results: dict[str, Any] = {
            "img": np.ascontiguousarray(image[..., ::-1]), "img_shape": image.shape[:2],
            "gt_seg_map": labels, "seg_fields": ["gt_seg_map"],
        }  # fmt: skip
        for transform in transforms:
            results = transform(results)
        pixels, classes = (np.ascontiguousarray(results[key]) for key in ("img", "gt_seg_map"))
        return Sample(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), torch.from_numpy(classes))

    return run


def preprocessor(config: Described) -> nn.Module:
    """What normalises and pads samples (`stacked`)."""
    return MODELS.build(dict(config))


def segmentor(backbone: nn.Module, config: Described) -> nn.Module:
    """The model of a config without backbone around `backbone`; its heads have mmsegmentation's initial weights."""

    def given() -> nn.Module:
        return backbone

    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"``build_loss`` would be deprecated|Default ``avg_non_ignore`` is False")
        model = MODELS.build(ConfigDict({**config, "backbone": {"type": given}}))
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("WARNING")  # it names every initial weight
    # Not model.init_weights(), which would reach the backbone's own method of that name.
    for head in (model.decode_head, getattr(model, "auxiliary_head", None)):
        if head is not None:
            head.init_weights()
    logger.setLevel(level)
    return model


def stacked(
    preprocess: nn.Module, samples: Sequence[Sample]
) -> tuple[Float[Tensor, "B 3 y x"], Int64[Tensor, "B y x"]]:
    """Normalised, padded images and their labels on the preprocessor's device."""
    labelled: list[Any] = []
    for sample in samples:
        data = SegDataSample(metainfo={"img_shape": tuple(sample.labels.shape)})
        data.gt_sem_seg = PixelData(data=sample.labels[None].long())
        labelled.append(data)
    made = preprocess({"inputs": [sample.image for sample in samples], "data_samples": labelled}, training=True)
    return made["inputs"], torch.cat([data.gt_sem_seg.data for data in made["data_samples"]])


def losses(model: Any, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """The loss of each head, weighted: what model.loss gives, without counting right pixels, which takes as long."""
    images, labels = stacked(model.data_preprocessor, samples)
    maps = model.extract_feat(images)
    heads = {"decode": model.decode_head} | ({"aux": model.auxiliary_head} if model.with_auxiliary_head else {})
    found: dict[str, Tensor] = {}
    for name, head in heads.items():
        logits = F.interpolate(head(maps), labels.shape[1:], mode="bilinear", align_corners=head.align_corners)
        found[f"{name}.loss_ce"] = head.loss_decode(logits, labels, ignore_index=head.ignore_index)
    return found


def normalised(preprocess: nn.Module, image: UInt8[np.ndarray, "Y X 3"]) -> Float[Tensor, "3 Y X"]:
    """An RGB photo as the network wants it, not padded, on the preprocessor's device."""
    pixels = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)
    return preprocess({"inputs": [pixels]}, training=False)["inputs"][0]
