"""What the detection benchmark does once torch is loaded: photos to learn from, detections, and their measure."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from torch import nn

from eval.dense.coco_annotations import CATEGORY_IDS, NAMES, Annotations, load
from eval.dense.coco_judge import PREFIXES, Judged, Kind, code, decode, judge
from eval.dense.coco_sheet import Shown, drawn
from eval.images import read_video_frame
from eval.openmm import detection
from eval.openmm.detection import Detections, Sample
from eval.pictures import evenly, write_sheet

SHEET, CATEGORIES, RESULTS = "coco.jpg", "categories.json", "detections-{}.json"
N_SHEET_IMAGES, SHEET_HEIGHT = 5, 270
SHOWN_SCORE, N_SHOWN = 0.3, 3  # all above the score, or the best few

Record = dict[str, Any]  # what was found in one photo, fit for JSON


class Seen(NamedTuple):
    """A photo as the network sees it."""

    number: int
    sample: Sample


def read_photo(photos: Path, annotations: Annotations, number: int) -> UInt8[np.ndarray, "Y X 3"]:
    """RGB pixels of a photo.

    Raises:
        ValueError: if it cannot be read whole, or has another size than the annotations say; names it.
        FileNotFoundError: if it is not there.
    """
    path = photos / annotations.file_names[number]
    image = read_video_frame(path)
    height, width = annotations.sizes[number].tolist()
    if image.shape[:2] != (height, width):
        raise ValueError(
            f"{path} has {image.shape[1]} x {image.shape[0]} pixels, but {annotations.path.name} says {width} x "
            f"{height}. It is another photo, or was scaled. Fetch it again."
        )
    return image


def reader(
    photos: Path, annotations: Annotations, numbers: Sequence[int], steps: Sequence[dict[str, Any]]
) -> Callable[[int], Sample]:
    """Reads the n-th of the photos `numbers` with its objects, and augments it."""
    run = detection.pipeline(steps)

    def read(n: int) -> Sample:
        number = numbers[n]
        return run(read_photo(photos, annotations, number), annotations.instances(number))

    return read


def looker(photos: Path, annotations: Annotations, steps: Sequence[dict[str, Any]]) -> Callable[[int], Seen]:
    """Reads a photo by its number, without its objects, and scales it for the network."""
    run = detection.pipeline(steps)

    def look(number: int) -> Seen:
        return Seen(number, run(read_photo(photos, annotations, number), []))

    return look


def finder(model: Any, annotations: Annotations) -> Callable[[Seen], Record]:
    """Finds the objects of a photo, in float32 whatever the training was in: apex is iBOT's for training alone."""
    preprocess: nn.Module = model.data_preprocessor

    def find(seen: Seen) -> Record:
        return recorded(detection.detect(model, preprocess, seen.sample), annotations.image_ids[seen.number])

    return find


def recorded(found: Detections, image_id: int) -> Record:
    """Detections as JSON has them: boxes as COCO's x, y, width, height, masks as its compressed run lengths."""
    return {
        "image_id": image_id,
        "boxes": [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in found.boxes.astype(np.float64).tolist()],
        "scores": found.scores.astype(np.float64).tolist(),
        "labels": found.labels.tolist(),
        "masks": [code(mask) for mask in found.masks],
    }


def results(records: Sequence[Record], annotations: Annotations, kind: Kind) -> list[dict[str, Any]]:
    """All detections in COCO's result format. Those with masks have no box: the mask's own area tells its size."""
    sizes = dict(zip(annotations.image_ids, annotations.sizes.tolist(), strict=True))

    def what(record: Record, n: int) -> dict[str, Any]:
        if kind == "bbox":
            return {"bbox": record["boxes"][n]}
        return {"segmentation": {"size": sizes[record["image_id"]], "counts": record["masks"][n]}}

    return [
        {"image_id": record["image_id"], "category_id": CATEGORY_IDS[label], **what(record, n), "score": score}
        for record in records
        for n, (label, score) in enumerate(zip(record["labels"], record["scores"], strict=True))
    ]


def measure(records: Sequence[Record], annotations: Annotations, out: Path) -> tuple[dict[str, float], tuple[str, ...]]:
    """COCO's metrics of boxes and masks over the photos of `records`, and what has to be said beside them.

    In percent. Writes all detections, and AP of each category, into `out`.
    """
    if not records:
        raise ValueError("none of the validation photos could be read: nothing can be measured. Fetch them again.")
    truth = _of_images(load(annotations.path), {record["image_id"] for record in records})
    metrics: dict[str, float] = {}
    undefined: list[str] = []
    judged: dict[Kind, Judged] = {}
    for kind in PREFIXES:
        detections = results(records, annotations, kind)
        (out / RESULTS.format(kind)).write_text(json.dumps(detections))
        judged[kind] = judge(truth, detections, kind)
        metrics |= judged[kind].metrics
        undefined += judged[kind].undefined
    (out / CATEGORIES).write_text(json.dumps(_by_category(annotations, judged), indent=1))
    notes = (f"no object to find for {', '.join(undefined)}: left out",) if undefined else ()
    return metrics, notes


def write_picture_sheet(path: Path, photos: Path, annotations: Annotations, records: Sequence[Record]) -> None:
    """Truth beside detections for some photos spread over all that were read; crowds are hatched."""
    number_of = {image_id: number for number, image_id in enumerate(annotations.image_ids)}
    rows: list[tuple[str, list[np.ndarray]]] = []
    for record in (records[n] for n in evenly(len(records), N_SHEET_IMAGES)):
        number = number_of[record["image_id"]]
        photo = read_photo(photos, annotations, number)
        true, found = _true(annotations, number), _found(record, photo.shape)
        n_true = sum(not thing.is_crowd for thing in true)
        caption = f"{annotations.file_names[number]}: {n_true} objects, {len(found)} detections shown"
        rows.append((caption, [drawn(photo, things, height=SHEET_HEIGHT) for things in (true, found)]))
    write_sheet(path, rows, cell_height=SHEET_HEIGHT)


def _of_images(truth: dict[str, Any], image_ids: set[int]) -> dict[str, Any]:
    return {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in image_ids],
        "annotations": [thing for thing in truth["annotations"] if thing["image_id"] in image_ids],
    }


def _by_category(annotations: Annotations, judged: dict[Kind, Judged]) -> dict[str, dict[str, float | int | None]]:
    counts = np.bincount(annotations.labels[~annotations.is_crowd], minlength=len(NAMES))
    return {
        name: {
            "objects": int(counts[label]),
            **{f"{PREFIXES[kind]}_AP": found.categories[name] for kind, found in judged.items()},
        }
        for label, name in enumerate(NAMES)
    }


def _true(annotations: Annotations, number: int) -> list[Shown]:
    height, width = annotations.sizes[number].tolist()
    return [
        Shown(
            annotations.boxes[row].tolist(), decode(annotations.segmentation(row), height, width),
            int(annotations.labels[row]), NAMES[annotations.labels[row]], bool(annotations.is_crowd[row]),
        )
        for row in sorted(annotations.objects_of(number), key=lambda row: -annotations.areas[row])
    ]  # fmt: skip


def _found(record: Record, shape: Sequence[int]) -> list[Shown]:
    """The detections that are surer than SHOWN_SCORE, or the surest few; the surest drawn last."""
    scores: Float[np.ndarray, " n"] = np.array(record["scores"])
    order = np.argsort(-scores, kind="stable")
    best = order[: max(N_SHOWN, int(np.count_nonzero(scores >= SHOWN_SCORE)))]
    height, width = shape[:2]
    return [
        Shown(
            record["boxes"][n], decode({"size": [height, width], "counts": record["masks"][n]}, height, width),
            record["labels"][n], f"{NAMES[record['labels'][n]]} {100 * scores[n]:.0f} %",
        )
        for n in reversed(best.tolist())
    ]  # fmt: skip
