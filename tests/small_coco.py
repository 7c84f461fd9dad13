"""COCO in its real layout at its smallest: a few photos of coloured shapes, with a crowd in each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from dora.artifacts import Checkpoint
from dora.data.labelled.coco import categories
from dora.data.labelled.files import write_photo
from eval.benchmark import checkpoint_from_file
from eval.benchmarks import coco

torch.set_num_threads(1)
PERSON, CAR, DOG = 1, 3, 18
CONFIG = coco.Config(
    whole=False, short_sides=(32, 48), long_side=96, sides_before_crop=(32, 40), crop_sides=(24, 32),
    position_size=(32, 64), fpn_channels=8, n_hidden=8, anchor_scale=2, n_train_proposals=32, n_test_proposals=16,
    n_regions=16, lr=1e-3, iterations=2, warmup_iterations=1, batch_size=2, precision="fp32", max_broken_share=0,
    test_short_side=32, min_score=0.0,
)  # fmt: skip


def rectangle(number: int, image: int, category: int, box: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    x, y, w, h = box
    return {
        "id": number, "image_id": image, "category_id": category, "bbox": list(box), "area": w * h, "iscrowd": 0,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    } | more  # fmt: skip


def crowd(number: int, image: int, size: tuple[int, int]) -> dict[str, Any]:
    """The last two columns."""
    height, width = size
    code = {"size": [height, width], "counts": [height * (width - 2), height * 2]}
    box = (width - 2, 0, 2, height)
    return rectangle(number, image, PERSON, box, iscrowd=1, segmentation=code)


def write(folder: Path, *, n: dict[str, int] | None = None, size: tuple[int, int] = (40, 60)) -> Path:
    """Every third photo is upright. Image ids count from 7, annotation ids from 100."""
    number = 100
    for subset, n_photos in (n or {"train": 4, "val": 3}).items():
        photos = folder / f"{subset}2017"
        photos.mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(n_photos):
            height, width = size if index % 3 != 2 else size[::-1]
            image_id = 7 + index + (100 if subset == "val" else 0)
            pixels = np.random.default_rng(image_id).integers(0, 60, (height, width, 3), dtype=np.uint8)
            for category, box, colour in ((CAR, (4, 6, 20, 14), (250, 40, 40)), (DOG, (26, 20, 10, 16), (40, 40, 250))):
                x, y, w, h = box
                pixels[y : y + h, x : x + w] = colour
                annotations.append(rectangle(number, image_id, category, box))
                number += 1
            annotations.append(crowd(number, image_id, (height, width)))
            number += 1
            name = f"{image_id:012d}.jpg"
            write_photo(photos / name, pixels)
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        content = {"images": images, "annotations": annotations, "categories": categories()}
        coco.annotations_file(folder, subset).write_text(json.dumps(content))
    return folder


def change(folder: Path, subset: str, edit: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the annotations of a subset."""
    path = coco.annotations_file(folder, subset)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def write_vit(path: Path, *, patch_size: int = 8, width: int = 64) -> Checkpoint:
    """A ViT of two blocks and random weights, as DINO's authors would save it; its head is 64 wide."""
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=4 * patch_size, patch_size=patch_size, embed_dim=width, depth=2, num_heads=1, num_classes=0
    )
    torch.save({"teacher": {f"module.backbone.{name}": value for name, value in vit.state_dict().items()}}, path)
    return checkpoint_from_file(path)
