"""A checkpoint of ours in the layouts that timm, Hugging Face's transformers and DINO's own scripts read."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from dora.config import PretrainConfig
from dora.data.augment import MEAN, STD
from dora.data.disk import require_space
from dora.weights.card import model_card, shown
from dora.weights.load import load_encoder
from dora.weights.read import Source, Which, read

Format = Literal["timm", "huggingface", "dino"]
_CROP_SHARE = 224 / 256  # as our benchmarks look at a photo: short side to 256, the centre's 224
_BICUBIC = 3  # in PIL's numbers
_OF_DINO = re.compile(
    r"backbone\.(cls_token|pos_embed|masked_embed|(patch_embed\.proj|norm|"
    r"blocks\.\d+\.(norm1|attn\.qkv|attn\.proj|norm2|mlp\.fc1|mlp\.fc2))\.(weight|bias))"
)


def export(checkpoint: Path, out: Path, *, to: Format, which: Which = "teacher", head: bool = False) -> Path:
    """Write a folder with the weights, what their reader wants beside them, and a model card.

    timm and huggingface get the backbone of `which`; dino gets both networks, with `head` their heads too. The folder
    appears whole or not at all.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        FileExistsError: if `out` is there and not empty.
        ValueError: if it is no checkpoint of ours, or cannot be expressed in that format.
        OSError: if there is no space.
    """
    if head and to != "dino":
        raise ValueError(f"{to} has no place for a projection head. Take --to dino, or leave --head out.")
    source = read(checkpoint, which)
    try:
        config = PretrainConfig.model_validate(source.dora["config"])
    except KeyError:
        raise ValueError(f"{source.path} is no checkpoint that dora wrote: export takes only those.") from None
    except ValidationError as error:
        raise ValueError(f"{source.path} was written by another version of dora: {error}") from None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already and not an empty folder. Name another with --out.")
    writers: dict[Format, Callable[[Path], None]] = {
        "timm": lambda folder: _write_timm(folder, config, load_encoder(source.path, which)),
        "huggingface": lambda folder: _write_huggingface(folder, load_encoder(source.path, which)),
        "dino": lambda folder: _write_dino(folder, config, source, head=head),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    require_space(out.parent, source.path.stat().st_size, "export")
    temporary = out.with_name(f".tmp-{out.name}-{os.getpid()}")
    temporary.mkdir()
    try:
        writers[to](temporary)
        card = model_card(source.path, config, step=source.dora.get("step"), to=to, which=source.which or which)
        (temporary / "README.md").write_text(card)
        for path in temporary.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _write_timm(folder: Path, config: PretrainConfig, vit: VisionTransformer) -> None:
    """The layout of timm's models on the hub, which `local-dir:` reads too."""
    side = config.backbone.image_size
    sizes = config.backbone.model_dump(
        include={"patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio"}, exclude_none=True
    )
    save_file(_contiguous(vit.state_dict()), folder / "model.safetensors", {"format": "pt"})
    _write_json(folder / "config.json", {
        "architecture": config.backbone.architecture, "num_classes": 0, "num_features": vit.num_features,
        "global_pool": "token", "model_args": {"img_size": side, **sizes},
        "pretrained_cfg": {
            "input_size": [3, side, side], "fixed_input_size": True, "interpolation": "bicubic",
            "crop_pct": _CROP_SHARE, "crop_mode": "center", "mean": MEAN, "std": STD, "num_classes": 0,
            "pool_size": None, "first_conv": "patch_embed.proj", "classifier": "head",
        },
    })  # fmt: skip


def _write_huggingface(folder: Path, vit: VisionTransformer) -> None:
    """ViTModel, in the names that every version of transformers reads; it has no pooler."""
    block = cast(Block, vit.blocks[0])
    patch, n_hidden = vit.patch_embed.patch_size[0], cast(torch.nn.Linear, block.mlp.fc1).out_features
    side = cast(tuple[int, int], vit.patch_embed.img_size)[0]
    save_file(to_huggingface(vit.state_dict()), folder / "model.safetensors", {"format": "pt"})
    _write_json(folder / "config.json", {
        "architectures": ["ViTModel"], "model_type": "vit", "hidden_size": vit.embed_dim,
        "num_hidden_layers": len(vit.blocks), "num_attention_heads": cast(Attention, block.attn).num_heads,
        "intermediate_size": n_hidden, "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02,
        "layer_norm_eps": cast(torch.nn.LayerNorm, vit.norm).eps,  # ViTModel's own default is 1e-12
        "image_size": side, "patch_size": patch, "num_channels": 3, "qkv_bias": True, "encoder_stride": patch,
        "torch_dtype": "float32",
    })  # fmt: skip
    _write_json(folder / "preprocessor_config.json", {
        "image_processor_type": "BitImageProcessor", "do_convert_rgb": True, "do_resize": True,
        "size": {"shortest_edge": round(side / _CROP_SHARE)}, "resample": _BICUBIC, "do_center_crop": True,
        "crop_size": {"height": side, "width": side}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    })  # fmt: skip


def to_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A plain ViT's tensors under the names of Hugging Face's ViTModel, query, key and value apart.

    Raises:
        ValueError: for what a ViTModel has not.
    """
    around = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    inside = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm",
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    named: dict[str, Tensor] = {}
    for name, value in tensors.items():
        module, _, kind = name.rpartition(".")
        start = ""
        if module.startswith("blocks."):
            _, number, module = module.split(".", 2)
            start = f"encoder.layer.{number}."
        if module == "attn.qkv":
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            named |= {f"{start}attention.attention.{part}.{kind}": piece for part, piece in parts}
        elif name in around or module in inside:
            named[around.get(name) or f"{start}{inside[module]}.{kind}"] = value
        else:
            raise ValueError(f"Hugging Face's ViTModel has no place for {name}. Take --to timm.")
    return _contiguous(named)


def _write_dino(folder: Path, config: PretrainConfig, source: Source, *, head: bool) -> None:
    """The networks as DINO's training saves them, with arguments that are plain values; iBOT's mask token too.

    Raises:
        ValueError: for what DINO's ViT has not.
    """
    networks: dict[str, dict[str, Tensor]] = {}
    names: tuple[Which, ...] = ("student", "teacher")
    for name in names:
        tensors = {key: value for key, value in read(source.path, name).tensors.items() if head or "head." not in key}
        if (mask_token := tensors.pop("mask_token", None)) is not None:
            tensors["backbone.masked_embed"] = mask_token
        odd = [key for key in tensors if key.startswith("backbone.") and not _OF_DINO.fullmatch(key)]
        if odd:
            raise ValueError(f"DINO's ViT has no place for {odd[0].removeprefix('backbone.')}. Take --to timm.")
        start = "module." if name == "student" else ""  # of DDP, in which DINO trains the student alone
        networks[name] = {f"{start}{key}": value for key, value in tensors.items()}
    arguments: dict[str, Any] = {
        "arch": config.backbone.architecture,
        "patch_size": networks["teacher"]["backbone.patch_embed.proj.weight"].shape[-1],
        "out_dim": config.head.n_prototypes, "norm_last_layer": config.head.norm_last_layer, "use_bn_in_head": False,
        "epochs": config.epochs, "seed": config.seed, "dora": {"config": shown(config)},
    }  # fmt: skip
    torch.save({**networks, "step": source.dora.get("step"), "args": arguments}, folder / "checkpoint.pth")


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in tensors.items()}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
