"""Image operations, each against torch's or torchvision's own on a single image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import functional as tv
from torchvision.transforms.v2 import functional as tv2

from dora.data import pixels


def some_images(n: int = 6, size: int = 24) -> Tensor:
    images = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))
    images[0] = images[0, :1]  # grey: no hue, no saturation
    images[1] = 0
    images[2] = images[2].round()  # black, white and pure colours
    return images


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_image_is_adjusted_by_its_own_factor_as_torchvision_does(name: str):
    images = some_images()
    factors = torch.linspace(-0.5, 0.5, 6) if name == "hue" else torch.linspace(0, 1.8, 6)
    ours = images.clone()
    getattr(pixels, f"adjust_{name}_")(ours, factors)
    for image, factor, got in zip(images, factors.tolist(), ours, strict=True):
        for library in (tv, tv2):
            expected = getattr(library, f"adjust_{name}")(image, factor)
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_every_hue_is_turned_as_torchvision_does():
    """All colours of a cube of nine levels a side, and every twelfth of a turn."""
    level = torch.linspace(0, 1, 9)
    colours = torch.stack(torch.meshgrid(level, level, level, indexing="ij")).view(1, 3, 9, 81)
    for shift in torch.arange(-6, 7) / 12:
        ours = colours.clone()
        pixels.adjust_hue_(ours, shift[None])
        torch.testing.assert_close(ours, tv.adjust_hue(colours, shift.item()), atol=1e-5, rtol=0)


def test_colours_that_are_all_but_grey_keep_their_value_whatever_the_hue():
    images = 0.5 + 1e-7 * torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    turned = images.clone()
    pixels.adjust_hue_(turned, torch.tensor([-0.5, -0.1, 0.2, 0.5]))
    torch.testing.assert_close(turned, images, atol=1e-6, rtol=0)


def test_grey_is_torchvisions():
    images = some_images()
    torch.testing.assert_close(pixels.grey(images), tv.rgb_to_grayscale(images), atol=1e-6, rtol=0)
    expected = tv.rgb_to_grayscale(images, 3)
    pixels.make_grey_(images)
    torch.testing.assert_close(images, expected, atol=1e-6, rtol=0)


def test_solarisation_is_torchvisions_and_pillows():
    """Pillow inverts bytes of 128 and more."""
    levels = torch.arange(256, dtype=torch.uint8).repeat(3, 2).view(1, 3, 16, 32)
    ours = levels / 255
    pixels.solarize_(ours)
    torch.testing.assert_close(ours, tv.solarize(levels / 255, 0.5))
    pillows = ImageOps.solarize(Image.fromarray(levels[0, 0].numpy()))
    assert torch.equal((255 * ours[0, 0]).round().byte(), torch.tensor(np.asarray(pillows)))


@pytest.mark.parametrize("size", [8, 24])
def test_blur_is_torchvisions_with_each_image_its_own_sigma(size: int):
    images, sigmas = some_images(size=size), torch.tensor([0.1, 0.3, 0.7, 1.0, 1.5, 2.0])
    ours = images.clone()
    pixels.blur_(ours, sigmas, radius=6)
    for image, sigma, got in zip(images, sigmas.tolist(), ours, strict=True):
        torch.testing.assert_close(got, tv.gaussian_blur(image, [13, 13], [sigma, sigma]), atol=1e-6, rtol=0)


def test_blur_of_no_width_changes_nothing_and_keeps_the_mean():
    images = some_images()
    same = images.clone()
    pixels.blur_(same, torch.full((6,), 0.01), radius=6)
    torch.testing.assert_close(same, images)
    flat = torch.full((1, 3, 9, 9), 0.3)
    pixels.blur_(flat, torch.tensor([2.0]), radius=6)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.3))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [1, 16, 112])
def test_taps_are_the_rows_of_torchs_antialiased_resizing(mode: pixels.Mode, size: int):
    """As matrices, for enlarging and shrinking alike; what is short of the longest is padded."""
    lengths = torch.tensor([*range(1, 40), 111, 112, 113, 300, 1023])
    taps = pixels.resizing_taps(lengths, size, mode, longest=1023)
    assert (taps.rows >= 0).all() and (taps.rows < lengths[:, None, None]).all()
    for length, rows, weight in zip(lengths.tolist(), taps.rows, taps.weight, strict=True):
        ours = torch.zeros(size, length).scatter_add_(1, rows.long(), weight)
        eye = torch.eye(length)[None, None]
        theirs = F.interpolate(eye, (size, length), mode=mode, antialias=True)[0, 0]
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [7, 16, 96])
def test_an_image_needs_no_more_taps_than_its_length_asks_for(mode: pixels.Mode, size: int):
    lengths = torch.arange(1, 900)
    taps = pixels.resizing_taps(lengths, size, mode, longest=900)
    for length, weight in zip(lengths.tolist(), taps.weight, strict=True):
        assert not weight[:, pixels.taps_needed(length, size, mode) :].any()


def test_rows_are_counted_over_all_images():
    """Two images of three rows: sums of rows 0 and 1 from the second row of all, and from the fifth."""
    images = torch.arange(6.0).view(2, 3, 1)
    taps = pixels.Taps(torch.tensor([[[0, 1]]], dtype=torch.int32), torch.tensor([[[1.0, 10.0]]]))
    sums = pixels.resample(images, taps, torch.tensor([1, 4], dtype=torch.int32))
    assert sums.flatten().tolist() == [1 + 20, 4 + 50]
