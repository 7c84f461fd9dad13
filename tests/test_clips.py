import os
import pickle
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny import picture, write_shards

from dora.config import ClipConfig
from dora.data.clips import Clips, Cut
from dora.data.index import INDEX, open_index, write_index


def frame_numbers(clips: Clips, start: int, *, fps: float = 10, cuts: Sequence[Cut] = ()) -> list[int]:
    return [round(time * fps) for time in clips.times_s(start, cuts)]


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


# ---- cuts


def test_a_cut_clip_goes_on_as_another_clip_does(tmp_path: Path):
    """Frames keep their place in the clip: after a cut at frame 2 come frames 2 and 3 of the other clip."""
    clips = Clips([write_shards(tmp_path / "walk")], ClipConfig(n_frames=4, gap_s=0.5))
    cuts = [Cut(1, 4), Cut(3, 0)]
    assert frame_numbers(clips, 2, cuts=cuts[:1]) == [2, 9, 14, 19]
    assert frame_numbers(clips, 2, cuts=cuts) == [2, 9, 14, 15]
    frames = np.stack([clips.read(2)[0], *clips.read(4)[1:3], clips.read(0)[3]])
    assert np.array_equal(clips.read(2, cuts), frames)


def test_the_same_stored_frame_may_come_twice_in_a_cut_clip(tmp_path: Path):
    clips = Clips([write_shards(tmp_path / "walk")], ClipConfig(n_frames=2, gap_s=0.1))
    assert frame_numbers(clips, 5, cuts=[Cut(1, 4)]) == [5, 5]
    first, second = clips.read(5, [Cut(1, 4)])
    assert np.array_equal(first, second)


@pytest.mark.parametrize("n_cuts", [1, 2, 3])
def test_cuts_are_at_different_frames_and_lead_to_other_starts_of_the_same_video(tmp_path: Path, n_cuts: int):
    folders = [write_shards(tmp_path / name, name=name) for name in ("walk", "tour")]
    clips = Clips(folders, ClipConfig(n_frames=4, gap_s=0.5, n_cuts=n_cuts))
    drawn = [(start, clips.cuts(start, seed)) for start in range(len(clips)) for seed in range(100)]
    for start, cuts in drawn:
        frames = [cut.frame for cut in cuts]
        assert len(cuts) == n_cuts and frames == sorted({*frames})
        assert all(clips.source(cut.start) == clips.source(start) and cut.start != start for cut in cuts)
    assert {cut.frame for _, cuts in drawn for cut in cuts} == {1, 2, 3}
    assert {(start, cut.start) for start, cuts in drawn for cut in cuts} >= {(0, 1), (0, 4), (4, 0), (5, 6), (9, 8)}
    assert clips.cuts(3, 7) == clips.cuts(3, 7)
    assert len({tuple(clips.cuts(3, seed)) for seed in range(100)}) > 5


def test_clips_that_cannot_be_cut_so_often_are_refused_with_what_to_change(tmp_path: Path):
    folder = write_shards(tmp_path / "walk", n_frames=16)
    with pytest.raises(ValueError, match=r"fewer cuts than a clip has frames, got 4 cuts of 4 frames. Lower"):
        ClipConfig(n_frames=4, gap_s=0.5, n_cuts=4)
    with pytest.raises(ValueError, match=r"another start of its video, but walk has only one. Set"):
        Clips([folder], ClipConfig(n_frames=4, gap_s=0.5, n_cuts=1))


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


def test_a_tar_that_goes_away_is_named_with_what_to_do(tmp_path: Path):
    folder = write_shards(tmp_path / "walk")
    clips = Clips([folder], ClipConfig(n_frames=1))
    (folder / "shard-000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"walk/shard-000001.tar is gone, but the index names it. Make the"):
        clips.read(8)


@pytest.mark.parametrize("name", [b"../../000001.tar", b"/etc/ssh/key.tar"])
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: bytes):
    index = write_shards(tmp_path / "walk") / INDEX
    index.write_bytes(index.read_bytes().replace(b"shard-000001.tar", name))
    with pytest.raises(ValueError, match=r"index\.safetensors is damaged"):
        Clips([index.parent], ClipConfig(n_frames=1))


def test_clips_travel_to_another_process_as_paths(tmp_path: Path):
    clips = Clips([write_shards(tmp_path / "walk")], ClipConfig(n_frames=2, gap_s=0.1))
    sent = pickle.dumps(clips)
    assert np.array_equal(pickle.loads(sent).read(3), clips.read(3))
    assert len(pickle.dumps(Clips([write_shards(tmp_path / "long", n_frames=200)], ClipConfig(n_frames=1)))) < len(sent)


def long_shards(folder: Path, n_frames: int) -> Path:
    """A video of as many frames as wanted in tars of 2000, which are all one small file and their frames one JPEG."""
    one = write_shards(folder.with_name("one"), name="one", n_frames=1) / "shard-000000.tar"
    folder.mkdir()
    n_tars = -(-n_frames // 2000)
    for number in range(n_tars):
        os.link(one, folder / f"shard-{number:06d}.tar")
    jpeg = open_index(one.parent)
    tar = jpeg.facts.tars[0].model_copy(update={"n_frames": n_frames // n_tars})
    tars = tuple(tar.model_copy(update={"name": f"shard-{number:06d}.tar"}) for number in range(n_tars))
    facts = jpeg.facts.model_copy(update={"tars": tars})
    offset, size = np.full(n_frames, jpeg.offset[0]), np.full(n_frames, jpeg.size[0])
    write_index(folder / INDEX, facts, offset=offset, size=size, time_s=np.arange(n_frames) / 10)
    return folder


def test_memory_does_not_grow_with_the_length_of_videos(tmp_path: Path):
    """Ten videos of 400,000 frames: their rows alone would be 80 MB."""
    long = long_shards(tmp_path / "long", 400_000)
    config = ClipConfig(n_frames=8, gap_s=1.0)
    Clips([long], config).read(0)  # what is loaded once
    before = private_bytes()
    tracemalloc.start()
    clips = Clips([long] * 10, config)
    held = tracemalloc.get_traced_memory()[0]
    for start in np.linspace(0, len(clips) - 1, 300, dtype=int).tolist():
        clips.read(start)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(clips) == 10 * (400_000 - 70)
    assert held < 6e6, "more than the names of 2000 tars"
    assert now - held < 1e5, "reading leaves something behind"
    assert peak < 8e6
    assert private_bytes() - before < 20e6
    assert len(pickle.dumps(clips)) < 2000


def private_bytes() -> int:
    """Memory of this process that no file stands behind."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status)[1])  # type: ignore[index]
