"""An encoder that sees nothing but pixels, for every benchmark to measure as it measures any other."""

from typing import cast

from dora.artifacts import Checkpoint, Machine
from dora.config import BackboneConfig

# How much of the mean over patches the last block adds to each token. [CLS] has nothing else, so any share will do for
# it; a patch is to stay what it is.
MEAN_SHARE = 1e-3


def raw_pixels(backbone: BackboneConfig, machine: Machine) -> Checkpoint:
    """A file with a ViT of this one's patches, image size and depth that hands pixels on, in root/raw_pixels.

    A patch's token and its key are the patch's normalised pixels p as (p, -p), whose mean is 0, so that a LayerNorm
    divides them by their root mean square and changes nothing else. [CLS] is the mean over patches, and looks at all of
    them alike.

    Raises:
        ValueError: as `build_vit`.
    """
    import torch
    from timm.layers import Attention

    from dora.method.vit import build_vit
    from eval.network_file import write_network

    given = build_vit(backbone, drop_path=False)
    size = given.patch_embed.patch_size[0]
    width = 2 * 3 * size**2
    plain = BackboneConfig(
        architecture="vit_tiny_patch16_224", image_size=backbone.image_size, patch_size=size, embed_dim=width,
        depth=len(given.blocks), num_heads=6, mlp_ratio=8 / width, drop_path_rate=0.0,
    )  # fmt: skip
    vit = build_vit(plain, drop_path=False)
    same = torch.eye(width)
    with torch.no_grad():
        for name, parameter in vit.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        pixels = torch.eye(width // 2)
        vit.patch_embed.proj.weight.copy_(torch.cat([pixels, -pixels]).view(width, 3, size, size))
        last = cast(Attention, vit.blocks[-1].attn)
        last.qkv.weight.copy_(torch.cat([torch.zeros_like(same), same, same]))  # no query: all keys are alike to it
        last.proj.weight.copy_(MEAN_SHARE * same)
    path = machine.root / "raw_pixels" / f"patch-{size}-image-{plain.image_size}-depth-{plain.depth}.safetensors"
    return write_network(path, vit, plain, machine)
