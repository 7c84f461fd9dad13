import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PRETRAIN, write_shards
from torch import Generator, Tensor
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms import functional as tv

from dora.config import AugmentConfig
from dora.data import augment
from dora.data.augment import ImageDraws, augment_clip, augment_clips, draw_views
from dora.data.clips import Clips
from dora.data.order import own_places
from dora.data.stream import batches

CPU = torch.device("cpu")
SMALL = AugmentConfig(clip_size=40, global_size=32, n_local_crops=3, local_size=16)
PLAIN = SMALL.model_copy(
    update={
        "flip_probability": 0.0,
        "jitter_probability": 0.0,
        "grayscale_probability": 0.0,
        "global_blur_probability": 0.0,
        "local_blur_probability": 0.0,
    }
)
BUSY = SMALL.model_copy(update={"flip_probability": 1.0, "grayscale_probability": 0.5, "global_blur_probability": 0.5})


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def some_frames(n: int = 3, height: int = 48, width: int = 64) -> Tensor:
    return torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=generator(2))


# ---- values


@pytest.mark.parametrize("config", [SMALL, PLAIN, BUSY])
@pytest.mark.parametrize("seed", range(3))
def test_views_are_what_torchvision_makes_of_the_same_draws(config: AugmentConfig, seed: int):
    """Image by image, with torchvision's operations in the order of the recipe."""
    frames = some_frames()
    drawn = draw_views(frames.shape, config, generator(seed))
    clip = tv.resized_crop(frames.permute(0, 3, 1, 2) / 255, *drawn.box, [40, 40], antialias=True)
    global_views, local_views = augment_clip(frames, config, generator(seed))
    for frame, image in enumerate(drawn.global_views):
        expected = by_torchvision(clip[frame], image, 32, tv.InterpolationMode.BILINEAR)
        torch.testing.assert_close(global_views[frame], expected, atol=2e-5, rtol=0)
    for crop, images in enumerate(drawn.local_views):
        for frame, image in enumerate(images):
            expected = by_torchvision(clip[frame], image, 16, tv.InterpolationMode.BICUBIC)
            torch.testing.assert_close(local_views[crop, frame], expected, atol=2e-5, rtol=0)


def by_torchvision(frame: Tensor, drawn: ImageDraws, size: int, mode: tv.InterpolationMode) -> Tensor:
    image = tv.resized_crop(frame, *drawn.box, [size, size], mode, antialias=True).clamp(0, 1)
    if drawn.is_flipped:
        image = tv.hflip(image)
    adjustments = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for kind in drawn.order:
        image = adjustments[kind](image, drawn.factors[kind])
    if drawn.is_grey:
        image = tv.rgb_to_grayscale(image, 3)
    if drawn.is_blurred:
        image = tv.gaussian_blur(image, [13, 13], [drawn.sigma, drawn.sigma])
    return tv.normalize(image, [*augment.MEAN], [*augment.STD])


@pytest.mark.parametrize("at_once", [2, 7, 1000])
def test_images_made_together_are_those_made_one_by_one(at_once: int):
    """Clips of different sizes, whose crops come from the middle of other clips' rows."""
    clips = [some_frames(3, 48, 64), some_frames(3, 90, 50), some_frames(3, 33, 120)]

    def views(at_once: int) -> augment.Views:
        return augment_clips(clips, BUSY, [generator(i) for i in range(3)], device=CPU, at_once=at_once)

    for together, single in zip(views(at_once), views(1), strict=True):
        assert torch.equal(together, single)


def test_a_clips_views_do_not_depend_on_the_clips_beside_it():
    clips = [some_frames(2, 48, 64), some_frames(2, 90, 50)]
    views = augment_clips(clips, SMALL, [generator(0), generator(1)], device=CPU)
    for number, clip in enumerate(clips):
        global_views, local_views = augment_clip(clip, SMALL, generator(number))
        assert torch.equal(views.global_views[number], global_views)
        assert torch.equal(views.local_views[:, number], local_views)


def test_threads_change_no_bit():
    frames = some_frames(2, 300, 400)
    one = augment_clip(frames, AugmentConfig(), generator())
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        three = augment_clip(frames, AugmentConfig(), generator())
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(one[0], three[0]) and torch.equal(one[1], three[1])


def test_views_have_their_sizes_and_are_normalised():
    global_views, local_views = augment_clip(some_frames(), SMALL, generator())
    assert global_views.shape == (3, 3, 32, 32) and local_views.shape == (3, 3, 3, 16, 16)
    assert global_views.is_contiguous() and local_views.is_contiguous()
    limits = torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)])
    augment.normalise_(limits)
    for views in (global_views, local_views):
        assert (views >= limits[0] - 1e-5).all() and (views <= limits[1] + 1e-5).all()


def test_the_same_seed_gives_the_same_views_and_another_seed_others():
    first, again, other = (augment_clip(some_frames(), SMALL, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_no_local_crops_is_an_empty_view():
    config = SMALL.model_copy(update={"n_local_crops": 0})
    global_views, local_views = augment_clip(some_frames(), config, generator())
    assert global_views.shape == (3, 3, 32, 32) and local_views.shape == (0, 3, 3, 16, 16)


def test_one_frame_and_one_pixel_more_than_nothing_will_do():
    global_views, local_views = augment_clip(some_frames(1, 2, 3), SMALL, generator())
    assert global_views.shape == (1, 3, 32, 32) and local_views.isfinite().all()


def test_the_global_box_is_shared_by_all_frames_and_a_local_box_by_none():
    """All frames show the same picture, so what differs between them is where they were cropped."""
    frames = some_frames(1).expand(4, -1, -1, -1)
    global_views, local_views = augment_clip(frames, PLAIN, generator())
    assert all(torch.equal(view, global_views[0]) for view in global_views)
    flat = local_views.flatten(0, 1)
    assert not any(torch.equal(flat[i], flat[j]) for i in range(len(flat)) for j in range(i))


def test_a_flip_turns_all_frames_or_none_and_no_local_view():
    always = PLAIN.model_copy(update={"flip_probability": 1.0})
    straight, turned = (augment_clip(some_frames(), config, generator()) for config in (PLAIN, always))
    assert torch.equal(turned[0], straight[0].flip(-1))
    assert torch.equal(turned[1], straight[1])


def test_jitter_of_no_strength_changes_nothing_in_any_order():
    still = PLAIN.model_copy(update={"jitter": (0.0, 0.0, 0.0, 0.0), "jitter_probability": 1.0})
    for before, after in zip(*(augment_clip(some_frames(), c, generator()) for c in (PLAIN, still)), strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


# ---- where


def test_nothing_is_read_back_from_the_device():
    """A meta tensor has no values: whoever asks for one gets an error."""
    clips = [some_frames(3, 48, 64), some_frames(3, 90, 50)]
    views = augment_clips(clips, BUSY, [generator(0), generator(1)], device=torch.device("meta"))
    assert views.global_views.shape == (2, 3, 3, 32, 32) and views.local_views.shape == (3, 2, 3, 3, 16, 16)


def streamed(folder: Path, where: Any, n_workers: int) -> list[augment.Views]:
    clips = Clips([folder], PRETRAIN.clip)
    places = own_places(len(clips), PRETRAIN, first_step=0, n_steps=2, rank=0, world_size=1)
    return [*batches(clips, places, [3, 1], PRETRAIN, device=CPU, n_workers=n_workers, augment=where)]


def assert_same_bits(some: list[augment.Views], others: list[augment.Views]) -> None:
    assert len(some) == len(others) == 4
    for left, right in zip(some, others, strict=True):
        assert torch.equal(left.global_views, right.global_views)
        assert torch.equal(left.local_views, right.local_views)


def test_augmented_clip_by_clip_or_as_a_batch_views_have_the_same_bits(tmp_path: Path):
    folder = write_shards(tmp_path / "walk")
    assert_same_bits(streamed(folder, "device", 0), streamed(folder, "workers", 0))


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("where", ["auto", "device", "workers"])
def test_loader_processes_give_the_same_bits_wherever_clips_are_augmented(tmp_path: Path, where: str, n_workers: int):
    folder = write_shards(tmp_path / "walk")
    assert_same_bits(streamed(folder, "auto", 0), streamed(folder, where, n_workers))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_sees_the_same_views_and_is_not_waited_for():
    clips = [some_frames(3, 48, 64), some_frames(3, 90, 50)]

    def views(device: torch.device) -> augment.Views:
        return augment_clips(clips, BUSY, [generator(0), generator(1)], device=device)

    gpu = torch.device("cuda")
    views(gpu)  # constants are sent once
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = views(gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(views(CPU), there, strict=True):
        torch.testing.assert_close(a, b.cpu(), atol=1e-4, rtol=0)


# ---- distributions, against torchvision's transforms; seeds are fixed, so these never flake


def test_boxes_lie_inside_and_keep_area_and_aspect_in_range():
    boxes = augment.crop_boxes(2000, 90, 120, (0.05, 0.4), generator())
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
    ours = augment.crop_boxes(n, height, width, scale, generator()).double()
    transform, image = v2.RandomResizedCrop(8, scale), torch.empty(3, height, width)
    theirs = seeded(lambda: [list(transform.make_params([image]).values()) for _ in range(n)])
    for some, others in zip(aspects_of(ours), aspects_of(theirs), strict=True):
        assert_same_distribution(some, others)


def aspects_of(boxes: Tensor) -> list[Tensor]:
    top, left, height, width = boxes.T
    return [top, left, height, width, height * width, width / height, top + height / 2, left + width / 2]


@pytest.mark.parametrize(("height", "width"), [(20, 200), (200, 20), (50, 50)])
def test_a_box_that_never_fits_becomes_the_largest_central_one(height: int, width: int):
    box = augment.crop_boxes(1, height, width, (4.0, 5.0), generator())[0]  # four times the image
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


def test_flip_jitter_grey_and_blur_happen_as_often_as_configured_and_independently():
    n_clips, n_frames = 1500, 2
    clips = [draw_views((n_frames, 48, 64, 3), SMALL, generator(seed)) for seed in range(n_clips)]
    assert_share(sum(clip.global_views[0].is_flipped for clip in clips), n_clips, SMALL.flip_probability)
    global_images = [image for clip in clips for image in clip.global_views]
    local_images = [image for clip in clips for crop in clip.local_views for image in crop]
    for images, blur in ((global_images, 0.1), (local_images, 0.5)):
        happened = torch.tensor([[bool(i.order), i.is_grey, i.is_blurred] for i in images]).double()
        for share, count in zip((0.8, 0.2, blur), happened.sum(0).tolist(), strict=True):
            assert_share(count, len(images), share)
        correlations = torch.corrcoef(happened.T).fill_diagonal_(0)
        assert correlations.abs().max() < 4 / math.sqrt(len(images))


def test_colours_are_drawn_for_every_image_anew_and_boxes_as_the_recipe_says():
    drawn = draw_views((4, 48, 64, 3), SMALL.model_copy(update={"n_local_crops": 6}), generator())
    local_images = [image for crop in drawn.local_views for image in crop]
    assert len(drawn.global_views) == 4 and len(local_images) == 24
    assert len({image.box for image in drawn.global_views}) == 1
    assert len({image.is_flipped for image in drawn.global_views}) == 1
    assert len({image.box for image in local_images}) > 20
    assert len({image.factors for image in [*drawn.global_views, *local_images]}) == 28
    assert len({image.sigma for image in [*drawn.global_views, *local_images]}) == 28


def test_pixels_come_out_distributed_as_torchvisions_transforms_make_them():
    """Mean, deviation, greyness and sharpness of single views of one picture, over many clips."""
    n = 500
    config = AugmentConfig(clip_size=24, global_size=16, n_local_crops=1, local_size=12)
    frames = picture()
    ours = [augment_clip(frames, config, generator(seed)) for seed in range(n)]
    theirs = seeded(lambda: [torch.cat([s.flatten() for s in transformed(frames, config)]).tolist() for _ in range(n)])
    ours_flat = torch.stack([torch.cat([statistics(g[0]), statistics(v[0, 0])]) for g, v in ours]).double()
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
    return draw_views((n, 48, 64, 3), config.model_copy(update={"n_local_crops": 0}), generator()).global_views


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
    assert abs(count - n * probability) < 4 * math.sqrt(n * probability * (1 - probability)), (count, n, probability)
