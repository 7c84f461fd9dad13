import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from footage import DURATION_S, FPS, HEIGHT, WIDTH, ffmpeg, walk, write
from webdataset.tariterators import group_by_keys, tar_file_expander

from dora.artifacts import Machine, Shards, Video
from dora.config import FileVideo, ShardsConfig
from dora.data.index import ShardIndex, open_index
from dora.data.shards import shard, write_shards
from dora.data.tar_pass import stored_size
from dora.data.video import acquire

CONFIG = ShardsConfig(fps=10, short_side=512, jpeg_quality=95, frames_per_shard=8)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(root=tmp_path / "root")


def video_of(path: Path, machine: Machine, name: str = "walk") -> Video:
    return acquire(FileVideo(name=name, path=path), machine)


def frame_at(shards: Shards, index: ShardIndex, row: int) -> np.ndarray:
    with (shards.folder / index.facts.tars[index.tar_of(row)].name).open("rb") as file:
        file.seek(index.offset[row])
        return simplejpeg.decode_jpeg(file.read(index.size[row]), "RGB")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".tar", ".safetensors")}


def test_shards_hold_the_frames_at_their_times(tmp_path: Path, machine: Machine):
    shards = shard(video_of(write(tmp_path / "walk.mp4"), machine), CONFIG, machine)
    index = open_index(shards.folder)
    assert (shards.n_frames, shards.n_tars, shards.width, shards.height, shards.fps) == (30, 4, WIDTH, HEIGHT, 10)
    assert shards.size_bytes == index.size.sum()
    assert np.allclose(index.time_s, np.arange(30) / 10)
    assert [tar.n_frames for tar in index.facts.tars] == [8, 8, 8, 6]
    for row in (0, 7, 8, 29):
        # Stored at 10 a second from 12: the nearest frame in time, ties to the later.
        distances = [np.abs(frame_at(shards, index, row).astype(int) - frame).mean() for frame in walk()]
        assert np.argmin(distances) == np.floor(row * FPS / 10 + 0.5)
        assert min(distances) < 8


def test_the_second_call_reuses_the_shards(tmp_path: Path, machine: Machine):
    video = video_of(write(tmp_path / "walk.mp4"), machine)
    first, second = shard(video, CONFIG, machine), shard(video, CONFIG, machine)
    assert (first.reused, second.reused) == (False, True)
    assert second == first.model_copy(update={"reused": True})
    other = shard(video, CONFIG.model_copy(update={"fps": 5.0}), machine)
    assert not other.reused and other.n_frames == 15


def test_any_webdataset_reader_reads_the_tars(tmp_path: Path, machine: Machine):
    shards = shard(video_of(write(tmp_path / "walk.mp4"), machine), CONFIG, machine)
    samples: list[dict[str, Any]] = []
    for path in sorted(shards.folder.glob("*.tar")):
        with path.open("rb") as file:  # webdataset.WebDataset forgets to close the files that it opens
            samples += group_by_keys(tar_file_expander([{"url": path.name, "stream": file}]))
    assert [sample["__key__"] for sample in samples] == [f"walk/{frame:08d}" for frame in range(30)]
    index = open_index(shards.folder)
    assert np.array_equal(simplejpeg.decode_jpeg(samples[12]["jpg"], "RGB"), frame_at(shards, index, 12))


def test_two_builds_have_the_same_bytes_and_no_trace_of_when_and_who(tmp_path: Path):
    path = write(tmp_path / "walk.mp4")
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, threads in zip(folders, (1, 2), strict=True):
        folder.mkdir()
        machine = Machine(root=tmp_path / "root", threads=threads)
        write_shards(video_of(path, machine), CONFIG, machine, folder)
    assert content(folders[0]) == content(folders[1])
    with tarfile.open(folders[0] / "shard-000000.tar") as tar:
        assert {(entry.mtime, entry.uid, entry.uname, entry.mode) for entry in tar} == {(0, 0, "", 0o644)}


KILLED = """
import os, signal, sys
from pathlib import Path
from dora.artifacts import Machine
from dora.config import FileVideo, ShardsConfig
from dora.data.shards import shard
from dora.data.video import acquire

def die(done, total, unit, note=""):
    if done >= 25:
        os.kill(os.getpid(), signal.SIGKILL)

machine = Machine(root=Path(sys.argv[1]))
video = acquire(FileVideo(name="walk", path=Path(sys.argv[2])), machine)
shard(video, ShardsConfig.model_validate_json(sys.argv[3]), machine, progress=die)
"""


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, machine: Machine):
    path = write(tmp_path / "walk.mp4")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(path), CONFIG.model_dump_json()]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (folder,) = (tmp_path / "killed" / "shards").iterdir()
    assert not (folder / "manifest.json").exists()
    before = {path.name: path.stat().st_ino for path in folder.glob("*.tar")}
    assert sorted(before) == [f"shard-{number:06d}.tar" for number in range(3)]
    assert_no_process_names(folder.parents[1])

    survivor = Machine(root=tmp_path / "killed")
    again = shard(video_of(path, survivor), CONFIG, survivor)
    assert {name: (folder / name).stat().st_ino for name in before} == before  # kept, not written again
    whole = shard(video_of(path, machine), CONFIG, machine)
    assert again.digest == whole.digest and content(again.folder) == content(whole.folder)


def assert_no_process_names(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
        if not any(bytes(folder) in line and b"rawvideo" in line for line in lines):
            return
        time.sleep(0.1)
    pytest.fail("ffmpeg outlives its parent")


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_tar_that_is_not_what_we_would_write_is_written_again(tmp_path: Path, machine: Machine, damage: str):
    video = video_of(write(tmp_path / "walk.mp4"), machine)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    write_shards(video, CONFIG, machine, whole)
    if damage == "cut":
        (broken / "shard-000001.tar").write_bytes((whole / "shard-000001.tar").read_bytes()[:3000])
    else:
        write_shards(video, CONFIG.model_copy(update={"jpeg_quality": 50}), machine, broken)
    write_shards(video, CONFIG, machine, broken)
    assert content(whole) == content(broken)


def test_a_stop_in_the_middle_ends_the_decoder(tmp_path: Path, machine: Machine):
    def stop(done: float, total: float, unit: str, note: str = "") -> None:
        raise KeyboardInterrupt

    video = video_of(write(tmp_path / "walk.mp4"), machine)
    with pytest.raises(KeyboardInterrupt):
        shard(video, CONFIG, machine, progress=stop)
    assert_no_process_names(machine.root)
    assert not list(machine.root.glob("shards/*/manifest.json"))


@pytest.mark.parametrize(
    ("size", "short_side", "stored"),
    [
        ((3840, 2160), 512, (910, 512)), ((2160, 3840), 512, (512, 910)), ((64, 48), 512, (64, 48)),
        ((63, 47), 512, (62, 46)), ((64, 48), 33, (44, 32)), ((1000, 20), 16, (800, 16)),
    ],
)  # fmt: skip
def test_frames_are_shrunk_to_the_short_side_and_never_enlarged(size, short_side, stored):
    assert stored_size(*size, short_side) == stored


def test_odd_sizes_are_stored_even(tmp_path: Path, machine: Machine):
    odd = [frame[:47, :63] for frame in walk()]
    shards = shard(video_of(write(tmp_path / "odd.mp4", odd, pix_fmt="yuv444p"), machine), CONFIG, machine)
    index = open_index(shards.folder)
    assert (shards.width, shards.height) == (62, 46)
    assert frame_at(shards, index, 5).shape == (46, 62, 3)


def test_a_phone_held_upright_gives_upright_frames(tmp_path: Path, machine: Machine):
    write(tmp_path / "walk.mp4")
    ffmpeg("-display_rotation", "90", "-i", tmp_path / "walk.mp4", "-c", "copy", tmp_path / "upright.mp4")
    shards = shard(video_of(tmp_path / "upright.mp4", machine), CONFIG, machine)
    turned = np.rot90(walk()[0], 1)
    first = frame_at(shards, open_index(shards.folder), 0)
    assert first.shape == (WIDTH, HEIGHT, 3)
    assert np.abs(first.astype(int) - turned).mean() < 8


def test_a_slow_video_is_not_padded_with_copies(tmp_path: Path, machine: Machine):
    shards = shard(video_of(write(tmp_path / "slow.mp4", fps=4), machine), CONFIG, machine)
    assert (shards.fps, shards.n_frames) == (4, 36)


def test_frames_of_an_uneven_video_are_those_shown_at_the_time(tmp_path: Path, machine: Machine):
    levels = np.linspace(20, 235, 20).astype(int)
    frames = [np.full((HEIGHT, WIDTH, 3), level, np.uint8) for level in levels]
    steps = np.random.default_rng(0).integers(1, 7, 20)
    shown = (np.cumsum(steps) - steps[0]).tolist()  # in 1/60 s
    path = write(tmp_path / "uneven.mkv", frames, fps=60, times=[30 + at for at in shown])  # and half a second late
    shards = shard(video_of(path, machine), CONFIG, machine)
    index = open_index(shards.folder)
    for row in range(shards.n_frames):
        level = frame_at(shards, index, row).mean()
        frame = int(np.argmin(np.abs(levels - level)))
        following = shown[frame + 1] if frame + 1 < 20 else np.inf
        # At most half a stored frame's time off, which is what rounding to 10 a second costs.
        assert shown[frame] / 60 - 0.051 <= index.time_s[row] <= following / 60 + 0.051


def test_black_and_white_come_out_black_and_white(tmp_path: Path, machine: Machine):
    bars = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    bars[:, WIDTH // 2 :] = 255
    shards = shard(video_of(write(tmp_path / "bars.mp4", [bars] * 12), machine), CONFIG, machine)
    frame = frame_at(shards, open_index(shards.folder), 3)
    assert frame[:, : WIDTH // 2 - 4].max() <= 4 and frame[:, WIDTH // 2 + 4 :].min() >= 251


def test_a_picture_and_a_sound_stream_do_not_confuse(tmp_path: Path, machine: Machine):
    write(tmp_path / "silent.mp4")
    ffmpeg(
        "-f", "lavfi", "-i", "sine=duration=3.6", "-i", tmp_path / "silent.mp4", "-c:v", "copy", tmp_path / "loud.mkv"
    )
    video = video_of(tmp_path / "loud.mkv", machine)
    assert video.duration_s == pytest.approx(DURATION_S, abs=0.05)
    assert shard(video, CONFIG, machine).n_frames == 30


def test_errors_inside_a_video_are_counted(tmp_path: Path, machine: Machine):
    path = write(tmp_path / "walk.mkv")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(range(200))
    path.write_bytes(content)
    shards = shard(video_of(path, machine), CONFIG, machine)
    assert shards.n_frames >= 28
    assert '"n_decode_errors": 0' not in (shards.folder / "manifest.json").read_text()


def test_a_video_that_breaks_off_is_refused_with_the_time(tmp_path: Path, machine: Machine):
    video = video_of(write(tmp_path / "walk.mp4"), machine).model_copy(update={"duration_s": 9.0})
    with pytest.raises(ValueError, match=r"breaks off at 3\.0 s of 9\.0 s: expected 90 frames, got 30"):
        shard(video, CONFIG, machine)
    assert not list(machine.root.glob("shards/*/manifest.json"))


def test_ffmpegs_last_word_is_reported(tmp_path: Path, machine: Machine):
    video = video_of(write(tmp_path / "walk.mp4"), machine)
    gone = video.model_copy(update={"path": tmp_path / "gone.mp4"})
    with pytest.raises(ValueError, match=r"could not decode .*gone\.mp4 \(exit code \d+\): .*No such file"):
        write_shards(gone, CONFIG, machine, tmp_path)


def test_frames_that_cannot_fit_are_refused_before_the_start(tmp_path: Path, machine: Machine):
    endless = video_of(write(tmp_path / "walk.mp4"), machine).model_copy(update={"duration_s": 1e12})
    with pytest.raises(
        OSError, match=r"no space left to store 10000000000000 frames of walk .* needs about 1\.54e\+03 TB"
    ):
        write_shards(endless, CONFIG, machine, tmp_path)


def test_a_full_disk_stops_the_run_and_a_rerun_goes_on(tmp_path: Path, machine: Machine):
    video = video_of(write(tmp_path / "walk.mp4"), machine)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".shard-000002.tar").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"no space left to write shard-000002\.tar"):
        write_shards(video, CONFIG, machine, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["shard-000000.tar", "shard-000001.tar"]
    assert write_shards(video, CONFIG, machine, folder)["n_frames"] == 30


def test_a_missing_or_damaged_index_is_named(tmp_path: Path, machine: Machine):
    with pytest.raises(FileNotFoundError, match=r"no shards in .* \(index\.safetensors missing\)"):
        open_index(tmp_path)
    shards = shard(video_of(write(tmp_path / "walk.mp4"), machine), CONFIG, machine)
    index, tar = shards.folder / "index.safetensors", shards.folder / "shard-000003.tar"
    os.truncate(tar, 2000)
    with pytest.raises(ValueError, match=r"shard-000003\.tar has 2000 bytes, the index says \d+"):
        open_index(shards.folder)
    tar.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-000003\.tar is gone"):
        open_index(shards.folder)
    os.truncate(index, 100)
    with pytest.raises(ValueError, match=r"index\.safetensors is damaged"):
        open_index(shards.folder)
