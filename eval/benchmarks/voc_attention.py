"""PASCAL VOC 2012: how well the heads of the last layer outline objects with their attention; Jaccard, in percent.

Nothing is learnt: the fewest patches that hold a share of [CLS]'s attention are a head's mask, and of each object the
best head counts (eval/discovery/attention_masks.py). `jaccard` is the mean over the objects of a photo, then over
photos; in `jaccard_void_excluded` void pixels count for no mask, and `jaccard_one_head` is that of the one head that is
best for all objects. classes.json has the classes. docs/discovery.md tells more.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.config import Finite
from dora.data.labelled import voc as layout
from dora.data.labelled.photographs import photographs
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result, missing
from eval.identity import sampled

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
PROTOCOL = "voc2012-val-attention-480-mass60"
DATASET = "voc2012"
HOW_TO_GET = "`dora data get voc2012` does; or unpack VOCtrainval_11-May-2012.tar: the folder VOCdevkit/VOC2012."
HEADLINE = "jaccard"
COST = "estimated, not measured: 1,449 photos of 480 px, 3 minutes at 10 a second. No training."
PARALLEL = True

CLASSES, HEADS, SHEET = "classes.json", "heads.json", "attention.jpg"
WHOLE = {"train": 1_464, "val": 1_449, "trainval": 2_913}
N_TOY = 4  # of each class


class Config(Finite):
    """DINO's setting, as far as it is known: 60 % in the paper's figure 4 and in visualize_attention.py, 480 px there.

    Its evaluator is not released; 45.9 for a ViT-S/16, 22.0 untrained and 27.3 supervised are quoted from memory.
    """

    split: str = Field(default="val", pattern="^(train|val|trainval)$", description="of ImageSets/Segmentation")
    whole: bool = Field(default=True, description="all photos of the official list must be there; false: however many")
    size: int = Field(
        default=480, ge=16,
        description="pixels of both sides, to which photo (bilinear) and labels (nearest) are resized; --image_size",
    )  # fmt: skip
    mass: float = Field(default=0.6, gt=0, lt=1, description="of the attention that a mask holds; --threshold")
    max_broken_share: float = Field(default=0.0, ge=0, le=1, description="of photos; more unreadable ones stop it")


# The public evaluator's own defaults (Muzammal-Naseer/Intriguing-Properties-of-Vision-Transformers, 9aa9fea).
PRESETS = {"mass90": Config(size=512, mass=0.9)}


def check(data: Path, config: Config) -> dict[str, Any]:
    """Number of photos and the hash of their names."""
    names = _names(data, config)
    if config.whole and len(names) != WHOLE[config.split]:
        raise ValueError(
            f"voc_attention: {data} lists {len(names):,} photos in ImageSets/Segmentation/{config.split}.txt, expected "
            f"{WHOLE[config.split]:,}. A subset on purpose: whole=false, which is another protocol."
        )
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    photos, labels = [data / f"JPEGImages/{x}.jpg" for x in names], [data / f"SegmentationClass/{x}.png" for x in names]
    return {"n_photos": len(names), "list_sha256": digest, "sample_sha256": sampled(photos) + sampled(labels)}


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """Jaccard over all photos that have an object. A photo that was measured in `out` is not measured again."""
    from dora.weights.load import load_encoder
    from eval.discovery.heads import looked_at, measured_heads, read_pair, write_sheet
    from eval.finetune.records import measure_each
    from eval.finetune.team import joined

    data = machine.datasets[DATASET]
    names = _names(data, config)
    with joined(machine, out) as team:
        vit = load_encoder(checkpoint.path).to(team.ranks.device).requires_grad_(False)
        side = config.size - config.size % vit.patch_embed.patch_size[0]

        def read(i: int) -> "tuple[np.ndarray, np.ndarray]":
            return read_pair(data, names[i], side=side)

        def work(one: "tuple[np.ndarray, np.ndarray]") -> dict[str, Any]:
            return measured_heads(looked_at(vit, one[0], mass=config.mass), one[1])

        measured = measure_each(
            out, len(names), work, team, progress, config.max_broken_share, read=read, n_workers=machine.n_workers
        )
        if team.ranks.rank:
            return Result({}, (), n_samples=0)
        records = {i: record for i, record in measured.records.items() if record["labels"]}
        if not records:
            raise ValueError("voc_attention: no photo that could be read has an object. Unpack VOC 2012 again.")
        _write_details(out, records)

        def shown(i: int) -> Any:
            photo, target = read(i)
            return photo, target, looked_at(vit, photo, mass=config.mass)

        write_sheet(out / SHEET, {i: (names[i], record) for i, record in records.items()}, shown)
        notes = measured.notes
        if without := len(measured.records) - len(records):
            notes = (*notes, f"{without} photos without an object are left out")
        return Result(_metrics(records), (SHEET,), n_samples=len(records), notes=notes, cost=team.cost())


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Photographs of things that VOC has a class for, four of each class."""
    layout.write(folder, {"val": photographs(world, "val", N_TOY * times, layout.LABELS)})
    return Config(whole=False, size=world.height - world.height % 16)


def _names(data: Path, config: Config) -> list[str]:
    listing = data / "ImageSets" / "Segmentation" / f"{config.split}.txt"
    for part in ("JPEGImages", "SegmentationClass", f"ImageSets/Segmentation/{config.split}.txt"):
        if not (data / part).exists():
            raise missing(part, data, "voc_attention")
    names = listing.read_text().split()
    if not names:
        raise ValueError(f"voc_attention: {listing} lists no photo. Unpack VOC 2012 again.")
    return names


def _metrics(records: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Means over the objects of a photo, then over photos."""
    import numpy as np

    def mean(kind: str) -> float:
        return 100 * float(np.mean([np.max(record[kind], axis=1).mean() for record in records.values()]))

    heads = np.mean([np.mean(record["jaccard"], axis=0) for record in records.values()], axis=0)
    return {
        "jaccard": mean("jaccard"), "jaccard_void_excluded": mean("without_void"),
        "jaccard_one_head": 100 * float(heads.max()),
    }  # fmt: skip


def _write_details(out: Path, records: dict[int, dict[str, Any]]) -> None:
    """By class: the mean of its objects' best heads. By head: how often it is the best, and its own mean."""
    import numpy as np

    best: dict[int, list[float]] = {}
    chosen: list[int] = []
    for record in records.values():
        for label, of_heads in zip(record["labels"], record["jaccard"], strict=True):
            best.setdefault(label, []).append(max(of_heads))
            chosen.append(int(np.argmax(of_heads)))
    classes = [
        {"name": layout.NAMES[label - 1], "jaccard": 100 * float(np.mean(found)), "n_photos": len(found)}
        for label, found in sorted(best.items())
    ]
    heads = np.mean([np.mean(record["jaccard"], axis=0) for record in records.values()], axis=0).tolist()
    rows = [{"head": head, "jaccard": 100 * share, "n_best": chosen.count(head)} for head, share in enumerate(heads)]
    (out / CLASSES).write_text(json.dumps(classes, indent=1))
    (out / HEADS).write_text(json.dumps(rows, indent=1))
