"""Any checkpoint's names as those of our Network: timm's for the backbone, DINO's for the head."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # compile, FSDP, checkpointing
_HEAD = re.compile(r"(mlp2?|last_layer2?|last_norm2?)\.")
# What features come through; anything else that a file holds cannot change them.
_BACKBONE = re.compile(r"(patch_embed|blocks|norm|norm_pre|fc_norm|cls_token|pos_embed|reg_token|dist_token)(\.|$)")
_RENAMES = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^(vit|dinov2|dinov2_with_registers)\.", ""),  # Hugging Face, around the model
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
        (r"^layernorm\.", "norm."),
        (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.0."),
        (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.1."),
        (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.2."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"^register_tokens$", "reg_token"),  # DINOv2
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # in chunks; the second number counts all blocks
        (r"\.mlp\.(?:w12|weights_in)\.", ".mlp.fc1."),
        (r"\.mlp\.(?:w3|weights_out)\.", ".mlp.fc2."),
        (r"^masked_embed$", "mask_token"),  # iBOT
    )
]


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as `backbone.…`, `head.…` and `mask_token`; what belongs to none of them keeps its name.

    Known are timm, DINO, iBOT, DoRA, DINOv2 (in chunks or not) and Hugging Face's ViTModel and Dinov2Model.

    Raises:
        ValueError: if two tensors come to the same name.
    """
    plain = {_unwrapped(name): value for name, value in tensors.items()}
    is_whole = any(name.startswith("backbone.") for name in plain)
    renamed: dict[str, Tensor] = {}
    for name, value in plain.items():
        ours = _renamed(name, is_whole=is_whole)
        if ours in renamed:
            raise ValueError(f"two of the file's tensors are {ours}; the second is called {name} there.")
        renamed[ours] = value.reshape(1, -1) if ours == "mask_token" else value
    return _fused(renamed)


def _unwrapped(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while parts[0] == "module":  # DataParallel and DDP
        parts = parts[1:] or [name]
    return ".".join(parts)


def _renamed(name: str, *, is_whole: bool) -> str:
    """Our name of one tensor. In a whole network the backbone's are marked; else they are all the backbone's."""
    if name.startswith("head.") and _HEAD.match(name, len("head.")):
        name = re.sub(r"\.parametrizations\.weight\.original0$", ".weight_g", name)  # torch's newer weight norm
        return re.sub(r"\.parametrizations\.weight\.original1$", ".weight_v", name)
    if is_whole and not name.startswith("backbone."):
        return name
    inner = name.removeprefix("backbone.")
    for pattern, replacement in _RENAMES:
        inner = pattern.sub(replacement, inner)
    if inner == "mask_token":
        return inner
    return f"backbone.{inner}" if _BACKBONE.match(inner) else name


def _fused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value as the one matrix that timm has."""
    fused: dict[str, Tensor] = {}
    for name, value in tensors.items():
        part = re.fullmatch(r"(backbone\.blocks\.\d+\.attn)\.([012])\.(weight|bias)", name)
        if not part:
            fused[name] = value
        elif part[2] == "0":
            names = [f"{part[1]}.{number}.{part[3]}" for number in range(3)]
            if all(each in tensors for each in names):
                fused[f"{part[1]}.qkv.{part[3]}"] = torch.cat([tensors[each] for each in names])
    return fused
