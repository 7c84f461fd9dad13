import math

import pytest
import torch
from torch import Tensor

from dora.config import TrackingConfig
from dora.method.tracking import Tracks, binarise, discover_objects, object_masks, refine_prototypes, track
from dora.method.vit import LastBlock

SIZES = [(2, 3, 4, 6, 5), (1, 1, 2, 4, 3), (2, 2, 1, 5, 4)]  # B T H N d


def draw(sizes: tuple[int, ...], seed: int = 0) -> tuple[LastBlock, Tensor]:
    """What a teacher could have seen: frame 0 in full and the keys of all frames."""
    n_clips, n_frames, n_heads, n_patches, head_dim = sizes
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    keys = normal(n_frames, n_clips, n_heads, n_patches + 1, head_dim)
    first = LastBlock(
        tokens=normal(n_clips, n_patches + 1, n_heads * head_dim),
        attention=normal(n_clips, n_heads, n_patches + 1).softmax(-1),
        query=normal(n_clips, n_heads, n_patches + 1, head_dim),
        key=keys[0],
    )
    return first, keys


def naive_masks(first: LastBlock, keys: Tensor, heads: list[int], config: TrackingConfig) -> tuple[Tensor, Tensor]:
    """The paper's equations 1 to 7, one number at a time. Token 0 is [CLS], which takes no part."""
    n_frames, n_clips, n_heads, n_tokens, head_dim = keys.shape
    n_patches, width = n_tokens - 1, n_heads * head_dim
    soft = torch.empty(len(heads), n_frames, n_clips, n_patches, dtype=torch.float64)
    for b in range(n_clips):
        queries = [torch.cat([first.query[b, h, 1 + n] for h in range(n_heads)]) for n in range(n_patches)]
        patches = [first.tokens[b, 1 + n] / first.tokens[b, 1 + n].norm() for n in range(n_patches)]
        prototypes = []
        for head in heads:
            prototypes.append(sum(first.attention[b, head, 1 + n] * queries[n] for n in range(n_patches)))
        if config.refine:
            share = torch.tensor([[float(patch @ prototype) for prototype in prototypes] for patch in patches])
            share = ((share.double() - share.max()) / config.sinkhorn_epsilon).exp()
            for _ in range(config.sinkhorn_iterations):
                share = share / share.sum(0, keepdim=True)
                share = share / share.sum(1, keepdim=True)
            prototypes = [sum(share[n, o] * patches[n] for n in range(n_patches)) for o in range(len(heads))]
        for o, prototype in enumerate(prototypes):
            for t in range(n_frames):
                joined = [torch.cat([keys[t, b, h, 1 + n] for h in range(n_heads)]) for n in range(n_patches)]
                weights = [math.exp(float(prototype @ key) / math.sqrt(width)) for key in joined]
                for n in range(n_patches):
                    soft[o, t, b, n] = weights[n] / sum(weights)
    masks = torch.empty_like(soft, dtype=torch.bool)
    for o in range(len(heads)):
        for t in range(n_frames):
            unit = [soft[o, t, b] / soft[o, t, b].norm() for b in range(n_clips)]
            of_batch = torch.stack(unit).mean()
            for b in range(n_clips):
                masks[o, t, b] = unit[b] > (of_batch if config.threshold == "batch" else unit[b].mean())
    return soft, masks


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("threshold", ["map", "batch"])
@pytest.mark.parametrize("refine", [True, False])
def test_equals_naive_loops_over_clips_objects_frames_and_patches(sizes: tuple[int, ...], threshold: str, refine: bool):
    first, keys = draw(sizes)
    heads = list(range(sizes[2]))[::-1]  # as many objects as heads
    config = TrackingConfig.model_validate({"threshold": threshold, "refine": refine, "sinkhorn_epsilon": 0.5})
    tracks = object_masks(first, keys, head_indices=heads, config=config)
    soft, masks = naive_masks(first, keys, heads, config)
    torch.testing.assert_close(tracks.soft, soft, rtol=1e-6, atol=1e-9)
    assert torch.equal(tracks.masks, masks)


def moving_square(n_frames: int = 4) -> tuple[LastBlock, Tensor, Tensor]:
    """A square of 4 × 4 patches moves one patch to the right per frame; head 0 looks at it, head 1 at the rest.

    It covers half of the frame because Sinkhorn-Knopp gives each of two prototypes half of the patches.
    """
    square = torch.zeros(n_frames, 4, 8, dtype=torch.bool)
    for t in range(n_frames):
        square[t, :, t : t + 4] = True
    square = square.flatten(1)  # T N
    object_, ground = torch.tensor([4.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 4.0])
    per_patch = torch.where(square[..., None], object_, ground)  # T N D
    with_cls = torch.cat([torch.full_like(per_patch[:, :1], 9.0), per_patch], dim=1)
    keys = with_cls.unflatten(-1, (2, 2)).transpose(1, 2)[:, None]  # T B=1 H=2 M d=2
    looks = torch.stack([square[0], ~square[0]]).float()
    attention = torch.cat([torch.full((2, 1), 0.5), 0.5 * looks / looks.sum(-1, keepdim=True)], dim=-1)[None]
    return LastBlock(with_cls[:1], attention, keys[0], keys[0]), keys, square


@pytest.mark.parametrize("refine", [True, False])
def test_tracking_follows_a_square_that_moves_right(refine: bool):
    first, keys, square = moving_square()
    tracks = object_masks(first, keys, head_indices=[0, 1], config=TrackingConfig(n_objects=2, refine=refine))
    assert torch.equal(tracks.masks[0, :, 0], square)
    assert torch.equal(tracks.masks[1, :, 0], ~square)


def test_refined_prototypes_differ_where_raw_ones_agree():
    first, keys, square = moving_square()
    first.attention[0, 1, 1:] = torch.where(square[0], 0.03, 0.02)  # head 1 looks at the square, too, if less keenly
    raw, refined = (
        object_masks(first, keys, head_indices=[0, 1], config=TrackingConfig(n_objects=2, refine=refine)).masks
        for refine in (False, True)
    )
    assert torch.equal(raw[0], raw[1])
    assert not (refined[0] & refined[1]).any()


def test_object_o_belongs_to_head_index_o():
    first, keys = draw((2, 3, 4, 6, 5))
    config = TrackingConfig(refine=False)
    forward, backward = (object_masks(first, keys, head_indices=heads, config=config) for heads in ([0, 3], [3, 0]))
    assert torch.equal(forward.masks, backward.masks.flip(0))
    assert torch.equal(forward.prototypes, backward.prototypes.flip(1))


def alone_and_together(config: TrackingConfig) -> tuple[Tracks, Tracks]:
    first, keys = draw((8, 2, 3, 16, 4))
    together = object_masks(first, keys, head_indices=[0, 1, 2], config=config)
    alone = object_masks(LastBlock(*(part[:1] for part in first)), keys[:, :1], head_indices=[0, 1, 2], config=config)
    return alone, together


def test_a_clip_keeps_its_masks_in_any_batch():
    alone, together = alone_and_together(TrackingConfig(threshold="map"))
    assert torch.equal(alone.masks, together.masks[:, :, :1])


def test_the_authors_threshold_ties_the_clips_of_a_batch_together():
    alone, together = alone_and_together(TrackingConfig(threshold="batch"))
    assert not torch.equal(alone.masks, together.masks[:, :, :1])


def test_both_thresholds_agree_for_a_single_clip():
    first, keys = draw((1, 3, 3, 9, 4))
    soft = object_masks(first, keys, head_indices=[0, 1], config=TrackingConfig()).soft
    assert torch.equal(binarise(soft, threshold="map"), binarise(soft, threshold="batch"))


def test_a_map_sums_to_one_and_its_mask_is_what_exceeds_an_equal_share():
    soft = torch.tensor([0.4, 0.3, 0.2, 0.1]).view(1, 1, 1, 4)
    assert binarise(soft, threshold="map").flatten().tolist() == [True, True, False, False]
    first, keys = draw((2, 3, 4, 6, 5))
    soft = object_masks(first, keys, head_indices=[1], config=TrackingConfig()).soft
    torch.testing.assert_close(soft.sum(-1), torch.ones(1, 3, 2, dtype=torch.float64))


def test_a_confident_teacher_still_gives_masks_in_float32():
    first, keys = draw((2, 3, 3, 9, 8))
    first = first._replace(query=first.query * 100)  # similarities of hundreds of epsilon
    single = LastBlock(*(part.float() for part in first))
    tracks = object_masks(single, keys.float(), head_indices=[0, 1, 2], config=TrackingConfig())
    assert tracks.soft.isfinite().all() and tracks.masks.any(-1).all()
    exact = object_masks(first, keys, head_indices=[0, 1, 2], config=TrackingConfig())
    assert torch.equal(tracks.masks, exact.masks)


def test_tracking_under_autocast_is_done_in_float32():
    first, keys = draw((2, 3, 3, 9, 8))
    first, keys = LastBlock(*(part.float() for part in first)), keys.float()
    plain = object_masks(first, keys, head_indices=[0, 1], config=TrackingConfig())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = object_masks(first, keys, head_indices=[0, 1], config=TrackingConfig())
    assert torch.equal(plain.soft, mixed.soft)


def test_prototypes_are_sums_not_means():
    attention = torch.tensor([[[0.5, 0.25]]])
    query = torch.tensor([[[2.0, 0.0], [0.0, 4.0]]])
    assert discover_objects(attention, query, head_indices=[0]).tolist() == [[[1.0, 1.0]]]
    patches = torch.tensor([[[3.0, 0.0], [5.0, 0.0], [0.0, 7.0]]])  # a single prototype gets all three unit vectors
    refined = refine_prototypes(torch.ones(1, 1, 2), patches, epsilon=0.05, n_iterations=2)
    torch.testing.assert_close(refined, torch.tensor([[[2.0, 1.0]]]))


def test_tracking_scales_by_the_full_width():
    keys = torch.tensor([1.0, 1.0, 1.0, 1.0]).expand(1, 1, 2, 4) * torch.tensor([0.0, 1.0])[:, None]
    soft = track(torch.full((1, 1, 4), 0.5), keys)  # scores 0 and 2 / sqrt(4)
    torch.testing.assert_close(soft.flatten(), torch.tensor([0.0, 1.0]).softmax(0))


@pytest.mark.parametrize("heads", [[0, 0], [2], [-1]])
def test_heads_that_do_not_exist_or_repeat_are_refused(heads: list[int]):
    with pytest.raises(ValueError, match=r"expected different heads out of 0\.\.1"):
        discover_objects(torch.ones(1, 2, 3), torch.ones(1, 3, 4), head_indices=heads)


def test_clips_that_share_a_threshold_are_as_a_batch_of_their_own():
    soft = torch.rand(2, 3, 6, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    masks = binarise(soft, threshold="batch", n_clips=2)
    for first in (0, 2, 4):
        assert torch.equal(masks[:, :, first : first + 2], binarise(soft[:, :, first : first + 2], threshold="batch"))
    assert not torch.equal(masks, binarise(soft, threshold="batch"))
    alone = soft[:, :, :1]  # as pictures look at a clip
    assert torch.equal(binarise(alone, threshold="batch", n_clips=2), binarise(alone, threshold="map"))


def test_the_papers_prototypes_are_means_and_make_softer_maps():
    first, keys = draw(SIZES[0])
    by_sum, by_mean = (
        object_masks(first, keys, head_indices=[0, 2], config=TrackingConfig(n_objects=2, prototype=kind))
        for kind in ("sum", "mean")
    )
    torch.testing.assert_close(by_sum.prototypes / 6, by_mean.prototypes)
    assert (by_mean.soft.amax(-1) <= by_sum.soft.amax(-1)).all()
