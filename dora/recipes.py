"""A run is a function that returns one complete, immutable Recipe.

Change single values by dotted path, e.g. override(demo(), ["pretrain.epochs=10"]); a wrong path or value is
refused with the valid names. `load("venice/k=2")` is a recipe with one of the paper's ablations (dora/ablations.py).
To keep a variant, write a function beside these.
"""

import difflib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from dora import ablations
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

# As DINO has them: two global views, each frame's boxes its own, the second view sharper and at times solarized; local
# crops are mirrored too.
_DINO_VIEWS: dict[str, Any] = {
    "one_global_box": False, "global_blur_probability": (1.0, 0.1), "solarize_probability": (0.0, 0.2),
    "local_flip_probability": 0.5,
}  # fmt: skip


def demo() -> Recipe:
    """DoRA in miniature: a rendered 60 s walk, a ViT of 1 M weights, minutes on two CPU cores.

    It runs the same code as the paper's setting and shows that the chain works; its scores say little about the
    method. Hardware: 2 CPU cores, 3 GB. Time, with the benchmarks: README.md. Numbers to expect:
    docs/demo-report.html.
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


def miniature() -> Recipe:
    """demo() for as long as it takes to learn something, with views in which things can be seen: 4,800 steps.

    The walk takes five minutes. Half of its things are less than a twentieth of a frame wide and an eighth high, so
    clips are cut from boxes of 0.03 to 0.6 of it, and frames are twice as large as the demo's. In the paper's colours
    the teacher is sharper, and a view of 64 pixels is blurred as much as one of 224 would be. Two things are not the
    paper's: the student also sees a second view of each frame, whole and made as DINO makes views, and KoLeo keeps the
    [CLS] tokens of eight clips of one street apart. miniature_one_view() is without the first. docs/learning.md has the
    numbers to expect, docs/learning-tried.md what was tried.
    Hardware: 2 CPU cores and 3 GB, or a GPU. Time, reckoned from shorter stretches: 54 minutes on two cores of an Intel
    Xeon, about 60 on two of an AMD EPYC, 85 on one; 50 on one in bf16, for which the EPYC has instructions
    (pretrain.precision=bf16). 11 on an H100.
    """
    short = demo()
    pretrain = short.pretrain
    augment = pretrain.augment.model_copy(update={
        "clip_scale": (0.03, 0.6), "local_scale": (0.2, 0.6), "blur_sigma": (0.1, 0.6), **_DINO_VIEWS,
    })  # fmt: skip
    loss = pretrain.loss.model_copy(update={
        "teacher_temperature": 0.03, "warmup_teacher_temperature": 0.03, "koleo_weight": 0.3,
    })  # fmt: skip
    optimizer = pretrain.optimizer.model_copy(update={"lr_per_256": 1e-2, "teacher_momentum": 0.996})
    return Recipe(
        videos=(MiniatureVideo(duration_s=300, width=640, height=360),),
        shards=short.shards.model_copy(update={"short_side": 320}),
        pretrain=pretrain.model_copy(update={
            "epochs": 150, "augment": augment, "loss": loss, "optimizer": optimizer,
        }),
    )  # fmt: skip


def miniature_one_view() -> Recipe:
    """miniature() in the views of the paper and the authors' code: one of each frame, in a box that a clip shares."""
    recipe = miniature()
    views = {name: getattr(AugmentConfig(), name) for name in _DINO_VIEWS}
    augment = recipe.pretrain.augment.model_copy(update=views)
    return recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update={"augment": augment})})


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


def venice_dino() -> Recipe:
    """DINO on the frames of venice()'s clips, as many of them in the same order: the paper's baseline.

    Views, temperatures and peak rate are those that DINO's authors publish for ViT-S/16 (their README's command,
    github.com/facebookresearch/dino), the rate by images: a clip is eight of them. The rest is venice()'s, such as the
    last rate of 1e-5, where that command has 1e-6. What the paper's authors took for their baseline is not known.
    Number to expect (project page): ImageNet linear 33.8 %.
    """
    return _baseline(
        venice(), "dino", n_local_crops=8, local_size=96, teacher_temperature=0.07, lr_per_256=8 * 5e-4,
        n_prototypes=65536,
    )  # fmt: skip


def venice_ibot() -> Recipe:
    """The other baseline: iBOT on the frames of venice()'s clips, as published for ViT-S/16.

    Views, temperatures, masks and the 8192 prototypes are those of github.com/bytedance/ibot, the peak rate by images;
    the rest is venice()'s, as in venice_dino().
    """
    return _baseline(
        venice(), "ibot", n_local_crops=10, local_size=96, teacher_temperature=0.07, lr_per_256=8 * 5e-4,
        n_prototypes=8192,
    )  # fmt: skip


def demo_dino() -> Recipe:
    """demo() with DINO in DoRA's place."""
    return _baseline(
        demo(), "dino", n_local_crops=4, local_size=32, teacher_temperature=0.04, lr_per_256=1e-2, n_prototypes=512
    )


def demo_ibot() -> Recipe:
    """demo() with iBOT in DoRA's place."""
    return _baseline(
        demo(), "ibot", n_local_crops=4, local_size=32, teacher_temperature=0.04, lr_per_256=1e-2, n_prototypes=512
    )


def miniature_dino() -> Recipe:
    """miniature() with DINO in DoRA's place, its views cut from the same boxes of the walk and as much recoloured."""
    return _miniature_baseline("dino")


def miniature_ibot() -> Recipe:
    """miniature() with iBOT in DoRA's place, its views cut from the same boxes of the walk and as much recoloured."""
    return _miniature_baseline("ibot")


def _miniature_baseline(objective: Literal["dino", "ibot"]) -> Recipe:
    dora = miniature()
    recipe = _baseline(
        dora, objective, n_local_crops=4, local_size=32, teacher_temperature=0.03, lr_per_256=1e-2, n_prototypes=512
    )
    alike = ("clip_scale", "clip_size", "local_scale", "jitter", "blur_sigma")
    augment = recipe.pretrain.augment.model_copy(update={name: getattr(dora.pretrain.augment, name) for name in alike})
    return recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update={"augment": augment})})


def _baseline(
    recipe: Recipe, objective: Literal["dino", "ibot"], *, n_local_crops: int, local_size: int,
    teacher_temperature: float, lr_per_256: float, n_prototypes: int,
) -> Recipe:  # fmt: skip
    """The same clips, networks and loop; what is given, and the views, as DINO and iBOT have them."""
    dora = recipe.pretrain
    augment = AugmentConfig(
        clip_scale=None, global_size=dora.augment.global_size,
        global_scale=(0.4, 1.0) if objective == "dino" else (0.25, 1.0), global_resize="bicubic",
        n_local_crops=n_local_crops, local_size=local_size,
        local_scale=(0.05, 0.4) if objective == "dino" else (0.05, 0.25), **_DINO_VIEWS,
    )  # fmt: skip
    return Recipe(
        videos=recipe.videos, shards=recipe.shards,
        pretrain=dora.model_copy(update={
            "objective": objective, "augment": augment,
            "head": dora.head.model_copy(update={"n_prototypes": n_prototypes}),
            "loss": dora.loss.model_copy(update={"teacher_temperature": teacher_temperature}),
            "optimizer": dora.optimizer.model_copy(update={"lr_per_256": lr_per_256}),
        }),
    )  # fmt: skip


M = TypeVar("M", bound=Frozen)

RECIPES: dict[str, Callable[[], Recipe]] = {run.__name__: run for run in (
    demo, demo_dino, demo_ibot, miniature, miniature_dino, miniature_ibot, miniature_one_view, venice, venice_dino,
    venice_ibot, walking_tours,
)}  # fmt: skip


def names() -> list[str]:
    """Names that `load` knows."""
    return list(RECIPES)


def choices() -> list[str]:
    """Names for a form to offer: those of `names`, and those ablations that fit the paper's setting or a miniature."""
    return [
        *RECIPES,
        *(
            f"{base}/{one}"
            for base in ("venice", "demo", "miniature")
            for one in ablations.ABLATIONS
            if _fits(base, one)
        ),
    ]


def load(name: str) -> Recipe:
    """The recipe of that name, or of "name/ablation" with the ablation's values replaced.

    Raises:
        ValueError: for an unknown name, listing the known ones, or values that do not fit the recipe.
    """
    base, _, ablation = name.partition("/")
    if base not in RECIPES:
        raise ValueError(f"unknown recipe {base!r}. Known: {', '.join(RECIPES)}.")
    recipe = RECIPES[base]()
    return override(recipe, ablations.load(ablation).overrides) if ablation else recipe


def _fits(base: str, ablation: str) -> bool:
    """Not all do: the demo's clips have too few frames to be cut seven times."""
    try:
        load(f"{base}/{ablation}")
    except ValueError:
        return False
    return True


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
        path = path.strip()
        try:
            given = _parse(text.strip())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        _assign(plain, path.split("."), given, path)
    try:
        return type(value).model_validate(plain)
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """A pydantic error as one sentence a person can act on."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg'].removeprefix('Value error, ')}"
        + ("" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})")  # several values do not fit
        for problem in error.errors()
    )


class _Given(dict[str, Any]):
    """A part that was not there before: its names are all welcome here, and checked with the rest."""


def _parse(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_hook=_Given)
    except json.JSONDecodeError:
        return text  # a bare word such as bf16


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _refuse(text)


def _refuse(constant: str) -> Any:
    raise ValueError(f"expected a number that can be written down, got {constant}")


def _assign(plain: Any, path: Sequence[str], value: Any, whole: str) -> None:
    first, *rest = path
    known = [str(index) for index in range(len(plain))] if isinstance(plain, list) else list(plain)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(plain, _Given):
        plain.setdefault(first)
    elif first not in known:
        close = difflib.get_close_matches(first, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"{whole}: there is no {first!r} here.{hint} Known: {', '.join(known)}.")
    key: Any = int(first) if isinstance(plain, list) else first
    if rest and plain[key] is None:
        plain[key] = _Given()  # a part that is left out so far
    if rest and not isinstance(plain[key], dict | list):
        raise ValueError(f"{whole}: {first} is a single value and has no {rest[0]!r} inside.")
    if rest:
        _assign(plain[key], rest, value, whole)
    else:
        plain[key] = value
