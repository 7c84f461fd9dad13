import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from dora.config import BackboneConfig, HeadConfig, PretrainConfig
from dora.method.head import Head
from dora.method.network import build_network, project
from dora.method.vit import (
    build_vit,
    clip_tokens,
    cls_token,
    last_block,
    last_blocks,
    position_embedding,
    tokens,
)

TINY = BackboneConfig(image_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, mlp_ratio=2)
PLAIN_KINDS = {  # with the patch size to try
    "vit_small_patch16_224": 8,
    "vit_tiny_patch16_224": 5,
    "vit_small_patch14_dinov2": 14,  # layer scale
    "vit_base_patch32_clip_224": 8,  # a norm before the blocks
    "vit_base_patch16_224_miil": 8,  # no bias in the projections
}


def tiny(architecture: str, patch_size: int, *, drop_path: bool = False) -> VisionTransformer:
    """A narrow ViT of a kind, every parameter drawn anew so that zeros and ones hide nothing."""
    torch.manual_seed(0)
    config = BackboneConfig.model_validate({
        "architecture": architecture, "image_size": 4 * patch_size, "patch_size": patch_size,
        "embed_dim": 24, "depth": 3, "num_heads": 3, "drop_path_rate": 0.5,
    })  # fmt: skip
    vit = build_vit(config, drop_path=drop_path).double()
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return vit


@pytest.mark.parametrize("architecture", PLAIN_KINDS)
def test_equals_timm_at_the_size_of_the_position_embedding(architecture: str):
    vit = tiny(architecture, PLAIN_KINDS[architecture])
    images = torch.randn(2, 3, 4 * PLAIN_KINDS[architecture], 4 * PLAIN_KINDS[architecture]).double()
    torch.testing.assert_close(tokens(vit, images), vit.forward_features(images))


@pytest.mark.parametrize("architecture", PLAIN_KINDS)
@pytest.mark.parametrize("grid", [(4, 4), (2, 2), (3, 6)])
def test_shortcuts_equal_the_full_computation(architecture: str, grid: tuple[int, int]):
    patch_size = PLAIN_KINDS[architecture]
    vit = tiny(architecture, patch_size)
    images = torch.randn(2, 3, grid[0] * patch_size, grid[1] * patch_size).double()
    full = tokens(vit, images)
    torch.testing.assert_close(cls_token(vit, images), full[:, 0])
    block = last_block(vit, images)
    torch.testing.assert_close(block.tokens, full)
    scores = block.query[:, :, 0, None] @ block.key.transpose(-2, -1) / 8**0.5
    torch.testing.assert_close(block.attention, scores.softmax(-1).squeeze(2))
    torch.testing.assert_close(last_blocks(vit, images, 2)[1], full)


def test_the_cls_gradient_equals_that_of_the_full_computation():
    vit, images = tiny("vit_small_patch16_224", 8), torch.randn(2, 3, 16, 16).double()
    full = torch.autograd.grad(tokens(vit, images)[:, 0].square().sum(), list(vit.parameters()))
    short = torch.autograd.grad(cls_token(vit, images).square().sum(), list(vit.parameters()))
    torch.testing.assert_close(short, full)


def test_drop_path_drops_the_same_samples_as_timm():
    vit, images = tiny("vit_small_patch16_224", 8, drop_path=True).train(), torch.randn(16, 3, 32, 32).double()
    torch.manual_seed(1)
    want = vit.forward_features(images)[:, 0]
    torch.manual_seed(1)
    torch.testing.assert_close(cls_token(vit, images), want)
    assert not torch.allclose(cls_token(vit, images), want)  # other draws


def test_a_clip_in_one_pass_equals_frame_by_frame():
    vit, frames = tiny("vit_small_patch16_224", 8), torch.randn(3, 2, 3, 32, 32).double()
    clip = clip_tokens(vit, frames)
    per_frame = [last_block(vit, frame) for frame in frames]
    torch.testing.assert_close(clip.cls, torch.stack([block.tokens[:, 0] for block in per_frame]))
    torch.testing.assert_close(clip.keys, torch.stack([block.key for block in per_frame]))
    torch.testing.assert_close(clip.first, per_frame[0])


def test_dino_resizes_positions_by_a_slightly_larger_factor():
    vit = build_vit(TINY, drop_path=False)
    with torch.no_grad():
        # A ramp over the columns; dividing by 2.1 / 4 instead of 2 / 4 moves each sampling point to the left.
        vit.pos_embed[:, 1:] = torch.arange(4.0).repeat(4)[:, None]
    positions = position_embedding(vit, 16, 16)[0, 1:, 0].view(2, 2)
    by_size = torch.nn.functional.interpolate(torch.arange(4.0).repeat(1, 1, 4, 1), (2, 2), mode="bicubic")[0, 0]
    assert (positions < by_size - 0.01).all()
    assert position_embedding(vit, 32, 32) is vit.pos_embed


def test_initialised_as_dino_does():
    torch.manual_seed(0)
    vit = build_vit(TINY.model_copy(update={"embed_dim": 96}), drop_path=False)
    for name in ("cls_token", "pos_embed", "blocks.0.attn.qkv.weight", "blocks.2.mlp.fc2.weight"):
        assert vit.get_parameter(name).std().item() == pytest.approx(0.02, rel=0.25), name
    assert not vit.blocks[0].attn.qkv.bias.any()


def test_an_image_of_which_nothing_is_kept_is_its_cls_token_alone():
    vit, images = build_vit(TINY, drop_path=False), torch.rand(2, 3, 32, 32)
    assert vit.cls_token is not None and vit.pos_embed is not None
    alone = vit.norm(vit.blocks(vit.cls_token + vit.pos_embed[:, :1]))[:, 0]
    kept = torch.zeros(2, 16, dtype=torch.bool)
    torch.testing.assert_close(cls_token(vit, images, kept=kept), alone.expand(2, -1))


def test_only_the_student_drops_paths():
    def rates(*, drop_path: bool) -> list[float]:
        network = build_network(
            PretrainConfig(backbone=TINY, head=HeadConfig(n_prototypes=4, hidden_dim=4)), drop_path=drop_path
        )
        return [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.backbone.blocks]

    assert rates(drop_path=True) == pytest.approx([0, 0.05, 0.1])  # linear over depth
    assert rates(drop_path=False) == [0, 0, 0]


def test_attention_for_tracking_stays_float32_under_autocast():
    vit = build_vit(TINY, drop_path=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        block = last_block(vit, torch.randn(1, 3, 32, 32))
    assert block.attention.dtype == torch.float32
    torch.testing.assert_close(block.attention.sum(-1), torch.ones(1, 3))


@pytest.mark.parametrize("size", [32, 16])
def test_a_network_projects_its_class_tokens(size: int):
    network = build_network(
        PretrainConfig(backbone=TINY, head=HeadConfig(n_prototypes=6, hidden_dim=8)), drop_path=False
    )
    images = torch.randn(3, 3, size, size)
    points, prototypes = network(project, images)
    torch.testing.assert_close(points.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(prototypes.norm(dim=-1), torch.ones(6))
    torch.testing.assert_close(points @ prototypes.T, network.head(tokens(network.backbone, images)[:, 0]))


def test_recomputed_blocks_give_the_same_gradients():
    vit = build_vit(TINY, drop_path=False)
    images = torch.randn(2, 3, 32, 32)
    kept = torch.rand(2, 16) > 0.5
    plain = torch.autograd.grad(cls_token(vit, images, kept=kept).sum(), [*vit.parameters()])
    vit.set_grad_checkpointing(True)
    again = torch.autograd.grad(cls_token(vit, images, kept=kept).sum(), [*vit.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


@pytest.mark.parametrize("size", [(32, 30), (20, 32)])
def test_an_image_that_is_no_whole_number_of_patches_is_refused(size: tuple[int, int]):
    message = rf"expected image sides in multiples of 8 x 8 pixels, got {size[0]} x {size[1]}"
    with pytest.raises(ValueError, match=message):
        tokens(build_vit(TINY, drop_path=False), torch.zeros(1, 3, *size))


def test_more_blocks_than_there_are_is_refused():
    with pytest.raises(ValueError, match="expected 1 to 3 blocks"):
        last_blocks(build_vit(TINY, drop_path=False), torch.zeros(1, 3, 32, 32), 4)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("vit_smal_patch16_224", "unknown architecture .* vit_small_patch16_224"),
        ("resnet18", "timm cannot build resnet18"),
        ("beit_base_patch16_224", "is a Beit"),
        ("vit_small_patch14_reg4_dinov2", "register tokens"),
        ("vit_base_patch16_gap_224", r"no \[CLS\] token"),
        ("deit_tiny_distilled_patch16_224", "is a VisionTransformerDistilled"),
        ("vit_small_patch16_18x2_224", "not timm's pre-norm Block"),
        ("vit_small_r26_s32_224", "timm cannot build vit_small_r26_s32_224"),
    ],
)
def test_what_is_no_plain_vit_is_refused_with_the_reason(architecture: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        build_vit(TINY.model_copy(update={"architecture": architecture}), drop_path=False)


def test_sizes_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"timm cannot build vit_small_patch16_224 with .*divisible"):
        build_vit(TINY.model_copy(update={"num_heads": 5}), drop_path=False)


def test_default_backbone_is_vit_small():
    with torch.device("meta"):
        ours = build_vit(BackboneConfig(), drop_path=True).state_dict()
        timms = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in timms.items()}


def test_prototypes_begin_as_a_linear_layer_and_the_rest_of_the_head_as_a_truncated_normal():
    torch.manual_seed(0)
    head = Head(48, HeadConfig(n_prototypes=4000, hidden_dim=64, bottleneck_dim=64))
    assert head.last_layer.weight_v.abs().max().item() == pytest.approx(1 / 8, rel=0.01)  # 1 / sqrt(bottleneck_dim)
    assert head.last_layer.weight_v.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.01)
    assert head.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    torch.testing.assert_close(head.last_layer.prototypes().norm(dim=1), torch.ones(4000))
