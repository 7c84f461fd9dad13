import pickle
from pathlib import Path

import numpy as np
import pytest
from tiny import PRETRAIN, picture, write_shards

from dora.config import ClipConfig
from dora.data.clips import Clips, batch_positions, epoch_order
from dora.data.stream import own_places, steps_per_epoch


def frame_numbers(clips: Clips, start: int, fps: float = 10) -> list[int]:
    return [round(time * fps) for time in clips.times_s(start)]


def test_a_clip_is_frames_one_gap_apart_read_across_tars(tmp_path: Path):
    clips = Clips([write_shards(tmp_path / "walk")], ClipConfig(n_frames=4, gap_s=0.5))
    assert len(clips) == 20 - 3 * 5
    assert frame_numbers(clips, 0) == [0, 5, 10, 15]
    assert frame_numbers(clips, 4) == [4, 9, 14, 19]
    for image, number in zip(clips.read(4), [4, 9, 14, 19], strict=True):
        assert np.abs(image.astype(int) - picture(number, 64, 48)).mean() < 2  # JPEG
    assert clips.source(4) == "walk"


def test_starts_are_one_stride_apart(tmp_path: Path):
    clips = Clips([write_shards(tmp_path / "walk")], ClipConfig(n_frames=2, gap_s=0.1, start_stride_s=0.6))
    assert [frame_numbers(clips, start)[0] for start in range(clips.n_starts)] == [0, 6, 12, 18]


def test_a_video_of_exactly_one_clip_has_one_start(tmp_path: Path):
    clips = Clips([write_shards(tmp_path / "walk", n_frames=16)], ClipConfig(n_frames=4, gap_s=0.5))
    assert clips.n_starts == 1
    with pytest.raises(IndexError, match="from 0 to 0, got 1"):
        clips.read(1)


def test_a_single_frame_needs_no_gap(tmp_path: Path):
    assert Clips([write_shards(tmp_path / "walk")], ClipConfig(n_frames=1, gap_s=0.001)).n_starts == 20


def test_starts_of_several_videos_follow_one_another_each_at_its_own_rate(tmp_path: Path):
    slow = write_shards(tmp_path / "slow", name="slow", fps=5, n_frames=6)
    fast = write_shards(tmp_path / "fast", name="fast", fps=10, n_frames=6, width=96)
    clips = Clips([slow, fast], ClipConfig(n_frames=2, gap_s=0.4))
    assert [clips.source(start) for start in range(len(clips))] == ["slow"] * 4 + ["fast"] * 2
    assert frame_numbers(clips, 3, fps=5) == [3, 5]
    assert frame_numbers(clips, 4, fps=10) == [0, 4]
    assert clips.read(3).shape == (2, 48, 64, 3)
    assert clips.read(4).shape == (2, 48, 96, 3)


def test_a_video_too_short_for_a_clip_is_refused_with_numbers(tmp_path: Path):
    with pytest.raises(ValueError, match=r"4 frames 5 apart \(16 stored frames, 1.6 s\), but walk has 15"):
        Clips([write_shards(tmp_path / "walk", n_frames=15)], ClipConfig(n_frames=4, gap_s=0.5))


@pytest.mark.parametrize("name", ["gap_s", "start_stride_s"])
def test_less_than_one_stored_frame_is_refused(tmp_path: Path, name: str):
    config = ClipConfig(**{"n_frames": 2, name: 0.04})
    with pytest.raises(ValueError, match=rf"clip.{name} is 0.04 s, less than one stored frame of walk"):
        Clips([write_shards(tmp_path / "walk")], config)


def test_a_broken_frame_is_named(tmp_path: Path):
    folder = write_shards(tmp_path / "walk")
    clips = Clips([folder], ClipConfig(n_frames=1))
    tar = folder / "shard-000001.tar"
    content = bytearray(tar.read_bytes())
    content[512:530] = bytes(18)  # the head of frame 8's JPEG
    tar.write_bytes(content)
    clips.read(9)
    with pytest.raises(ValueError, match=r"frame 8 of walk \(in .*shard-000001.tar\) is no readable JPEG"):
        clips.read(8)


def test_clips_travel_to_another_process(tmp_path: Path):
    clips = Clips([write_shards(tmp_path / "walk")], ClipConfig(n_frames=2, gap_s=0.1))
    assert np.array_equal(pickle.loads(pickle.dumps(clips)).read(3), clips.read(3))


def test_an_epoch_visits_every_start_as_often_as_there_are_passes():
    order = epoch_order(7, seed=3, epoch=2, passes=3)
    assert sorted(order) == sorted([*range(7)] * 3)
    assert all(sorted(part) == [*range(7)] for part in order.reshape(3, 7))


def test_the_order_depends_on_seed_and_epoch_alone():
    orders = [epoch_order(50, seed=seed, epoch=epoch, passes=1).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == epoch_order(50, seed=0, epoch=0, passes=1).tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_every_position_is_read_by_exactly_one_rank(world_size: int):
    for step in range(3):
        positions = [
            batch_positions(step, clips_per_batch=5, rank=rank, world_size=world_size) for rank in range(world_size)
        ]
        assert sorted(np.concatenate(positions)) == [*range(5 * step, 5 * step + 5)]


def test_a_run_sees_each_start_once_an_epoch_though_it_stops_and_the_ranks_change():
    config, n_starts = PRETRAIN.model_copy(update={"clips_per_batch": 4}), 18
    n_steps = 3 * steps_per_epoch(n_starts, config)  # 4 steps an epoch; 2 starts are left over

    def seen(first_step: int, end: int, world_size: int) -> set[tuple[int, int, int]]:
        places = [
            place
            for rank in range(world_size)
            for place in own_places(
                n_starts, config, first_step=first_step, n_steps=end, rank=rank, world_size=world_size
            )
        ]
        assert len(places) == len(set(places)) == 4 * (end - first_step)
        return set(places)

    unbroken = seen(0, n_steps, 1)
    assert seen(0, 5, 1) | seen(5, 7, 3) | seen(7, n_steps, 2) == unbroken
    for epoch in range(3):
        starts = [place.start for place in unbroken if place.epoch == epoch]
        assert len(starts) == len(set(starts)) == 16


@pytest.mark.parametrize(("n_starts", "visits"), [(3, {2, 3}), (100, {0, 1})], ids=["short video", "long video"])
def test_an_epoch_of_fixed_length_visits_all_starts_about_equally_often(n_starts: int, visits: set[int]):
    config = PRETRAIN.model_copy(update={"clips_per_batch": 4, "steps_per_epoch": 2})
    assert steps_per_epoch(n_starts, config) == 2
    places = own_places(n_starts, config, first_step=0, n_steps=2, rank=0, world_size=1)
    starts = [place.start for place in places]
    assert len(starts) == 8 and {starts.count(start) for start in range(n_starts)} == visits


def test_too_few_clips_for_a_batch_are_refused_with_what_to_change():
    with pytest.raises(ValueError, match=r"3 clips \(3 starts x 1 passes\), fewer than one batch of 4. Lower"):
        steps_per_epoch(3, PRETRAIN)
    assert steps_per_epoch(3, PRETRAIN.model_copy(update={"passes_per_epoch": 2})) == 1
