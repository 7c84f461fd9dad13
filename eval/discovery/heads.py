"""Each head's mask of a photo against the photo's labels; and how they look."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError
from timm.models.vision_transformer import VisionTransformer

from dora.data.labelled.files import voc_palette
from dora.data.labelled.voc import NAMES
from eval.discovery.attention_masks import VOID, attention_masks, jaccard
from eval.discovery.last_layer import last_layer
from eval.images import read_labels
from eval.pictures import RIGHT, evenly, framed, overlay
from eval.pictures import write_sheet as write_rows

Photo = UInt8[np.ndarray, "Y X 3"]
Target = UInt8[np.ndarray, "Y X"]
Masks = Bool[np.ndarray, "H Y X"]
N_ROWS, HEIGHT, MASK_COLOUR = 6, 110, (255, 214, 10)


def read_pair(data: Path, name: str, *, side: int) -> tuple[Photo, Target]:
    """A photo (bilinear, antialiased, as torchvision resizes) and its labels (nearest), squares of `side` pixels.

    Raises:
        ValueError: if one cannot be read; names the file.
    """
    path = data / "JPEGImages" / f"{name}.jpg"
    try:
        with Image.open(path) as file:
            photo = np.array(file.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is no readable image ({error}). Fetch it again.") from None
    labels = Image.fromarray(read_labels(data / "SegmentationClass" / f"{name}.png"))
    target = np.array(labels.resize((side, side), Image.Resampling.NEAREST))
    odd = target[(target > len(NAMES)) & (target != VOID)]
    if odd.size:
        raise ValueError(f"{name}.png in {data}/SegmentationClass holds the label {odd[0]}, expected 0 … 20 and 255.")
    return photo, target


def looked_at(vit: VisionTransformer, photo: Photo, *, mass: float) -> Masks:
    """Each head's mask at the photo's size."""
    seen = last_layer(vit, photo)
    masks = attention_masks(seen.attention, mass=mass).unflatten(1, seen.grid).cpu()
    return masks.repeat_interleave(seen.patch, 1).repeat_interleave(seen.patch, 2).numpy()


def measured_heads(masks: Masks, target: Target) -> dict[str, Any]:
    """What is kept of a photo: its labels, and the overlap of each with each head's mask."""
    found = jaccard(masks, target)
    return {"labels": found.labels, "jaccard": found.jaccard.tolist(), "without_void": found.without_void.tolist()}


def write_sheet(
    path: Path, records: Mapping[int, tuple[str, Mapping[str, Any]]],
    shown: Callable[[int], tuple[Photo, Target, Masks]],
) -> None:  # fmt: skip
    """Labels, then each head's mask over some photos; the head that is best for the first object has a frame."""
    numbers = list(records)
    rows: list[tuple[str, list[Photo]]] = []
    for i in (numbers[place] for place in evenly(len(numbers), N_ROWS)):
        name, record = records[i]
        photo, target, masks = shown(i)
        best = [int(np.argmax(of_heads)) for of_heads in record["jaccard"]]
        said = ", ".join(
            f"{NAMES[label - 1]} {100 * of_heads[head]:.0f} % (head {head})"
            for label, of_heads, head in zip(record["labels"], record["jaccard"], best, strict=True)
        )
        cells = [overlay(photo, target, voc_palette()), *(_lit(photo, mask) for mask in masks)]
        cells[1 + best[0]] = framed(cells[1 + best[0]], RIGHT)
        rows.append((f"{name}: labels, then the heads. Best of each object: {said}", cells))
    write_rows(path, rows, cell_height=HEIGHT)


def _lit(photo: Photo, mask: Bool[np.ndarray, "Y X"]) -> Photo:
    """The photo, dark outside of the mask, whose edge is drawn."""
    dark = np.where(mask[..., None], photo, photo // 3)
    edge = np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8))) > 0
    dark[edge] = MASK_COLOUR
    return dark
