import math

import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as tv
from torchvision.transforms.v2 import functional as tv2

from dora.config import AugmentConfig
from dora.data import augment

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


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def some_images(n: int = 6, size: int = 24) -> Tensor:
    images = torch.rand(n, 3, size, size, generator=generator(1))
    images[0] = images[0, :1]  # grey: no hue, no saturation
    images[1] = 0
    images[2] = images[2].round()  # black, white and pure colours
    return images


def some_frames(n: int = 3, height: int = 48, width: int = 64) -> Tensor:
    return torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=generator(2))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_image_is_adjusted_by_its_own_factor_as_torchvision_does(name: str):
    images = some_images()
    factors = torch.linspace(-0.5, 0.5, 6) if name == "hue" else torch.linspace(0, 1.8, 6)
    ours = getattr(augment, f"adjust_{name}")(images, factors)
    for image, factor, got in zip(images, factors.tolist(), ours, strict=True):
        for library in (tv, tv2):
            expected = getattr(library, f"adjust_{name}")(image, factor)
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_grey_is_torchvisions():
    images = some_images()
    torch.testing.assert_close(augment.grey(images), tv.rgb_to_grayscale(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [8, 24])
def test_blur_is_torchvisions_with_each_image_its_own_sigma(size: int):
    images, sigmas = some_images(size=size), torch.tensor([0.1, 0.3, 0.7, 1.0, 1.5, 2.0])
    ours = augment.gaussian_blur(images, sigmas, max_sigma=2.0)
    for image, sigma, got in zip(images, sigmas.tolist(), ours, strict=True):
        torch.testing.assert_close(got, tv.gaussian_blur(image, [13, 13], [sigma, sigma]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_cropping_and_resizing_is_torchvisions(mode: str):
    images, box = some_images(), torch.tensor([3, 5, 17, 11])
    ours = augment.resize(augment.crop(images, box), 16, mode)
    theirs = tv.resized_crop(images, *box.tolist(), [16, 16], tv.InterpolationMode(mode), antialias=True)
    torch.testing.assert_close(ours, theirs.clamp(0, 1), atol=1e-5, rtol=0)


def test_boxes_lie_inside_and_keep_area_and_aspect_in_range():
    boxes = augment.crop_boxes(2000, 90, 120, (0.05, 0.4), generator())
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 90).all() and (left + width <= 120).all()
    assert top.min() == 0 and (top + height).max() == 90  # both edges are reached
    area, ratio = (height * width).double() / (90 * 120), width / height
    assert 0.04 < area.min() and area.max() < 0.42
    assert 0.7 < ratio.min() and ratio.max() < 1.4


@pytest.mark.parametrize(("height", "width", "scale"), [(90, 120, (0.2, 1.0)), (60, 200, (0.4, 1.0))])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, scale: tuple[float, float]):
    """Quantiles of every coordinate; in the wide image many draws do not fit and are drawn again."""
    n = 3000
    ours = augment.crop_boxes(n, height, width, scale, generator()).double()
    image = torch.empty(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(n)]).double()
    at = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double()
    difference = (ours.quantile(at, dim=0) - theirs.quantile(at, dim=0)).abs()
    assert (difference / torch.tensor([height, width, height, width]) < 0.04).all()
    assert abs((ours[:, 2] * ours[:, 3]).mean() / (theirs[:, 2] * theirs[:, 3]).mean() - 1) < 0.03


@pytest.mark.parametrize(("height", "width"), [(20, 200), (200, 20), (50, 50)])
def test_a_box_that_never_fits_becomes_the_largest_central_one(height: int, width: int):
    box = augment.crop_boxes(1, height, width, (4.0, 5.0), generator())[0]  # four times the image
    image = torch.empty(1, height, width)
    assert tuple(box.tolist()) == RandomResizedCrop.get_params(image, [4.0, 5.0], [3 / 4, 4 / 3])


def test_views_have_their_sizes_and_are_normalised():
    global_views, local_views = augment.augment_clip(some_frames(), SMALL, generator())
    assert global_views.shape == (3, 3, 32, 32) and local_views.shape == (3, 3, 3, 16, 16)
    low, high = augment.normalise(torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)]))
    for views in (global_views, local_views):
        assert (views >= low - 1e-5).all() and (views <= high + 1e-5).all()


def test_the_same_seed_gives_the_same_views_and_another_seed_others():
    first, again, other = (augment.augment_clip(some_frames(), SMALL, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_no_local_crops_is_an_empty_view():
    config = SMALL.model_copy(update={"n_local_crops": 0})
    global_views, local_views = augment.augment_clip(some_frames(), config, generator())
    assert global_views.shape == (3, 3, 32, 32) and local_views.shape == (0, 3, 3, 16, 16)


def test_the_global_box_is_shared_by_all_frames_and_a_local_box_by_none():
    """All frames show the same picture, so what differs between them is where they were cropped."""
    frames = some_frames(1).expand(4, -1, -1, -1)
    global_views, local_views = augment.augment_clip(frames, PLAIN, generator())
    assert all(torch.equal(view, global_views[0]) for view in global_views)
    flat = local_views.flatten(0, 1)
    assert not any(torch.equal(flat[i], flat[j]) for i in range(len(flat)) for j in range(i))


def test_a_flip_turns_all_frames_or_none():
    always = PLAIN.model_copy(update={"flip_probability": 1.0})
    straight, turned = (augment.augment_clip(some_frames(), config, generator())[0] for config in (PLAIN, always))
    assert torch.equal(turned, straight.flip(-1))


def test_the_global_view_is_the_crop_of_a_crop():
    frames = some_frames()
    draws = generator()
    outer = augment.crop_boxes(1, 48, 64, PLAIN.clip_scale, draws)[0].tolist()
    inner = augment.crop_boxes(1, 40, 40, PLAIN.global_scale, draws)[0].tolist()
    clip = tv.resized_crop(frames.permute(0, 3, 1, 2) / 255, *outer, [40, 40], antialias=True)
    expected = tv.normalize(tv.resized_crop(clip, *inner, [32, 32], antialias=True), augment.MEAN, augment.STD)
    torch.testing.assert_close(augment.augment_clip(frames, PLAIN, generator())[0], expected, atol=1e-4, rtol=0)


def test_colour_is_drawn_for_every_frame_anew_and_as_often_as_configured():
    """Frames of one constant colour: what comes out tells which of them were touched."""
    frames = torch.tensor([120, 60, 200], dtype=torch.uint8).expand(400, 16, 16, 3)
    config = SMALL.model_copy(update={"n_local_crops": 0, "clip_size": 8, "global_size": 8})
    views, _ = augment.augment_clip(frames, config, generator())
    colours = views[:, :, 0, 0] * torch.tensor(augment.STD) + torch.tensor(augment.MEAN)
    untouched = ((colours - torch.tensor([120, 60, 200]) / 255).abs() < 1e-4).all(1)
    is_grey = colours.max(1).values - colours.min(1).values < 1e-4
    assert abs(untouched.float().mean() - (1 - config.jitter_probability) * (1 - config.grayscale_probability)) < 0.06
    assert abs(is_grey.float().mean() - config.grayscale_probability) < 0.06
    assert len({tuple(colour) for colour in colours[~untouched].tolist()}) > 300


def test_jitter_of_no_strength_changes_nothing_in_any_order():
    config = SMALL.model_copy(
        update={"jitter": (0.0, 0.0, 0.0, 0.0), "jitter_probability": 1.0, "grayscale_probability": 0.0}
    )
    images = torch.rand(20, 3, 4, 4, generator=generator())
    same = augment._colour(images.clone(), config, 0.0, generator())
    torch.testing.assert_close(same, augment.normalise(images), atol=1e-5, rtol=0)


def test_blur_of_no_width_changes_nothing_and_keeps_the_mean():
    images = some_images()
    same = augment.gaussian_blur(images, torch.full((6,), 0.01), max_sigma=2.0)
    torch.testing.assert_close(same, images)
    flat = torch.full((1, 3, 9, 9), 0.3)
    torch.testing.assert_close(augment.gaussian_blur(flat, torch.tensor([2.0]), max_sigma=2.0), flat)
    assert math.isclose(flat.mean().item(), 0.3, rel_tol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_sees_the_same_views():
    here = augment.augment_clip(some_frames(), SMALL, generator())
    there = augment.augment_clip(some_frames().cuda(), SMALL, generator())
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b.cpu(), atol=1e-4, rtol=0)
