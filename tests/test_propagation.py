"""Label propagation against the published procedure written out over whole matrices, and on things one can see."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from eval.propagation import grid_labels, label_map, network_size, propagate, tile_size


def naive(
    features: Tensor, first: Tensor, *, n_last_frames: int, top_k: int, radius: int, temperature: float
) -> Tensor:
    """The same over full affinity matrices, context * h * w by h * w."""
    n_frames, height, width, _ = features.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows, columns], -1).reshape(-1, 2)
    near = (place[:, None] - place).abs().amax(-1) <= (radius or max(height, width))
    unit, labels = functional.normalize(features, dim=-1).flatten(1, 2), [first.flatten(0, 1)]
    for t in range(1, n_frames):
        context = sorted({0, *range(max(0, t - n_last_frames), t)})
        affinity = torch.cat([(unit[c] @ unit[t].T / temperature).exp() * near for c in context])
        affinity[affinity < affinity.topk(min(top_k, len(affinity)), dim=0).values.amin(0)] = 0
        labels.append((affinity / affinity.sum(0)).T @ torch.cat([labels[c] for c in context]))
    return torch.stack(labels[1:]).unflatten(1, (height, width))


@pytest.mark.parametrize(
    ("grid", "n_last_frames", "top_k", "radius"),
    [
        ((6, 9), 3, 5, 2),
        ((9, 6), 7, 1, 12),
        ((1, 7), 1, 5, 1),
        ((7, 1), 1, 5, 1),
        ((5, 5), 0, 3, 2),
        ((13, 4), 2, 200, 1),
        ((5, 14), 2, 4, 0),  # anywhere
        ((23, 30), 2, 5, 3),
    ],  # the last one is several tiles high and wide
)
def test_equals_the_procedure_over_whole_matrices(grid: tuple[int, int], n_last_frames: int, top_k: int, radius: int):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, *grid, 8, generator=generator)
    first = functional.one_hot(torch.randint(0, 3, grid, generator=generator), 3).float()
    how = {"n_last_frames": n_last_frames, "top_k": top_k, "radius": radius, "temperature": 0.1}
    ours = torch.stack(list(propagate(features, first, **how)))
    torch.testing.assert_close(ours, naive(features, first, **how), rtol=1e-4, atol=1e-5)


def test_patches_that_tie_with_the_last_of_the_best_all_vote():
    features = torch.ones(2, 1, 3, 4)  # everything looks the same
    first = functional.one_hot(torch.tensor([[0, 1, 1]])).float()
    (labels,) = propagate(features, first, n_last_frames=1, top_k=1, radius=5, temperature=0.1)
    torch.testing.assert_close(labels[0], torch.tensor([[1 / 3, 2 / 3]]).expand(3, 2))


@pytest.mark.parametrize(("top_k", "n_last_frames"), [(1, 1), (5, 3)])
def test_ties_in_any_frame_or_row_vote_as_over_whole_matrices(top_k: int, n_last_frames: int):
    generator = torch.Generator().manual_seed(0)
    few = functional.normalize(torch.eye(3)[torch.randint(0, 3, (5, 12, 15), generator=generator)], dim=-1)
    first = functional.one_hot(torch.randint(0, 3, (12, 15), generator=generator), 3).float()
    how = {"n_last_frames": n_last_frames, "top_k": top_k, "radius": 4, "temperature": 0.1}
    torch.testing.assert_close(torch.stack(list(propagate(few, first, **how))), naive(few, first, **how))


@pytest.mark.parametrize(("grid", "rows"), [((30, 52), 12), ((60, 104), 12), ((135, 240), 4), ((540, 960), 1)])
def test_a_gpu_takes_as_many_rows_as_fit_and_never_all(grid: tuple[int, int], rows: int):
    keys = torch.empty(grid[0], 8, grid[1], 1, device="meta")
    assert tile_size(keys, radius=12, on_gpu=True) == (rows, grid[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_what_a_cpu_finds():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 30, 52, 64, generator=generator)
    first = functional.one_hot(torch.randint(0, 3, (30, 52), generator=generator), 3).float()
    how = {"n_last_frames": 3, "top_k": 5, "radius": 12, "temperature": 0.1}
    on_gpu = torch.stack(list(propagate(features.cuda(), first, **how))).cpu()
    torch.testing.assert_close(on_gpu, torch.stack(list(propagate(features, first, **how))), rtol=1e-3, atol=1e-4)


def test_labels_follow_a_pattern_that_moves():
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(8, 20, 16, generator=generator)
    features = torch.stack([pattern.roll(t, dims=1) for t in range(6)])
    first = functional.one_hot((torch.arange(20) // 5 == 1).long().expand(8, 20), 2).float()
    soft = list(propagate(features, first, n_last_frames=2, top_k=1, radius=3, temperature=0.1))
    moved = torch.stack([first.roll(t, dims=1) for t in range(1, 6)])[:, :, 6:14]  # where nothing came in from outside
    assert torch.equal(torch.stack(soft)[:, :, 6:14].argmax(-1), moved.argmax(-1))


def test_only_a_few_frames_are_kept_of_a_long_video():
    alive: list[int] = []

    def frames():
        for t in range(30):
            alive.append(t)
            yield torch.ones(2, 2, 4)

    labels = propagate(frames(), torch.ones(2, 2, 1), n_last_frames=3, top_k=2, radius=1, temperature=0.1)
    next(labels)
    assert alive == [0, 1]  # the next frame is asked for only when its labels are


def test_a_video_of_one_frame_has_nothing_to_propagate():
    still = propagate(torch.ones(1, 2, 2, 4), torch.ones(2, 2, 1), n_last_frames=3, top_k=2, radius=1, temperature=0.1)
    assert list(still) == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 854), (480, 832)), ((854, 480), (832, 480)), ((480, 910), (480, 896)), ((500, 500), (480, 448))],
)
def test_the_long_side_is_floored_to_a_multiple(size: tuple[int, int], expected: tuple[int, int]):
    assert network_size(*size, short_side=480, multiple=64) == expected


def test_a_frame_too_small_for_one_step_is_refused():
    with pytest.raises(ValueError, match="a 40x40 frame at short side 32 is smaller than one 64 px step"):
        network_size(40, 40, short_side=32, multiple=64)


def test_an_object_smaller_than_a_patch_vanishes_with_its_channel():
    annotation = np.zeros((32, 32), np.uint8)
    annotation[:, 16:] = 1
    annotation[0, 0] = 2
    assert grid_labels(annotation, (2, 2)).argmax(-1).tolist() == [[0, 1], [0, 1]]
    assert grid_labels(annotation, (2, 2)).shape == (2, 2, 2)


def test_each_label_is_stretched_to_its_own_range():
    soft = torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]])  # label 1 never wins before, and does afterwards
    assert label_map(soft, patch_size=1, size=(1, 3)).tolist() == [[0, 0, 1]]


def test_an_object_that_fills_the_frame_stays():
    soft = torch.tensor([0.0, 1.0]).expand(2, 2, 2)
    assert label_map(soft, patch_size=4, size=(5, 7)).tolist() == [[1] * 7] * 5
