from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from tiny import PRETRAIN, write_shards

from dora.method.network import build_network
from dora.method.vit import build_vit
from dora.training.checkpoint import TrainingState, save_state
from eval.report.data import ClipPictures
from eval.report.figures import cut_out, draw_clip, draw_clips, glow, mark, overlap

RED = (255, 0, 0)


@pytest.fixture(scope="module")
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return build_vit(PRETRAIN.backbone, drop_path=False).eval()


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 48, 80, 3), dtype=np.uint8)


def draw(vit: VisionTransformer, frames: np.ndarray, folder: Path) -> ClipPictures:
    times_s = [10.0 + 0.5 * number for number in range(len(frames))]
    return draw_clip(vit, frames, PRETRAIN, folder, name="clip-1", video="walk", times_s=times_s)


def test_a_clip_becomes_strips_of_as_many_pictures_as_they_say(
    vit: VisionTransformer, frames: np.ndarray, tmp_path: Path
):
    clip = draw(vit, frames, tmp_path)
    assert clip.grid == (4, 7)  # 48 x 80 pixels at short side 32: 32 x 53, in patches of 8 the nearest is 4 x 7
    assert [strip.label for strip in clip.over_time] == [
        "frames", "object 1 tracking map", "object 1 mask", "object 2 tracking map", "object 2 mask",
    ]  # fmt: skip
    assert clip.over_time[0].columns == ("+0.0 s", "+0.5 s", "+1.0 s", "+1.5 s")
    assert len(clip.attention.columns) == 3  # heads
    assert len(set(clip.heads)) == 2 and set(clip.heads) <= {0, 1, 2}  # a head of its own for each object
    for strip in (*clip.over_time, clip.attention, clip.unrefined, clip.refined):
        with Image.open(tmp_path / strip.file) as image:
            assert image.size == (80 * len(strip.columns), 48)  # a small video is not enlarged


def test_a_sheet_shows_all_strips_of_a_clip_below_each_other(
    vit: VisionTransformer, frames: np.ndarray, tmp_path: Path
):
    clip = draw(vit, frames, tmp_path)
    with Image.open(tmp_path / clip.sheet) as image:
        # Four frames of 80 x 48 become 240 x 144: eight rows with gaps of 4, names of columns above 1, 6 and 7.
        assert image.size == (190 + 960, 8 * (144 + 4) + 3 * 24)


def test_a_large_video_is_shrunk_to_the_width_of_the_page(vit: VisionTransformer, tmp_path: Path):
    clip = draw(vit, np.zeros((4, 216, 768, 3), np.uint8), tmp_path)
    with Image.open(tmp_path / clip.over_time[0].file) as image:
        assert image.size == (1536, 108)


def test_the_same_weights_and_frames_give_the_same_files(vit: VisionTransformer, frames: np.ndarray, tmp_path: Path):
    one, two = (draw(vit, frames, tmp_path / name) for name in ("one", "two"))
    assert one == two
    for strip in one.over_time:
        assert (tmp_path / "one" / strip.file).read_bytes() == (tmp_path / "two" / strip.file).read_bytes()


def test_clips_are_drawn_from_the_teacher_at_places_spread_over_the_footage(tmp_path: Path):
    torch.manual_seed(0)
    student, teacher = (build_network(PRETRAIN, drop_path=False) for _ in range(2))
    optimizer, scaler = torch.optim.SGD(student.parameters()), torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(PRETRAIN, student, teacher, optimizer, scaler, {"cls": torch.zeros(16)})
    save_state(tmp_path / "checkpoint.safetensors", state)
    shards = [write_shards(tmp_path / "shards", n_frames=20)]
    clips = draw_clips(tmp_path / "checkpoint.safetensors", shards, PRETRAIN, tmp_path, worlds={})
    assert [clip.video for clip in clips] == ["walk"] * 3
    # 18 starts (two frames 0.2 s apart, 10 a second): the middles of their thirds.
    assert [clip.times_s for clip in clips] == [pytest.approx((s / 10, s / 10 + 0.2)) for s in (3, 9, 15)]


def test_a_video_with_a_single_clip_is_drawn_once(tmp_path: Path):
    torch.manual_seed(0)
    student, teacher = (build_network(PRETRAIN, drop_path=False) for _ in range(2))
    optimizer, scaler = torch.optim.SGD(student.parameters()), torch.amp.GradScaler("cpu", enabled=False)
    save_state(
        tmp_path / "c.safetensors",
        TrainingState(PRETRAIN, student, teacher, optimizer, scaler, {"cls": torch.zeros(16)}),
    )
    shards = [write_shards(tmp_path / "s", n_frames=3)]
    assert len(draw_clips(tmp_path / "c.safetensors", shards, PRETRAIN, tmp_path, worlds={})) == 1


def test_what_is_really_there_is_shown_below_the_frames_and_measured(
    vit: VisionTransformer, frames: np.ndarray, tmp_path: Path
):
    things = np.zeros((4, 48, 80), np.int32)
    things[:, :24, :40] = 7
    clip = draw_clip(
        vit, frames, PRETRAIN, tmp_path, name="clip-1", video="walk", times_s=[0, 1, 2, 3], things=things
    )  # fmt: skip
    assert clip.over_time[1].label == "things that are there"
    assert clip.thing_ious is not None and len(clip.thing_ious) == 2 and all(0 <= iou < 1 for iou in clip.thing_ious)
    unknown = draw(vit, frames, tmp_path / "unknown")
    assert unknown.thing_ious is None and "things that are there" not in [s.label for s in unknown.over_time]


def test_a_thing_is_marked_in_its_own_colour_and_the_rest_darkened():
    frame = torch.full((3, 8, 8), 0.8)
    things = np.zeros((4, 4), np.int32)
    things[:, :2] = 5
    picture = mark(frame, things)
    assert torch.allclose(picture[:, :, 4:], 0.55 * frame[:, :, 4:])
    assert len(picture[:, :, :4].flatten(1).unique(dim=1).T) == 1 and not torch.equal(picture[:, 0, 0], frame[:, 0, 0])


def test_overlap_is_the_mean_iou_of_all_pairs():
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 0]], [[0, 0, 1, 1]]], dtype=torch.bool)
    assert overlap(masks) == pytest.approx((1 / 3 + 0 + 1 / 3) / 3)
    assert overlap(masks[:1]) == 0
    assert overlap(torch.zeros_like(masks)) == 0


def test_a_mask_keeps_its_patches_and_darkens_the_rest():
    frame = torch.full((3, 32, 32), 0.8)
    mask = torch.tensor([[True, False], [False, False]])
    picture = cut_out(frame, mask, RED)
    assert torch.equal(picture[:, :13, :13], frame[:, :13, :13])
    assert picture[:, 16:, 16:].max() < 0.3
    assert torch.equal(picture[:, 4, 15], torch.tensor([1.0, 0.0, 0.0]))  # the outline


def test_light_falls_where_the_map_is_high():
    picture = glow(torch.full((3, 16, 16), 0.5), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), RED)
    assert picture[0, 0, 0] > 0.8
    assert picture[:, -1, -1].max() < 0.3
