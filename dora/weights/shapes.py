"""The architecture that weights are of, told by their shapes."""

import logging
import math
import re
from collections.abc import Mapping
from typing import Any, cast

import timm
import torch
from pydantic import ValidationError
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from dora.config import BackboneConfig
from dora.method.vit import build_vit
from dora.weights.read import Source

log = logging.getLogger("dora.weights")

_SIZES = {
    192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1408: "giant", 1536: "giant",
    1664: "gigantic",
}  # by width  # fmt: skip
_HEAD_WIDTH, _WIDEST = 64, 1024  # so wide are the heads of published ViTs up to there; of wider ones not all


def architecture_of(source: Source, tensors: Mapping[str, Tensor]) -> BackboneConfig:
    """The architecture of renamed tensors: as the file says, else as their shapes do, with the usual number of heads.

    Raises:
        ValueError: if they are those of no plain ViT or of another version of ours, or the number of heads cannot be
            told.
    """
    if source.dora:
        try:
            # Only the part that is needed, so that files stay readable when other options come and go.
            return BackboneConfig.model_validate(source.dora["config"]["backbone"])
        except (KeyError, TypeError, ValidationError) as error:
            raise ValueError(f"it was written by another version of dora: {error}") from None
    said = source.config
    arguments: Mapping[str, Any] = said.get("model_args", {})
    if "architecture" in said and timm.is_model(said["architecture"]):
        sizes = {name: arguments[name] for name in BackboneConfig.model_fields if arguments.get(name) is not None}
        return BackboneConfig(architecture=said["architecture"], image_size=image_size(tensors), **sizes)
    return infer(tensors, num_heads=heads_of(source))


def heads_of(source: Source) -> int | None:
    """The number of attention heads that the file says, or the config.json beside it; None: neither does."""
    said = source.dora.get("config", {}).get("backbone", {}) if source.dora else source.config
    arguments: Mapping[str, Any] = said.get("model_args") or {}
    heads = said.get("num_heads") or said.get("num_attention_heads") or arguments.get("num_heads")
    if heads is None and timm.is_model(said.get("architecture") or ""):
        heads = _sizes(said["architecture"])["num_heads"]
    return heads


def config_of(source: Source, tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """The config.json beside the file, if it is of the network with these renamed tensors; else empty.

    Ours need none. In a folder of downloads it may be another model's, which is told.
    """
    patch = tensors.get("backbone.patch_embed.proj.weight")
    if source.dora or not source.config or patch is None:
        return {}
    have = {
        "hidden_size": patch.shape[0], "num_features": patch.shape[0], "patch_size": patch.shape[-1],
        "num_hidden_layers": _depth(tensors),
    }  # fmt: skip
    other = [name for name, value in have.items() if source.config.get(name, value) != value]
    if not other:
        return source.config
    differing = ", ".join(f"{name} {source.config[name]} there, {have[name]} here" for name in other)
    log.warning("the config.json beside %s is another network's (%s) and not read", source.path, differing)
    return {}


def infer(tensors: Mapping[str, Tensor], *, num_heads: int | None = None) -> BackboneConfig:
    """The architecture that these shapes are of, with the sizes in which timm's nearest one differs.

    Raises:
        ValueError: if they are those of no plain ViT, or `num_heads` is not given and there is no usual one for its
            width.
    """
    patch, fc1 = tensors.get("backbone.patch_embed.proj.weight"), tensors.get("backbone.blocks.0.mlp.fc1.weight")
    fc2 = tensors.get("backbone.blocks.0.mlp.fc2.weight")
    if patch is None or patch.ndim != 4 or fc1 is None or fc2 is None:
        raise ValueError("these are not the weights of a plain ViT (no patch embedding or no block with an MLP).")
    width, depth = patch.shape[0], _depth(tensors)
    is_gated = fc1.shape[0] == 2 * fc2.shape[1]
    name = _nearest(width, patch.shape[-1], is_scaled="backbone.blocks.0.ls1.gamma" in tensors, is_gated=is_gated)
    usual = _sizes(name)
    if num_heads is None:
        num_heads = usual["num_heads"] if usual["embed_dim"] == width else _heads_of_64(width)
    wanted = {
        "patch_size": patch.shape[-1], "embed_dim": width, "depth": depth, "num_heads": num_heads,
        "mlp_ratio": _ratio(fc1.shape[0], width),
    }  # fmt: skip
    differing: dict[str, Any] = {key: value for key, value in wanted.items() if value != usual[key]}
    return BackboneConfig(architecture=name, image_size=image_size(tensors), **differing)


def image_size(tensors: Mapping[str, Tensor]) -> int:
    """Pixels of the square images that the position embedding was learnt for.

    Raises:
        ValueError: if it is not one of [CLS] and a square grid.
    """
    learnt, patch = tensors.get("backbone.pos_embed"), tensors.get("backbone.patch_embed.proj.weight")
    if learnt is None or patch is None:
        raise ValueError("these are not the weights of a plain ViT (no position or patch embedding).")
    return side(learnt) * patch.shape[-1]


def side(learnt: Tensor) -> int:
    """Patches on a side of a position embedding's grid.

    Raises:
        ValueError: if it is not one of [CLS] and a square grid.
    """
    grid = math.isqrt(max(0, learnt.shape[1] - 1)) if learnt.ndim == 3 else 0
    if grid == 0 or grid * grid + 1 != learnt.shape[1]:
        raise ValueError(
            f"its position embedding is {_shape(learnt)}, expected 1 x (1 + n x n) x width: [CLS] and a square grid."
        )
    return grid


def looks_like(tensors: Mapping[str, Tensor]) -> str:
    """What to say to who has taken another architecture than the file's."""
    patch = tensors.get("backbone.patch_embed.proj.weight")
    if patch is None:
        return "It has no patch embedding: is it a ViT?"
    if "backbone.reg_token" in tensors:
        n_registers = tensors["backbone.reg_token"].shape[1]
        return f"It has {n_registers} register tokens, with which no backbone here is built: take weights without."
    scaled = ", LayerScale" if "backbone.blocks.0.ls1.gamma" in tensors else ""
    said = f"It looks like width {patch.shape[0]}, depth {_depth(tensors)}, patch {patch.shape[-1]}{scaled}"
    try:
        own = infer(tensors).model_dump(exclude_unset=True, exclude={"image_size"})
    except ValueError:
        return f"{said}."
    values = " ".join(f"pretrain.backbone.{key}={value}" for key, value in own.items())
    return f"{said} (of heads the usual number, which shapes do not tell): try {values}"


def _heads_of_64(width: int) -> int:
    if width % _HEAD_WIDTH or width > _WIDEST:
        raise ValueError(f"the number of heads of a ViT of width {width} cannot be told: name an architecture.")
    return width // _HEAD_WIDTH


def _depth(tensors: Mapping[str, Tensor]) -> int:
    numbers = [re.match(r"backbone\.blocks\.(\d+)\.", name) for name in tensors]
    return 1 + max((int(number[1]) for number in numbers if number), default=-1)


def _nearest(width: int, patch: int, *, is_scaled: bool, is_gated: bool) -> str:
    size = _SIZES.get(width, "small")
    if is_gated:
        return "vit_giant_patch14_dinov2"
    names = (
        (f"vit_{size}_patch14_dinov2",) if is_scaled else (f"vit_{size}_patch{patch}_224", f"vit_{size}_patch16_224")
    )
    fallback = "vit_small_patch14_dinov2" if is_scaled else "vit_small_patch16_224"
    return next((name for name in names if timm.is_model(name)), fallback)


def _sizes(architecture: str) -> dict[str, Any]:
    """An architecture's own sizes, from one that is built without memory."""
    with torch.device("meta"):
        vit = build_vit(BackboneConfig(architecture=architecture), drop_path=False)
    block = cast(Block, vit.blocks[0])
    n_hidden = cast(nn.Linear, block.mlp.fc1).out_features
    return {
        "patch_size": vit.patch_embed.patch_size[0], "embed_dim": vit.embed_dim, "depth": len(vit.blocks),
        "num_heads": cast(Attention, block.attn).num_heads, "mlp_ratio": _ratio(n_hidden, vit.embed_dim),
    }  # fmt: skip


def _ratio(n_hidden: int, width: int) -> float:
    """The ratio for which timm, which cuts width times ratio to a whole number, comes to `n_hidden`."""
    ratio = n_hidden / width
    return ratio if int(width * ratio) == n_hidden else math.nextafter(ratio, math.inf)


def _shape(tensor: Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape) or "a single number"
