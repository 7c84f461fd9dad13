"""Dense prediction's backbone: whole or refused, at any patch size, its maps what the blocks say."""

import logging
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from tiny_eval import write_checkpoint
from torch import Tensor, nn

from dora.config import BackboneConfig
from dora.method.vit import build_vit, last_blocks
from eval.benchmark import checkpoint_from_file
from eval.dense.pyramid import Pyramid, default_taps, nominal_stride, resized_positions, trainable_vit

torch.set_num_threads(1)
ALL_OF_FOUR = (0, 1, 2, 3)


def vit_of(*, patch: int = 16, width: int = 128, depth: int = 4, image_size: int = 64) -> VisionTransformer:
    torch.manual_seed(0)
    config = BackboneConfig(
        architecture="vit_tiny_patch16_224", image_size=image_size, patch_size=patch, embed_dim=width, depth=depth,
        num_heads=max(1, width // 64),
    )  # fmt: skip
    return build_vit(config, drop_path=False)


def checkpoint_of(vit: VisionTransformer, folder: Path, **changed: Tensor):
    """As DINO publishes weights: names of the backbone, nothing else."""
    path = folder / "weights.pth"
    torch.save(vit.state_dict() | changed, path)
    return checkpoint_from_file(path)


@pytest.mark.parametrize("patch", [4, 8, 14, 16, 32])
@pytest.mark.parametrize(("width", "depth"), [(24, 4), (36, 12)])
def test_maps_have_strides_4_8_16_32_whatever_the_patch(patch: int, width: int, depth: int):
    vit = vit_of(patch=patch, width=width, depth=depth, image_size=4 * patch)
    maps = Pyramid(vit, taps=default_taps(depth), with_norm=True)(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(2, width, 64 // s, 96 // s) for s in (4, 8, 16, 32)]


@pytest.mark.parametrize(
    ("depth", "taps"), [(12, (3, 5, 7, 11)), (24, (7, 11, 15, 23)), (2, (0, 0, 0, 1)), (1, (0,) * 4)]
)
def test_taps_follow_the_depth(depth: int, taps: tuple[int, ...]):
    assert default_taps(depth) == taps


def test_the_adaptor_is_ibots():
    def kinds(patch: int) -> list[list[str]]:
        levels = Pyramid(vit_of(patch=patch, image_size=4 * patch), taps=ALL_OF_FOUR, with_norm=True).levels
        assert levels is not None
        return [
            [type(part).__name__ for part in (level if isinstance(level, nn.Sequential) else [level])]
            for level in levels
        ]

    up = "ConvTranspose2d"
    assert kinds(16) == [[up, "BatchNorm2d", "GELU", up], [up], ["Identity"], ["MaxPool2d"]]
    assert kinds(14) == kinds(16)
    assert kinds(8) == [[up], ["Identity"], ["MaxPool2d"], ["MaxPool2d"]]
    assert kinds(32)[0] == [up, "BatchNorm2d", "GELU", up, "BatchNorm2d", "GELU", up]


@pytest.mark.parametrize("with_norm", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
def test_taps_are_what_the_blocks_say(with_norm: bool, recompute: bool):
    vit = vit_of()
    if not with_norm:
        expected = last_blocks_without_norm(vit, images := torch.randn(2, 3, 64, 64))
    else:
        expected = last_blocks(vit, images := torch.randn(2, 3, 64, 64), 4)
    maps = Pyramid(vit, taps=ALL_OF_FOUR, with_norm=with_norm, levels=False, recompute=recompute)(images)
    for x, tokens in zip(maps, expected, strict=True):
        assert torch.equal(x.flatten(2).transpose(1, 2), tokens[:, 1:])


def last_blocks_without_norm(vit: VisionTransformer, images: Tensor) -> list[Tensor]:
    norm, vit.norm = vit.norm, nn.Identity()
    outputs = last_blocks(vit, images, len(vit.blocks))
    vit.norm = norm
    return outputs


def test_equals_timm_in_float64_at_its_own_size(tmp_path: Path):
    ours = trainable_vit(checkpoint_of(vit_of(), tmp_path), image_size=(64, 64), drop_path_rate=0).double().eval()
    theirs = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=64, patch_size=16, embed_dim=128, depth=4, num_heads=2
    )
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = (
        theirs.double().eval().forward_intermediates(images, indices=[0, 1, 2, 3], norm=True, intermediates_only=True)
    )
    maps = Pyramid(ours, taps=ALL_OF_FOUR, with_norm=True, levels=False)(images)
    for x, y in zip(maps, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def bicubic(grid: Tensor, rows: int, columns: int) -> Tensor:
    """Keys' kernel with a = -0.75 around the centres of the new cells, borders repeated: what `bicubic` means."""

    def weights(n_old: int, n_new: int) -> Tensor:
        matrix = torch.zeros(n_new, n_old, dtype=torch.float64)
        for new in range(n_new):
            centre = (new + 0.5) * n_old / n_new - 0.5
            low = int(torch.floor(torch.tensor(centre)))
            for old in range(low - 1, low + 3):
                x, a = abs(centre - old), -0.75
                if x <= 1:
                    weight = (a + 2) * x**3 - (a + 3) * x**2 + 1
                else:
                    weight = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
                matrix[new, min(max(old, 0), n_old - 1)] += weight
        return matrix

    return torch.einsum("ai,bj,ijd->abd", weights(grid.shape[0], rows), weights(grid.shape[1], columns), grid.double())


@pytest.mark.parametrize("after", [(32, 32), (50, 63), (7, 9), (14, 15)])
def test_positions_are_resized_bicubically_with_corners_not_aligned(after: tuple[int, int]):
    learnt = torch.randn(1, 1 + 14 * 14, 5)
    resized = resized_positions(learnt, (14, 14), after)
    grid = learnt[:, 1:].unflatten(1, (14, 14))
    expected = F.interpolate(grid.permute(0, 3, 1, 2), size=after, mode="bicubic", align_corners=False)
    assert torch.equal(resized[:, 1:], expected.flatten(2).transpose(1, 2))
    assert torch.equal(resized[:, :1], learnt[:, :1])
    torch.testing.assert_close(resized[0, 1:].double(), bicubic(grid[0], *after).flatten(0, 1), rtol=0, atol=1e-5)


def test_positions_go_from_the_training_grid_to_any_other(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    original = vit_of(image_size=224)
    with caplog.at_level(logging.INFO, "dora.dense"):
        vit = trainable_vit(checkpoint_of(original, tmp_path), image_size=(800, 1008), drop_path_rate=0).eval()
    assert "position embedding resized from 14 x 14 patches to 50 x 63, for images of 800 x 1008" in caplog.text
    learnt = vit.pos_embed
    assert torch.equal(learnt, resized_positions(original.pos_embed, (14, 14), (50, 63)))
    seen: list[Tensor] = []
    vit.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    vit.cls_token.data.zero_()
    vit.patch_embed.proj.weight.data.zero_()
    vit.patch_embed.proj.bias.data.zero_()
    pyramid = Pyramid(vit, taps=ALL_OF_FOUR, with_norm=False)
    with torch.no_grad():
        pyramid(torch.zeros(1, 3, 64, 96))  # now the embedding is all there is
    assert torch.equal(seen[0], resized_positions(learnt, (50, 63), (4, 6)))


def test_positions_that_fit_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    original = vit_of()
    with caplog.at_level(logging.INFO, "dora.dense"):
        vit = trainable_vit(checkpoint_of(original, tmp_path), image_size=(64, 64), drop_path_rate=0)
    assert torch.equal(vit.pos_embed, original.pos_embed)
    assert "kept: 4 x 4 patches" in caplog.text


def test_patches_of_14_px_see_an_image_of_as_many_patches_of_16(tmp_path: Path):
    vit = trainable_vit(checkpoint_of(vit_of(patch=14, image_size=56), tmp_path), image_size=(64, 96), drop_path_rate=0)
    assert vit.patch_embed.grid_size == (4, 6)
    images = torch.randn(1, 3, 64, 96)
    pyramid = Pyramid(vit.eval(), taps=ALL_OF_FOUR, with_norm=True, levels=False)
    seen: list[Tensor] = []
    vit.patch_embed.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert [tuple(x.shape[2:]) for x in pyramid(images)] == [(4, 6)] * 4
    assert torch.equal(seen[0], F.interpolate(images, size=(56, 84), mode="bilinear", antialias=True))
    assert [nominal_stride(patch) for patch in (4, 7, 8, 14, 16, 32)] == [4, 8, 8, 16, 16, 32]


def test_an_image_that_patches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"multiples of 16 for patches of 14 px \(which stand for 16\), got 64 x 90"):
        Pyramid(vit_of(patch=14, image_size=56), taps=ALL_OF_FOUR, with_norm=True)(torch.randn(1, 3, 64, 90))


@pytest.mark.parametrize(
    ("taps", "levels"), [((1, 0, 2, 3), True), ((0, 1, 2, 4), True), ((0, 1, 3), True), ((), False)]
)
def test_taps_that_are_not_there_are_refused(taps: tuple[int, ...], levels: bool):
    with pytest.raises(ValueError, match="taps"):
        Pyramid(vit_of(), taps=taps, with_norm=True, levels=levels)


def test_drop_path_grows_linearly_from_block_to_block(tmp_path: Path):
    vit = trainable_vit(checkpoint_of(vit_of(), tmp_path), image_size=(64, 64), drop_path_rate=0.3)
    rates = [
        [getattr(block.drop_path1, "drop_prob", 0), getattr(block.drop_path2, "drop_prob", 0)] for block in vit.blocks
    ]
    assert rates == [[pytest.approx(0.1 * i)] * 2 for i in range(4)]
    pyramid = Pyramid(vit, taps=ALL_OF_FOUR, with_norm=True, levels=False)
    images = torch.randn(4, 3, 64, 64)
    assert not torch.equal(pyramid(images)[3], pyramid(images)[3])
    pyramid.eval()
    assert torch.equal(pyramid(images)[3], pyramid(images)[3])


@pytest.mark.parametrize("levels", [True, False])
def test_a_frozen_vit_stays_as_it_is_whatever_the_rest_does(tmp_path: Path, levels: bool):
    vit = trainable_vit(checkpoint_of(vit_of(), tmp_path), image_size=(64, 64), drop_path_rate=0.5)
    model = nn.Sequential(Pyramid(vit, taps=ALL_OF_FOUR, with_norm=True, frozen=True, levels=levels)).train()
    assert model.training and not any(module.training for module in vit.modules())
    assert not any(parameter.requires_grad for parameter in vit.parameters())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images)[2], model(images)[2])
    maps = model(images)
    assert maps[2].grad_fn is None and (maps[0].grad_fn is not None) == levels


@pytest.mark.parametrize("taps", [ALL_OF_FOUR, (0, 0, 1, 2)])
@pytest.mark.parametrize("with_norm", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
def test_every_trained_parameter_gets_a_gradient(
    tmp_path: Path, taps: tuple[int, ...], with_norm: bool, recompute: bool
):
    vit = trainable_vit(checkpoint_of(vit_of(image_size=32), tmp_path), image_size=(64, 64), drop_path_rate=0.0)
    pyramid = Pyramid(vit, taps=taps, with_norm=with_norm, recompute=recompute)
    trained = {name for name, parameter in pyramid.named_parameters() if parameter.requires_grad}
    assert ("vit.norm.weight" in trained) == with_norm and ("vit.blocks.3.norm1.weight" in trained) == (taps[-1] == 3)
    assert {"vit.pos_embed", "vit.cls_token", "vit.patch_embed.proj.weight", "levels.0.0.weight"} <= trained
    sum(x.square().mean() for x in pyramid(torch.randn(2, 3, 64, 64))).backward()
    assert trained == {name for name, parameter in pyramid.named_parameters() if parameter.grad is not None}


def test_what_is_computed_again_is_the_same_dropped_paths_included(tmp_path: Path):
    checkpoint, gradients = checkpoint_of(vit_of(), tmp_path), []
    for recompute in (True, False):
        vit = trainable_vit(checkpoint, image_size=(64, 64), drop_path_rate=0.5)
        pyramid = Pyramid(vit, taps=ALL_OF_FOUR, with_norm=True, levels=False, recompute=recompute)
        torch.manual_seed(3)
        sum(x.square().mean() for x in pyramid(torch.ones(2, 3, 64, 64))).backward()
        gradients.append([parameter.grad for parameter in vit.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_our_own_checkpoints_teacher_is_taken(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    vit = trainable_vit(write_checkpoint(path), image_size=(32, 32), drop_path_rate=0)
    theirs = {name.removeprefix("teacher.backbone."): x for name, x in load_file(path).items() if ".backbone." in name}
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in vit.named_parameters())


def test_a_checkpoint_that_lacks_a_part_of_the_backbone_is_refused(tmp_path: Path):
    state = vit_of().state_dict()
    del state["blocks.2.mlp.fc1.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"missing: backbone\.blocks\.2\.mlp\.fc1\.weight"):
        trainable_vit(checkpoint_from_file(tmp_path / "part.safetensors"), image_size=(64, 64), drop_path_rate=0.1)
