"""Distributions of what is drawn, against torchvision's transforms; seeds are fixed, so these never flake."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms import RandomResizedCrop, v2

from dora.config import AugmentConfig
from dora.data import augment
from dora.data.augment import augment_clip
from dora.data.draws import ImageDraws, crop_boxes, draw_views

SMALL = AugmentConfig(clip_size=40, global_size=32, n_local_crops=3, local_size=16)
TWO_VIEWS = SMALL.model_copy(update={"global_blur_probability": (0.9, 0.1), "solarize_probability": (0.0, 0.2)})


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def test_boxes_lie_inside_and_keep_area_and_aspect_in_range():
    boxes = torch.from_numpy(crop_boxes(2000, 90, 120, (0.05, 0.4), generator()))
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 90).all() and (left + width <= 120).all()
    assert top.min() == 0 and (top + height).max() == 90  # both edges are reached
    area, ratio = (height * width).double() / (90 * 120), width / height
    assert 0.04 < area.min() and area.max() < 0.42
    assert 0.7 < ratio.min() and ratio.max() < 1.4


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(90, 120, (0.2, 1.0)), (60, 200, (0.4, 1.0)), (300, 300, (0.05, 0.4))]
)
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, scale: tuple[float, float]):
    """Every coordinate, area, aspect and centre; in the wide image many draws do not fit and are drawn again."""
    n = 4000
    ours = torch.from_numpy(crop_boxes(n, height, width, scale, generator())).double()
    transform, image = v2.RandomResizedCrop(8, scale), torch.empty(3, height, width)
    theirs = seeded(lambda: [list(transform.make_params([image]).values()) for _ in range(n)])
    for some, others in zip(aspects_of(ours), aspects_of(theirs), strict=True):
        assert_same_distribution(some, others)


def aspects_of(boxes: Tensor) -> list[Tensor]:
    top, left, height, width = boxes.T
    return [top, left, height, width, height * width, width / height, top + height / 2, left + width / 2]


@pytest.mark.parametrize(("height", "width"), [(20, 200), (200, 20), (50, 50)])
def test_a_box_that_never_fits_becomes_the_largest_central_one(height: int, width: int):
    box = crop_boxes(1, height, width, (4.0, 5.0), generator())[0]  # four times the image
    image = torch.empty(1, height, width)
    assert tuple(box.tolist()) == RandomResizedCrop.get_params(image, [4.0, 5.0], [3 / 4, 4 / 3])


def test_jitter_is_drawn_as_torchvisions():
    config = SMALL.model_copy(update={"jitter_probability": 1.0})
    ours = drawn_images(config, 4000)
    jitter = v2.ColorJitter(*config.jitter)
    theirs = seeded(lambda: [list(jitter.make_params([]).values())[1:] for _ in range(4000)])
    factors = torch.tensor([image.factors for image in ours]).double()
    for kind in range(4):
        assert_same_distribution(factors[:, kind], theirs[:, kind])
    orders = [image.order for image in ours]
    assert len(set(orders)) == math.factorial(4)
    for order in set(orders):  # torchvision's are a torch.randperm: all alike
        assert_share(orders.count(order), len(orders), 1 / 24)
    correlations = torch.corrcoef(torch.cat([factors, torch.tensor(orders)[:, :1]], 1).T).fill_diagonal_(0)
    assert correlations.abs().max() < 4 / math.sqrt(len(ours))


def test_sigma_is_drawn_as_torchvisions():
    blur = v2.GaussianBlur(13, SMALL.blur_sigma)
    theirs = seeded(lambda: [blur.make_params([])["sigma"] for _ in range(4000)])
    ours = torch.tensor([image.sigma for image in drawn_images(SMALL, 4000)]).double()
    assert_same_distribution(ours, theirs[:, 0])


def test_flips_and_styles_happen_as_often_as_configured_and_independently():
    n_clips, n_frames = 1500, 2
    clips = [draw_views((n_frames, 48, 64, 3), TWO_VIEWS, generator(seed)) for seed in range(n_clips)]
    for view in (0, 1):
        assert_share(sum(clip.global_views[view][0].is_flipped for clip in clips), n_clips, SMALL.flip_probability)
    first, second = ([image for clip in clips for image in clip.global_views[view]] for view in (0, 1))
    local_images = [image for clip in clips for crop in clip.local_views for image in crop]
    for images, blur, solarize in ((first, 0.9, 0), (second, 0.1, 0.2), (local_images, 0.5, 0)):
        happened = torch.tensor([[bool(i.order), i.is_grey, i.is_blurred, i.is_solarized] for i in images]).double()
        for share, count in zip((0.8, 0.2, blur, solarize), happened.sum(0).tolist(), strict=True):
            assert_share(count, len(images), share)
        happened = happened[:, : 4 if solarize else 3]  # what never happens goes with nothing
        correlations = torch.corrcoef(happened.T).fill_diagonal_(0)
        assert correlations.abs().max() < 4 / math.sqrt(len(images))


def test_local_views_are_flipped_each_by_itself():
    config = SMALL.model_copy(update={"local_flip_probability": 0.5})
    crops = draw_views((500, 48, 64, 3), config, generator()).local_views
    flips = torch.tensor([[image.is_flipped for image in crop] for crop in crops]).double()
    assert_share(flips.sum().item(), flips.numel(), 0.5)
    assert torch.corrcoef(flips).fill_diagonal_(0).abs().max() < 4 / math.sqrt(flips.shape[1])


def test_colours_are_drawn_for_every_image_anew_and_boxes_as_the_recipe_says():
    drawn = draw_views((4, 48, 64, 3), SMALL.model_copy(update={"n_local_crops": 6}), generator())
    local_images = [image for crop in drawn.local_views for image in crop]
    (global_images,) = drawn.global_views
    assert len(global_images) == 4 and len(local_images) == 24
    assert len({image.box for image in global_images}) == 1
    assert len({image.is_flipped for image in global_images}) == 1
    assert len({image.box for image in local_images}) > 20
    assert len({image.factors for image in [*global_images, *local_images]}) == 28
    assert len({image.sigma for image in [*global_images, *local_images]}) == 28


def test_pixels_come_out_distributed_as_torchvisions_transforms_make_them():
    """Mean, deviation, greyness and sharpness of single views of one picture, over many clips."""
    n = 500
    config = AugmentConfig(clip_size=24, global_size=16, n_local_crops=1, local_size=12)
    frames = picture()
    ours = [augment_clip(frames, config, generator(seed)) for seed in range(n)]
    theirs = seeded(lambda: [torch.cat([s.flatten() for s in transformed(frames, config)]).tolist() for _ in range(n)])
    ours_flat = torch.stack([torch.cat([statistics(g[0, 0]), statistics(v[0, 0])]) for g, v in ours]).double()
    for column in range(ours_flat.shape[1]):
        assert_same_distribution(ours_flat[:, column], theirs[:, column])


def picture() -> Tensor:
    """One frame with colours, edges and a gradient."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 64), indexing="ij")
    image = torch.stack([x, 0.3 + 0.5 * y, (8 * x * y).sin().abs()], -1)
    image[10:20, 20:40] = torch.tensor([0.9, 0.1, 0.2])
    return (255 * image).byte()[None]


def transformed(frames: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Statistics of the global and a local view, as torchvision's transforms make them."""
    bicubic = v2.InterpolationMode.BICUBIC
    assert config.clip_scale
    clip = v2.RandomResizedCrop(config.clip_size, config.clip_scale)(frames.permute(0, 3, 1, 2) / 255)[0]
    whole = v2.RandomHorizontalFlip(0.5)(v2.RandomResizedCrop(config.global_size, config.global_scale)(clip))
    local = v2.RandomResizedCrop(config.local_size, config.local_scale, interpolation=bicubic)(clip).clamp(0, 1)
    views: list[Tensor] = []
    for image, blur in ((whole, 0.1), (local, 0.5)):
        jitter = v2.RandomApply([v2.ColorJitter(*config.jitter)], p=0.8)
        grey, blurred = v2.RandomGrayscale(0.2), v2.RandomApply([v2.GaussianBlur(11, config.blur_sigma)], p=blur)
        views.append(v2.Normalize(augment.MEAN, augment.STD)(blurred(grey(jitter(image)))))
    return statistics(views[0]), statistics(views[1])


def statistics(image: Tensor) -> Tensor:
    colour = image * torch.tensor(augment.STD)[:, None, None] + torch.tensor(augment.MEAN)[:, None, None]
    half = image.shape[-1] // 2
    tilt = colour[..., :half].mean() - colour[..., half:].mean()  # a flip turns it round
    sharpness = colour.diff(dim=-1).abs().mean()
    chroma = (colour.amax(0) - colour.amin(0)).mean().round(decimals=4)
    return torch.stack([*colour.mean((1, 2)), colour.std(), tilt, sharpness, chroma])


def drawn_images(config: AugmentConfig, n: int) -> list[ImageDraws]:
    return draw_views((n, 48, 64, 3), config.model_copy(update={"n_local_crops": 0}), generator()).global_views[0]


def seeded(draw: Callable[[], list[Any]]) -> Tensor:
    """What torchvision draws, whose transforms know no generator but the global one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.tensor(draw()).double()


def assert_same_distribution(some: Tensor, others: Tensor) -> None:
    """Kolmogorov and Smirnov's test of two samples; a true match is refused once in a thousand times."""
    values = torch.cat([some, others]).sort().values
    below = [torch.searchsorted(s.sort().values, values, right=True) / len(s) for s in (some, others)]
    distance = (below[0] - below[1]).abs().max().item()
    limit = 1.95 * math.sqrt(1 / len(some) + 1 / len(others))
    assert distance < limit, f"distributions lie {distance:.4f} apart, more than {limit:.4f}"


def assert_share(count: float, n: int, probability: float) -> None:
    """Within four standard deviations of the binomial."""
    assert abs(count - n * probability) <= 4 * math.sqrt(n * probability * (1 - probability)), (count, n, probability)
