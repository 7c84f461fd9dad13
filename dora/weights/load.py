"""Foreign weights into our networks: everything that features come through, or nothing."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from dora.config import BackboneConfig, StartConfig
from dora.method.network import Network
from dora.method.vit import build_vit
from dora.weights.names import rename
from dora.weights.read import Source, Which, read, some
from dora.weights.shapes import architecture_of, config_of, heads_of, image_size, looks_like, side

log = logging.getLogger("dora.weights")

_POSITIONS = "backbone.pos_embed"


class Loaded(NamedTuple):
    """What was done with each tensor, in the names of a Network."""

    source: str
    matched: tuple[str, ...]
    resized: tuple[str, ...]  # with the two grids
    missing: tuple[str, ...]  # not in the file, or not asked for: left as they were
    unexpected: tuple[str, ...]  # in the file, but of no use here

    def __str__(self) -> str:
        rows = [f"weights from {self.source}", f"  taken      {len(self.matched) + len(self.resized)} tensors"]
        rows += [f"  {title:10} {some(names)}" for title, names in (
            ("resized", self.resized), ("unchanged", self.missing), ("not used", self.unexpected)
        ) if names]  # fmt: skip
        return "\n".join(rows)


def start_from(network: Network, start: StartConfig) -> Loaded:
    """Fill a network that is about to be trained; without `start.head` its head stays as it is.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    return load_weights(network, start.path, which=start.which, head=start.head)


def load_weights(module: Network | VisionTransformer, path: Path, *, which: Which, head: bool) -> Loaded:
    """Fill `module` from any file that `read` knows; if anything does not fit, it is left as it was.

    The backbone must be whole and its own: nothing missing, no block, LayerScale or token that the module has not,
    and as many heads, where the file or the config.json beside it says how many.
    A position embedding of another grid is resized. `head` asks for the projection head too.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, does not fit, or holds numbers that are not finite.
    """
    source = read(path, which)
    tensors = rename(source.tensors)
    said = heads_of(source._replace(config=config_of(source, tensors)))
    vit = module if isinstance(module, VisionTransformer) else module.backbone
    own = cast(Attention, cast(Block, vit.blocks[0]).attn).num_heads
    if said and said != own:  # every shape would fit
        raise ValueError(
            f"{source} has {said} attention heads, the network {own}. Set pretrain.backbone.num_heads={said}."
        )
    loaded = _fill(module, source, tensors, head=head)
    log.info("%s", loaded)
    return loaded


def load_encoder(path: Path, which: Which = "teacher", architecture: str | None = None) -> VisionTransformer:
    """The ViT of any file that `read` knows: float32, on the CPU, in evaluation mode.

    Ours say what they are, as do timm's and Hugging Face's with a config.json beside them. Of others the sizes are
    told by the shapes, with as many heads as timm's of that width have; `architecture`, a name of timm's, overrules
    all that but the image size.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, is of no plain ViT, or does not fit the architecture.
    """
    source = read(path, which)
    tensors = rename(source.tensors)
    source = source._replace(config=config_of(source, tensors))
    try:
        config = (
            BackboneConfig(architecture=architecture, image_size=image_size(tensors))
            if architecture
            else architecture_of(source, tensors)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from None
    vit = build_vit(config, drop_path=False)
    for module in vit.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = float(source.config.get("layer_norm_eps", module.eps))
    log.info("%s", _fill(vit, source, tensors, head=False))
    return vit.eval()


def resize_positions(learnt: Float[Tensor, "1 M D"], n: int) -> Float[Tensor, "1 N D"]:
    """A position embedding for a grid of `n` × `n` patches, by DINO's rule (dora/method/vit.py position_embedding).

    timm and Hugging Face would sample a little elsewhere. With the rule that our networks follow at every resolution
    but their own, a network built for another image size begins with the very features that the original has there.
    """
    grid = learnt[:, 1:].unflatten(1, (side(learnt), -1)).permute(0, 3, 1, 2).float()
    scale = (n + 0.1) / grid.shape[-1]
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([learnt[:, :1].float(), grid.flatten(2).transpose(1, 2)], dim=1)


def _fill(module: Network | VisionTransformer, source: Source, tensors: Mapping[str, Tensor], *, head: bool) -> Loaded:
    own = module.state_dict()
    if isinstance(module, VisionTransformer):
        own = {f"backbone.{name}": value for name, value in own.items()}
    wanted = {name: value for name, value in own.items() if head or not name.startswith("head.")}
    taken = {name: value for name, value in tensors.items() if name in wanted}
    resized: list[str] = []
    learnt, positions = taken.get(_POSITIONS), wanted[_POSITIONS]
    if learnt is not None and learnt.ndim == 3 and learnt.shape[1] != positions.shape[1]:
        try:
            before, after = side(learnt), side(positions)
        except ValueError as error:
            raise ValueError(f"{source} does not fit: {error} {looks_like(tensors)}") from None
        taken[_POSITIONS] = resize_positions(learnt, after)
        resized = [f"{_POSITIONS} ({before} x {before} patches to {after} x {after})"]
    missing = [name for name in own if name not in taken]
    unexpected = [name for name in tensors if name not in taken]
    _require_fit(source, tensors, wanted, taken, missing, unexpected, head=head)
    with torch.no_grad():
        for name, value in taken.items():
            wanted[name].copy_(value)
    matched = [name for name in taken if name != _POSITIONS or not resized]
    return Loaded(str(source), tuple(matched), tuple(resized), tuple(missing), tuple(unexpected))


def _require_fit(
    source: Source, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], taken: Mapping[str, Tensor],
    missing: Sequence[str], unexpected: Sequence[str], *, head: bool,
) -> None:  # fmt: skip
    lacking = [name for name in missing if name in wanted and name != "mask_token"]
    if head and all(name in lacking for name in wanted if name.startswith("head.")):
        raise ValueError(f"{source} has no projection head. Without it: pretrain.start.head=false.")
    # The rest (classifier, pooler, another objective's heads) changes no feature.
    strange = [name for name in unexpected if name.startswith("backbone.") or (head and name.startswith("head."))]
    strange = [name for name in strange if not _is_shared(name, tensors)]
    reshaped = [
        f"{name} is {tuple(value.shape)} where {tuple(wanted[name].shape)} is expected"
        for name, value in taken.items()
        if value.shape != wanted[name].shape
    ]
    faults = [
        f"{title}: {some(names)}"
        for title, names in (("missing", lacking), ("not in this network", strange), ("other shape", reshaped))
        if names
    ]
    if faults:
        of_head = all(name.startswith("head.") for name in (*lacking, *strange, *reshaped))
        advice = _head_sizes(tensors) if of_head else looks_like(tensors)
        raise ValueError(f"{source} does not fit. {'; '.join(faults)}. {advice}")
    odd = [name for name, value in taken.items() if not bool(torch.isfinite(value).all())]
    if odd:
        raise ValueError(f"{source} has numbers that are not finite: {some(odd)}. Take an earlier checkpoint.")


def _is_shared(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether it is the second copy of a head that patches share with [CLS], as iBOT saves it."""
    twin = tensors.get(name.replace(".last_layer2.", ".last_layer."))
    return ".last_layer2." in name and twin is not None and torch.equal(twin, tensors[name])


def _head_sizes(tensors: Mapping[str, Tensor]) -> str:
    """What the file's head wants of the config."""
    own = {
        "pretrain.head.n_prototypes": tensors.get("head.last_layer.weight_v"),
        "pretrain.head.hidden_dim": tensors.get("head.mlp.0.weight"),
        "pretrain.ibot.n_patch_prototypes": tensors.get("head.last_layer2.weight_v"),
    }
    said = [f"{name}={value.shape[0]}" for name, value in own.items() if value is not None]
    if (last := own["pretrain.head.n_prototypes"]) is not None:
        said.append(f"pretrain.head.bottleneck_dim={last.shape[1]}")
    return f"Its head has {' '.join(said)}; or begin with a fresh one, pretrain.start.head=false"
