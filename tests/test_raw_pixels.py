"""An encoder that sees nothing but pixels: its tokens are pixels, and benchmarks take it like any other."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dora import recipes
from dora.artifacts import Machine
from dora.config import BackboneConfig
from dora.method.vit import tokens
from dora.weights.load import load_encoder
from eval.raw_pixels import raw_pixels

DEMO = recipes.demo().pretrain.backbone


def patches(images: torch.Tensor, size: int) -> torch.Tensor:
    """(B, N, 3 * size * size), by the plainest loop."""
    rows, columns = images.shape[2] // size, images.shape[3] // size
    cut = [
        images[:, :, y * size : (y + 1) * size, x * size : (x + 1) * size].flatten(1)
        for y in range(rows)
        for x in range(columns)
    ]
    return torch.stack(cut, dim=1)


@pytest.mark.parametrize("backbone", [DEMO, BackboneConfig(image_size=32, depth=2)])
def test_a_patchs_token_has_the_direction_of_its_pixels(backbone: BackboneConfig, tmp_path: Path):
    vit = load_encoder(raw_pixels(backbone, Machine(root=tmp_path)).path)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    pixels = patches(images, vit.patch_embed.patch_size[0])
    found = tokens(vit, images)[:, 1:]
    assert torch.allclose(
        F.normalize(found, dim=-1), F.normalize(torch.cat([pixels, -pixels], dim=-1), dim=-1), atol=1e-3
    )
    alike = torch.einsum("bnd,bmd->bnm", F.normalize(found, dim=-1), F.normalize(found, dim=-1))
    naive = torch.einsum("bnd,bmd->bnm", F.normalize(pixels, dim=-1), F.normalize(pixels, dim=-1))
    assert torch.allclose(alike, naive, atol=2e-3)


def test_cls_has_the_direction_of_the_mean_patch(tmp_path: Path):
    vit = load_encoder(raw_pixels(DEMO, Machine(root=tmp_path)).path)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels = patches(images, 8)
    evened = pixels / pixels.square().mean(-1, keepdim=True).sqrt()
    mean = torch.cat([evened, -evened], dim=-1).mean(1)
    assert torch.allclose(F.normalize(tokens(vit, images)[:, 0]), F.normalize(mean), atol=1e-3)


def test_the_same_file_is_written_again(tmp_path: Path):
    machine = Machine(root=tmp_path)
    assert raw_pixels(DEMO, machine).digest == raw_pixels(DEMO, machine).digest
    assert (DEMO.depth, 384) == (len((vit := load_encoder(raw_pixels(DEMO, machine).path)).blocks), vit.embed_dim)
