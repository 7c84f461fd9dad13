"""Objects in the sampled pictures, from a file of detections or a detector of torchvision's."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from dora.config import Frozen

HOW = (
    "no detector was named: --detector takes a file of detections (COCO's results format, of the pictures that "
    "--write-frames writes; python -m eval.detect makes one with our own) or weights of torchvision.models.detection"
)


class DetectorFacts(Frozen):
    """What found the objects."""

    kind: str  # "detections" or torchvision's name of the architecture
    file: str
    sha256: str
    min_score: float
    n_classes: int | None = None  # that it can tell apart; null: the file does not say


class Detections(NamedTuple):
    """How many objects of which class each sampled picture has, by its number."""

    facts: DetectorFacts
    counts: Mapping[int, Mapping[str, int]]

    def check(self, n_samples: int, video: str) -> None:
        """Refuse detections of other pictures.

        Raises:
            ValueError: if there are some of a picture that was not sampled.
        """
        last = max(self.counts, default=-1)
        if last >= n_samples:
            raise ValueError(
                f"{self.facts.file} has detections in picture {last}, but {n_samples} pictures of {video} are sampled, "
                "0 and on. image_id must be the number of the sampled picture, as in frames/*/images.json."
            )


def read_detections(path: Path, *, sha256: str, min_score: float) -> Detections:
    """A list of results, or a whole annotation file, as COCO has them; `image_id` is a sampled picture's number.

    Raises:
        ValueError: if it is neither.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}). Expected detections in COCO's results format.") from None
    whole = cast(dict[str, Any], found) if isinstance(found, dict) else {"annotations": found}
    records, categories = whole.get("annotations"), whole.get("categories")
    names = {int(one["id"]): str(one["name"]) for one in categories} if categories else _coco_names()
    counts: dict[int, Counter[str]] = {int(image["id"]): Counter() for image in whole.get("images", ())}
    try:
        for record in cast(Sequence[Mapping[str, Any]], records):
            if float(record.get("score", 1)) >= min_score:
                name = names.get(int(record["category_id"]), f"category {record['category_id']}")
                counts.setdefault(int(record["image_id"]), Counter())[name] += 1
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(
            f'{path} is not in COCO\'s results format: expected a list of {{"image_id": number of the sampled picture, '
            '"category_id": …, "bbox": …, "score": …}.'
        ) from None
    n_classes = len(categories) if categories else None
    facts = DetectorFacts(
        kind="detections", file=path.name, sha256=sha256, min_score=min_score, n_classes=n_classes
    )  # fmt: skip
    return Detections(facts, counts)


def _coco_names() -> dict[int, str]:
    """COCO's categories by their ids, 1 to 90."""
    return {number: name for number, name in enumerate(coco_categories()) if name not in ("__background__", "N/A")}


def coco_categories() -> list[str]:
    """As torchvision's detectors number them, the gaps included."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    return list(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
