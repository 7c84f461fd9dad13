from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PRETRAIN, write_shards
from torch import Generator, Tensor
from torchvision.transforms import functional as tv

from dora.config import AugmentConfig
from dora.data import augment
from dora.data.augment import Views, augment_clip, augment_clips
from dora.data.clips import Clips
from dora.data.draws import ImageDraws, draw_views
from dora.data.order import own_places
from dora.data.stream import batches

CPU = torch.device("cpu")
SMALL = AugmentConfig(clip_size=40, global_size=32, n_local_crops=3, local_size=16)
PLAIN = SMALL.model_copy(
    update={
        "flip_probability": 0.0,
        "jitter_probability": 0.0,
        "grayscale_probability": 0.0,
        "global_blur_probability": (0.0,),
        "local_blur_probability": 0.0,
    }
)
BUSY = SMALL.model_copy(
    update={"flip_probability": 1.0, "grayscale_probability": 0.5, "global_blur_probability": (0.5,)}
)
# DINO's (facebookresearch/dino, main_dino.py), but for sizes and a solarisation that happens more often.
DINO = AugmentConfig(
    clip_scale=None, one_global_box=False, global_size=32, global_resize="bicubic", n_local_crops=3, local_size=16,
    local_flip_probability=0.5, global_blur_probability=(1.0, 0.1), solarize_probability=(0.0, 0.5),
)  # fmt: skip


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def some_frames(n: int = 3, height: int = 48, width: int = 64) -> Tensor:
    return torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=generator(2))


# ---- values


@pytest.mark.parametrize("config", [SMALL, PLAIN, BUSY, DINO], ids=["small", "plain", "busy", "dino"])
@pytest.mark.parametrize("seed", range(3))
def test_views_are_what_torchvision_makes_of_the_same_draws(config: AugmentConfig, seed: int):
    """Image by image, with torchvision's operations in the order of the recipe."""
    frames = some_frames()
    drawn = draw_views(frames.shape, config, generator(seed))
    clip = frames.permute(0, 3, 1, 2) / 255
    if drawn.box:
        clip = tv.resized_crop(clip, *drawn.box, [40, 40], antialias=True)
    global_views, local_views = augment_clip(frames, config, generator(seed))
    kinds = [
        (global_views, drawn.global_views, tv.InterpolationMode(config.global_resize)),
        (local_views, drawn.local_views, tv.InterpolationMode.BICUBIC),
    ]
    for views, draws, mode in kinds:
        assert len(views) == len(draws)
        for view, images in zip(views, draws, strict=True):
            for got, frame, image in zip(view, clip, images, strict=True):
                expected = by_torchvision(frame, image, got.shape[-1], mode)
                torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


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
    if drawn.is_solarized:
        image = tv.solarize(image, 0.5)
    return tv.normalize(image, [*augment.MEAN], [*augment.STD])


@pytest.mark.parametrize("config", [BUSY, DINO], ids=["busy", "dino"])
@pytest.mark.parametrize("at_once", [2, 7, 1000])
@pytest.mark.parametrize("shapes", [[(48, 64), (90, 50), (33, 120)], [(90, 50)] * 3], ids=["unlike", "alike"])
def test_images_made_together_are_those_made_one_by_one(
    config: AugmentConfig, at_once: int, shapes: list[tuple[int, int]]
):
    """Crops come from the middle of other clips' rows; the larger ones need taps that the smaller ones do not."""
    clips = [some_frames(3, height, width) for height, width in shapes]

    def views(at_once: int) -> tuple[Tensor, Tensor]:
        return augment_clips(clips, config, [generator(i) for i in range(3)], device=CPU, at_once=at_once)

    for together, single in zip(views(at_once), views(1), strict=True):
        assert torch.equal(together, single)


@pytest.mark.parametrize("config", [SMALL, DINO], ids=["small", "dino"])
@pytest.mark.parametrize("width", [50, 64], ids=["unlike", "alike"])
def test_a_clips_views_do_not_depend_on_the_clips_beside_it(config: AugmentConfig, width: int):
    clips = [some_frames(2, 48, 64), some_frames(2, 48, width).flip(0)]
    views = augment_clips(clips, config, [generator(0), generator(1)], device=CPU)
    for number, clip in enumerate(clips):
        for together, single in zip(views, augment_clip(clip, config, generator(number)), strict=True):
            assert torch.equal(together[:, number], single)


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
    assert global_views.shape == (1, 3, 3, 32, 32) and local_views.shape == (3, 3, 3, 16, 16)
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
    assert global_views.shape == (1, 3, 3, 32, 32) and local_views.shape == (0, 3, 3, 16, 16)


@pytest.mark.parametrize("config", [SMALL, DINO], ids=["small", "dino"])
def test_one_frame_and_one_pixel_more_than_nothing_will_do(config: AugmentConfig):
    global_views, local_views = augment_clip(some_frames(1, 2, 3), config, generator())
    assert global_views.shape[1:] == (1, 3, 32, 32)
    assert global_views.isfinite().all() and local_views.isfinite().all()


def test_the_global_box_is_shared_by_all_frames_and_a_local_box_by_none():
    """All frames show the same picture, so what differs between them is where they were cropped."""
    frames = some_frames(1).expand(4, -1, -1, -1)
    global_views, local_views = augment_clip(frames, PLAIN, generator())
    assert all(torch.equal(view, global_views[0, 0]) for view in global_views[0])
    flat = local_views.flatten(0, 1)
    assert not any(torch.equal(flat[i], flat[j]) for i in range(len(flat)) for j in range(i))


def test_without_a_common_box_each_frame_is_cropped_and_flipped_by_itself():
    frames = some_frames(1).expand(8, -1, -1, -1)
    config = PLAIN.model_copy(update={"one_global_box": False, "flip_probability": 0.5})
    views = augment_clip(frames, config, generator())[0][0]
    assert not any(torch.equal(views[i], views[j]) for i in range(8) for j in range(i))
    flips = [image.is_flipped for image in draw_views(frames.shape, config, generator()).global_views[0]]
    assert {*flips} == {True, False}


def test_two_global_views_differ_in_box_and_style():
    two = {"global_blur_probability": (1.0, 0.0), "solarize_probability": (0.0, 1.0)}
    first, second = draw_views((4, 48, 64, 3), SMALL.model_copy(update=two), generator()).global_views
    assert all(image.is_blurred and not image.is_solarized for image in first)
    assert all(image.is_solarized and not image.is_blurred for image in second)
    assert first[0].box != second[0].box and first[0].factors != second[0].factors


def test_whole_frames_are_cut_without_distortion():
    """Boxes reach all edges of a wide frame; they are no wider than 4/3 of their height."""
    draws = [draw_views((2, 60, 100, 3), DINO, generator(seed)) for seed in range(300)]
    boxes = [image.box for drawn in draws for view in drawn.global_views for image in view]
    assert all(drawn.box is None for drawn in draws)
    assert max(left + width for _, left, _, width in boxes) == 100
    assert max(top + height for top, _, height, _ in boxes) == 60
    assert all(0.7 < width / height < 1.4 for _, _, height, width in boxes)


def test_a_flip_turns_all_frames_or_none_and_local_views_by_themselves():
    always = PLAIN.model_copy(update={"flip_probability": 1.0})
    straight, turned = (augment_clip(some_frames(), config, generator()) for config in (PLAIN, always))
    assert torch.equal(turned[0], straight[0].flip(-1))
    assert torch.equal(turned[1], straight[1])
    locals_too = PLAIN.model_copy(update={"local_flip_probability": 1.0})
    turned = augment_clip(some_frames(), locals_too, generator())
    assert torch.equal(turned[0], straight[0])
    assert torch.equal(turned[1], straight[1].flip(-1))


def test_jitter_of_no_strength_changes_nothing_in_any_order():
    still = PLAIN.model_copy(update={"jitter": (0.0, 0.0, 0.0, 0.0), "jitter_probability": 1.0})
    for before, after in zip(*(augment_clip(some_frames(), c, generator()) for c in (PLAIN, still)), strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


# ---- where


@pytest.mark.parametrize("config", [BUSY, DINO], ids=["busy", "dino"])
def test_nothing_is_read_back_from_the_device(config: AugmentConfig):
    """A meta tensor has no values: whoever asks for one gets an error."""
    clips = [some_frames(3, 48, 64), some_frames(3, 90, 50)]
    global_views, local_views = augment_clips(clips, config, [generator()] * 2, device=torch.device("meta"))
    assert global_views.shape == (config.n_global_views, 2, 3, 3, 32, 32)
    assert local_views.shape == (3, 2, 3, 3, 16, 16)


def streamed(folder: Path, where: Any, n_workers: int, views: AugmentConfig = PRETRAIN.augment) -> list[Views]:
    """Eight clips that are cut once."""
    clip = PRETRAIN.clip.model_copy(update={"n_cuts": 1})
    config, clips = PRETRAIN.model_copy(update={"augment": views, "clip": clip}), Clips([folder], clip)
    places = own_places(len(clips), config, first_step=0, n_steps=2, rank=0, world_size=1)
    with batches(clips, places, [3, 1], config, device=CPU, n_workers=n_workers, augment=where) as views:
        return [*views]


def assert_same_bits(some: list[Views], others: list[Views]) -> None:
    assert len(some) == len(others) == 4
    for left, right in zip(some, others, strict=True):
        assert left.positions == right.positions
        assert torch.equal(left.global_views, right.global_views)
        assert torch.equal(left.local_views, right.local_views)


@pytest.mark.parametrize("config", [PRETRAIN.augment, DINO], ids=["dora", "dino"])
def test_augmented_clip_by_clip_or_as_a_batch_views_have_the_same_bits(tmp_path: Path, config: AugmentConfig):
    folder = write_shards(tmp_path / "walk")
    assert_same_bits(streamed(folder, "device", 0, config), streamed(folder, "workers", 0, config))


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("where", ["auto", "device", "workers"])
def test_loader_processes_give_the_same_bits_wherever_clips_are_augmented(tmp_path: Path, where: str, n_workers: int):
    folder = write_shards(tmp_path / "walk")
    assert_same_bits(streamed(folder, "auto", 0), streamed(folder, where, n_workers))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("config", [BUSY, DINO], ids=["busy", "dino"])
def test_a_gpu_sees_the_same_views_and_is_not_waited_for(config: AugmentConfig):
    clips = [some_frames(3, 48, 64), some_frames(3, 90, 50)]

    def views(device: torch.device) -> tuple[Tensor, Tensor]:
        return augment_clips(clips, config, [generator(0), generator(1)], device=device)

    gpu = torch.device("cuda")
    views(gpu)  # constants are sent once
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = views(gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(views(CPU), there, strict=True):
        torch.testing.assert_close(a, b.cpu(), atol=1e-4, rtol=0)
