"""A run is a function that returns one complete, immutable Recipe.

Change single values by dotted path, e.g. override(demo(), ["pretrain.epochs=10"]); a wrong path or value is
refused with the valid names. To keep a variant, write a function beside these.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from dora.config import (
    AugmentConfig,
    BackboneConfig,
    ClipConfig,
    Frozen,
    HeadConfig,
    LossConfig,
    MiniatureVideo,
    OptimizerConfig,
    PretrainConfig,
    Recipe,
    ShardsConfig,
    WalkingTour,
)
from dora.data import listing
from dora.data.walking_tours import CITIES


def demo() -> Recipe:
    """DoRA in miniature: a rendered 60 s walk, a ViT of 1 M weights, minutes on two CPU cores.

    It runs the same code as the paper's setting and shows that the chain works; its scores say little about the
    method. Hardware: 2 CPU cores, 3 GB. Time: 2 to 5 minutes. Numbers to expect: in the README.
    """
    return Recipe(
        videos=(MiniatureVideo(),),
        shards=ShardsConfig(fps=6, short_side=160, frames_per_shard=200),
        pretrain=PretrainConfig(
            clip=ClipConfig(n_frames=4, gap_s=0.5),
            augment=AugmentConfig(clip_size=96, global_size=64, n_local_crops=4, local_size=32),
            backbone=BackboneConfig(
                architecture="vit_tiny_patch16_224", image_size=64, patch_size=8, embed_dim=144, depth=4, num_heads=6,
                drop_path_rate=0.0,
            ),
            head=HeadConfig(n_prototypes=512, hidden_dim=256, bottleneck_dim=64),
            loss=LossConfig(warmup_teacher_temperature_epochs=0),
            optimizer=OptimizerConfig(
                lr_per_256=1e-2, warmup_epochs=1, freeze_last_layer_epochs=0, teacher_momentum=0.996
            ),
            clips_per_batch=8, epochs=4,
            steps_per_epoch=32,  # minutes, however long a user's own video is
            precision="fp32",
        ),
    )  # fmt: skip


def venice() -> Recipe:
    """The paper's main setting: ViT-S/16, 100 epochs on the Venice walk (1 h 50 min).

    Hardware in the paper: 8 A100. Numbers to expect (arXiv:2310.08584 and its project page): ADE20K 35.4 mIoU,
    DAVIS-2017 58.4 J&F, ImageNet linear 44.5 % and k-NN about 36 %. The authors start a clip at each of 60 raw
    frames a second; stored at 10 a second, each start is visited six times an epoch, so the steps are as many.
    """
    return Recipe(videos=(WalkingTour(name="venice"),), pretrain=PretrainConfig(passes_per_epoch=6))


def walking_tours() -> Recipe:
    """The paper's WT-all: venice()'s setting on all ten videos, about 16 hours of walking."""
    return Recipe(videos=tuple(WalkingTour(name=city) for city in CITIES), pretrain=PretrainConfig(passes_per_epoch=6))


M = TypeVar("M", bound=Frozen)

RECIPES: dict[str, Callable[[], Recipe]] = {run.__name__: run for run in (demo, venice, walking_tours)}


def names() -> list[str]:
    """Names that `load` knows."""
    return list(RECIPES)


def load(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}. Known: {', '.join(RECIPES)}.")
    return RECIPES[name]()


def for_videos(recipe: Recipe, given: Sequence[str]) -> Recipe:
    """The same run on other footage: files, addresses, cities of the walking tours, or text files that list such.

    Raises:
        ValueError, FileNotFoundError: for a list that is none, or a video that is named twice.
    """
    return Recipe(videos=listing.read(given), shards=recipe.shards, pretrain=recipe.pretrain)


def override(value: M, assignments: Iterable[str]) -> M:
    """`value` with single fields replaced, each given as "dotted.path=value" (the value in JSON, or a bare word).

    Raises:
        ValueError: for a path that does not exist, with the names that do, or a value of the wrong type or range.
    """
    plain = value.model_dump(mode="json")
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"expected path=value, got {assignment!r}, e.g. pretrain.epochs=10.")
        _assign(plain, path.strip().split("."), _parse(text.strip()), path.strip())
    try:
        return type(value).model_validate(plain)
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """A pydantic error as one sentence a person can act on."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']} (got {problem['input']!r})"
        for problem in error.errors()
    )


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text  # a bare word such as bf16


def _assign(plain: Any, path: Sequence[str], value: Any, whole: str) -> None:
    first, *rest = path
    known = [str(index) for index in range(len(plain))] if isinstance(plain, list) else list(plain)  # pyright: ignore[reportUnknownVariableType]
    if first not in known:
        close = difflib.get_close_matches(first, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"{whole}: there is no {first!r} here.{hint} Known: {', '.join(known)}.")
    key: Any = int(first) if isinstance(plain, list) else first
    if rest and not isinstance(plain[key], dict | list):
        raise ValueError(f"{whole}: {first} is a single value and has no {rest[0]!r} inside.")
    if rest:
        _assign(plain[key], rest, value, whole)
    else:
        plain[key] = value
