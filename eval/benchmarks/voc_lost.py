"""PASCAL VOC: one object found in each photo without any label, by LOST on frozen features; CorLoc, in percent.

CorLoc is the share of the photos where the box that was found overlaps a true one by half (eval/discovery/lost.py
finds it). `CorLoc_dino_seg` is that of LOST's baseline, the largest part of one attention head's mask, as it was
published, and `CorLoc_dino_seg_largest` as it was meant. boxes.json has every box, classes.json CorLoc by class.
docs/discovery.md tells more.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.config import Finite
from dora.data.labelled import voc as layout
from dora.data.labelled.photographs import photographs
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result
from eval.discovery.photos import COCO_FOLDERS, Photos, Thing, coco_listing, coco_photos, voc_photos
from eval.identity import sampled

if TYPE_CHECKING:
    import numpy as np
    from timm.models.vision_transformer import VisionTransformer

    from eval.finetune.team import Team

VERSION = 2
PROTOCOL = "lost-corloc-k100"
DATASET = "voc2012"
HOW_TO_GET = (
    "`dora data get voc2012` does; or unpack VOCtrainval_11-May-2012.tar: the folder VOCdevkit/VOC2012. VOC 2007 is "
    "looked for beside it. For COCO20k the folder of COCO 2014 (or 2017), and in it or named by ids= the list "
    "coco_20k_filenames.txt of valeoai/LOST."
)
HEADLINE = "CorLoc"
COST = "estimated, not measured: 11,540 photos of about 500 px, 20 minutes at 10 a second. No training."
PARALLEL = True

BOXES, CLASSES, SHEET = "boxes.json", "classes.json", "lost.jpg"
# Photos of the official lists.
WHOLE = {
    ("voc2007", "trainval"): 5_011, ("voc2012", "train"): 5_717, ("voc2012", "val"): 5_823,
    ("voc2012", "trainval"): 11_540, ("coco20k", ""): 19_817,
}  # fmt: skip
N_TOY = {"train": 3, "val": 1}  # of each class


class Config(Finite):
    """LOST's setting for a ViT-S/16 (valeoai/LOST, README and main_lost.py, fcedbec).

    Which set the paper's figure (57.1) is of is not known: it reports 55.8 for DINO, and LOST has 64.0 on VOC 2012.
    """

    photos: Literal["voc2012", "voc2007", "coco20k"] = Field(default="voc2012", description="--dataset")
    split: Literal["trainval", "train", "val"] = Field(default="trainval", description="of VOC; --set, as the README")
    ids: Path | None = Field(default=None, description="list of COCO20k's photos; null: coco_20k_filenames.txt there")
    whole: bool = Field(default=True, description="all photos of the official list must be there; false: however many")
    k_patches: int = Field(default=100, ge=1, description="patches from which the seed grows; --k_patches")
    no_hard: bool = Field(default=False, description="truncated and difficult objects do not count; --no_hard")
    least_overlap: float = Field(default=0.5, gt=0, le=1, description="of a box that counts as found; CorLoc's")
    dino_seg_head: int = Field(default=4, ge=0, description="of the last layer, for DINO-seg; --dinoseg_head")
    dino_seg_mass: float = Field(default=0.6, gt=0, lt=1, description="of its attention that the mask holds")
    max_broken_share: float = Field(default=0.0, ge=0, le=1, description="of photos; more unreadable ones stop it")


PRESETS = {"voc2007": Config(photos="voc2007"), "coco20k": Config(photos="coco20k")}


def check(data: Path, config: Config) -> dict[str, Any]:
    """Number of photos and the hash of their names."""
    if config.photos == "coco20k":
        numbers, folder, _ = coco_listing(data, config.ids)
        names = [str(number) for number in numbers]
        files = [data / folder / COCO_FOLDERS[folder].format(number) for number in numbers]
    else:
        photos = voc_photos(data, _year(config), config.split)
        names, files = photos.names, [photos.path(i) for i in range(len(photos.names))]
    expected = WHOLE.get((config.photos, "" if config.photos == "coco20k" else config.split))
    if config.whole and expected is not None and len(names) != expected:
        raise ValueError(
            f"voc_lost: {data} lists {len(names):,} photos for {config.photos}, expected {expected:,}. "
            "A subset on purpose: whole=false, which is another protocol."
        )
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    return {"n_photos": len(names), "list_sha256": digest, "sample_sha256": sampled(files)}


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """CorLoc over all photos that have an object. A photo that was measured in `out` is not measured again."""
    import numpy as np

    from dora.weights.load import load_encoder
    from eval.finetune.records import measure_each
    from eval.finetune.team import joined
    from eval.images import open_photo

    with joined(machine, out) as team:
        photos = _photos(machine.datasets[DATASET], config)
        vit = load_encoder(checkpoint.path).to(team.ranks.device).requires_grad_(False)

        def read(i: int) -> tuple[int, "np.ndarray", list[Thing]]:
            # By PIL, which does not turn a photo as its camera says: the boxes are of the stored pixels.
            return i, np.array(open_photo(photos.path(i))), photos.things(i)

        def work(one: tuple[int, "np.ndarray", list[Thing]]) -> dict[str, Any]:
            i, photo, things = one
            return {"photo": photos.names[i], **_found(vit, photo, config), "truth": _counted(things, config)}

        measured = measure_each(
            out,
            len(photos.names),
            work,
            team,
            progress,
            config.max_broken_share,
            read=read,
            n_workers=machine.n_workers,
        )
        if team.ranks.rank:
            return Result({}, (), n_samples=0)
        notes = (*measured.notes, *_fewer_heads(vit, config))
        return _result(measured.records, notes, photos, config, out, team)


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Photographs of things that VOC has a class for, four of each class, and boxes of all that is on them."""
    layout.write(folder, {subset: photographs(world, subset, n * times, layout.LABELS) for subset, n in N_TOY.items()})
    return Config(whole=False)


def _fewer_heads(vit: "VisionTransformer", config: Config) -> tuple[str, ...]:
    """What is to be said where DINO-seg's head is not there."""
    from timm.models.vision_transformer import Block

    n_heads = int(cast(Any, cast(Block, vit.blocks[-1]).attn).num_heads)
    if config.dino_seg_head < n_heads:
        return ()
    return (f"DINO-seg by head {n_heads - 1}, the last of {n_heads}: there is no head {config.dino_seg_head}",)


def _year(config: Config) -> Literal[2007, 2012]:
    return 2007 if config.photos == "voc2007" else 2012


def _photos(data: Path, config: Config) -> Photos:
    if config.photos == "coco20k":
        return coco_photos(data, config.ids)
    return voc_photos(data, _year(config), config.split)


def _found(vit: "VisionTransformer", photo: "np.ndarray", config: Config) -> dict[str, Any]:
    """The boxes that LOST and DINO-seg find."""
    from eval.discovery.attention_masks import dino_seg
    from eval.discovery.last_layer import last_layer
    from eval.discovery.lost import discover

    seen = last_layer(vit, photo)
    size = (photo.shape[0], photo.shape[1])
    found = discover(seen.keys, seen.grid, patch=seen.patch, size=size, n_candidates=config.k_patches)
    head = min(config.dino_seg_head, len(seen.attention) - 1)  # _fewer_heads says so
    boxes = {
        name: dino_seg(
            seen.attention, seen.grid, head=head, mass=config.dino_seg_mass, patch=seen.patch, size=size,
            as_published=as_published,
        )
        for name, as_published in (("dino_seg", True), ("dino_seg_largest", False))
    }  # fmt: skip
    return {"lost": found.box, "seed": [*divmod(found.seed, seen.grid[1])], "patch": seen.patch, **boxes}


def _counted(things: list[Thing], config: Config) -> list[list[Any]]:
    return [[thing.name, *thing.box] for thing in things if not (config.no_hard and thing.is_hard)]


def _result(
    records: dict[int, Any], notes: tuple[str, ...], photos: Photos, config: Config, out: Path, team: "Team"
) -> Result:
    from eval.discovery.corloc import by_class, corloc, write_sheet

    counted = {i: record for i, record in records.items() if record["truth"]}
    if not counted:
        raise ValueError("voc_lost: no photo that could be read has an object that counts. no_hard=true leaves few.")
    without = len(records) - len(counted)
    if without:
        notes = (*notes, f"{without} photos without an object that counts are left out")
    metrics = {
        "CorLoc" if method == "lost" else f"CorLoc_{method}": corloc(counted.values(), method, config.least_overlap)
        for method in ("lost", "dino_seg", "dino_seg_largest")
    }
    (out / BOXES).write_text(json.dumps(list(records.values()), indent=0))
    (out / CLASSES).write_text(json.dumps(by_class(counted.values(), config.least_overlap), indent=1))
    write_sheet(out / SHEET, counted, photos.path, config.least_overlap)
    return Result(metrics, (SHEET,), n_samples=len(counted), notes=notes, cost=team.cost())
