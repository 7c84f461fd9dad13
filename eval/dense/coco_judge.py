"""COCO's measure of detections: pycocotools computes it, here it is asked, silenced and named."""

import contextlib
import copy
import io
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float
from pycocotools import mask as codes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Kind = Literal["bbox", "segm"]
# What COCOeval.summarize puts into `stats`, in its order: over IoU 0.50:0.05:0.95, of all sizes and of up to 100
# detections of an image where nothing else is said; small is below 32 x 32 px, large above 96 x 96 px.
STATISTICS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
PREFIXES: dict[Kind, str] = {"bbox": "box", "segm": "mask"}


class Judged(NamedTuple):
    """What pycocotools says, in percent."""

    metrics: dict[str, float]  # box_AP …, or mask_AP …; without those for which there is no object to find
    undefined: tuple[str, ...]  # the names of those
    categories: dict[str, float | None]  # AP of each by its name; None where there is no object to find


def judge(truth: dict[str, Any], detections: Sequence[dict[str, Any]], kind: Kind) -> Judged:
    """Average precision and recall over all images of `truth`, by pycocotools' COCOeval with its own parameters.

    `truth` is an annotation file's content, `detections` are in COCO's result format: image_id, category_id, score and
    bbox (x, y, width, height) or segmentation (compressed run lengths). Those for masks may have no bbox: pycocotools
    would tell small from large by it. Crowds are neither to be found nor wrong to be found.

    Raises:
        ValueError: for detections in images that are not there.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_indexed(copy.deepcopy(truth)), _detected(truth, detections), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    prefix = PREFIXES[kind]
    values = {f"{prefix}_{name}": float(value) for name, value in zip(STATISTICS, evaluation.stats, strict=True)}
    names = {category["id"]: category["name"] for category in truth["categories"]}
    # IoU, recall, category, size (0: all), number of detections (-1: 100)
    precision: Float[np.ndarray, "10 101 c 4 3"] = evaluation.eval["precision"]
    return Judged(
        metrics={name: 100 * value for name, value in values.items() if value >= 0},
        undefined=tuple(name for name, value in values.items() if value < 0),
        categories={
            names[number]: _average(precision[:, :, column, 0, -1])
            for column, number in enumerate(evaluation.params.catIds)
        },
    )


def code(mask: Bool[np.ndarray, "Y X"]) -> str:
    """COCO's compressed run lengths of a mask, as text."""
    return cast(bytes, codes.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]).decode()


def decode(segmentation: Any, height: int, width: int) -> Bool[np.ndarray, "Y X"]:
    """The mask of polygons or run lengths, compressed or not, as pycocotools draws it."""
    if isinstance(segmentation, list):
        drawable = [points for points in segmentation if len(points) >= 6]
        code_ = codes.merge(codes.frPyObjects(drawable, height, width)) if drawable else None
    elif isinstance(segmentation["counts"], list):
        code_ = codes.frPyObjects(segmentation, height, width)
    else:
        code_ = segmentation
    if code_ is None:
        return np.zeros((height, width), np.bool_)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # of NumPy 1, in pycocotools
        return codes.decode(code_).astype(np.bool_)


def _indexed(content: dict[str, Any]) -> Any:
    coco: Any = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _detected(truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> Any:
    if not detections:  # loadRes asks the first one what kind it is
        return _indexed({**truth, "annotations": []})
    known = {image["id"] for image in truth["images"]}
    strange = {detection["image_id"] for detection in detections} - known
    if strange:
        raise ValueError(f"{len(strange):,} images with detections are not among the {len(known):,} of the truth.")
    # It writes into what it is given.
    return _indexed({**truth, "annotations": []}).loadRes([dict(detection) for detection in detections])


def _average(precision: Float[np.ndarray, "10 101"]) -> float | None:
    found = precision[precision > -1]
    return 100 * float(found.mean()) if found.size else None
