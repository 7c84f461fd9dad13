import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
import simplejpeg
from footage import DURATION_S, FPS, HEIGHT, WIDTH, ffmpeg, walk, write
from s3_server import s3_server
from webdataset.tariterators import group_by_keys, tar_file_expander

from dora.__main__ import main
from dora.artifacts import Machine, Shards, Video
from dora.cache import for_run, looking, read_manifest
from dora.config import ClipConfig, FileVideo, ShardsConfig
from dora.data.claims import JOB, Claims
from dora.data.clips import Clips
from dora.data.index import ShardIndex, open_index
from dora.data.shards import shard, take_part, write_shards
from dora.data.tar_pass import frame_size
from dora.data.tars import keep, writing
from dora.data.video import acquire
from dora.lease import LeaseLost

CONFIG = ShardsConfig(fps=10, short_side=512, jpeg_quality=95, frames_per_shard=8)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(root=tmp_path / "root")


def video_of(path: Path, machine: Machine, name: str = "walk") -> Video:
    config = FileVideo(name=name, path=path, accept=("uneven", "undecodable"))  # the very thing in some tests
    return acquire(config, machine)


def frame_at(shards: Shards, index: ShardIndex, row: int) -> np.ndarray:
    with (shards.folder / index.facts.tars[index.tar_of(row)].name).open("rb") as file:
        file.seek(index.offset[row])
        return simplejpeg.decode_jpeg(file.read(index.size[row]), "RGB")


def long_film(folder: Path) -> Path:
    """Twelve seconds, 15 tars of CONFIG; groups of pictures that are open and end in the middle of tars."""
    write(folder / "once.mp4")
    encode = ("-c:v", "libx264", "-x264-params", "open-gop=1:keyint=14:bframes=2:scenecut=0")
    ffmpeg("-stream_loop", "3", "-i", folder / "once.mp4", "-vf", "noise=alls=20:allf=t", *encode, folder / "walk.mp4")
    return folder / "walk.mp4"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".tar", ".safetensors")}


def test_shards_hold_the_frames_at_their_times(tmp_path: Path, machine: Machine):
    shards = shard(video_of(write(tmp_path / "walk.mp4"), machine), CONFIG, machine)
    index = open_index(shards.folder)
    assert (shards.n_frames, shards.n_tars, shards.width, shards.height, shards.fps) == (30, 4, WIDTH, HEIGHT, 10)
    assert shards.size_bytes == index.size.sum()
    shown = np.floor(np.arange(30) * FPS / 10 + 0.5)
    assert np.allclose(index.time_s, shown / FPS)
    assert [tar.n_frames for tar in index.facts.tars] == [8, 8, 8, 6]
    for row in (0, 7, 8, 29):
        # Stored at 10 a second from 12: the nearest frame in time, ties to the later.
        distances = [np.abs(frame_at(shards, index, row).astype(int) - frame).mean() for frame in walk()]
        assert np.argmin(distances) == shown[row]
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


def test_any_number_of_threads_gives_the_same_bytes_and_no_trace_of_when_and_who(tmp_path: Path):
    path = long_film(tmp_path)
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for folder, threads, decoders in zip(folders, (1, 2, 5), (1, 3, 4), strict=True):
        folder.mkdir()
        machine = Machine(root=tmp_path / "root", threads=threads, n_decoders=decoders)
        write_shards(video_of(path, machine), CONFIG, machine, folder)
    assert content(folders[0]) == content(folders[1]) == content(folders[2])
    with tarfile.open(folders[0] / "shard-000000.tar") as tar:
        assert {(entry.mtime, entry.uid, entry.uname, entry.mode) for entry in tar} == {(0, 0, "", 0o644)}


@pytest.mark.parametrize("damage", ["cut", "altered", "recorded otherwise", "half recorded"])
def test_a_tar_that_is_not_what_we_would_write_is_written_again(tmp_path: Path, machine: Machine, damage: str):
    video = video_of(write(tmp_path / "walk.mp4"), machine)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        write_shards(video, CONFIG, machine, folder)
    tar, record = broken / "shard-000001.tar", broken / ".shard-000001.tar.json"
    match damage:
        case "cut":
            os.truncate(tar, 3000)
        case "altered":
            tar.write_bytes(tar.read_bytes()[:-1] + b"!")
        case "recorded otherwise":
            record.write_text(record.read_text().replace("sha256", "md5"))
        case _:
            os.truncate(record, 50)
    write_shards(video, CONFIG, machine, broken)
    assert content(whole) == content(broken)


def test_a_stop_in_the_middle_ends_every_thread_and_leaves_nothing_half_written(tmp_path: Path, machine: Machine):
    def stop(done: float, total: float, unit: str, note: str = "") -> None:
        raise KeyboardInterrupt

    video = video_of(long_film(tmp_path), machine)
    with pytest.raises(KeyboardInterrupt):
        shard(video, CONFIG, machine, progress=stop)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "encode"))]
    assert not list(machine.root.glob("shards/*/manifest.json"))
    assert not list(machine.root.glob("shards/*/.shard-*.tar"))


@pytest.mark.parametrize(
    ("size", "short_side", "stored"),
    [
        ((3840, 2160), 512, (910, 512)), ((2160, 3840), 512, (512, 910)), ((64, 48), 512, (64, 48)),
        ((63, 47), 512, (62, 46)), ((64, 48), 33, (44, 32)), ((1000, 20), 16, (800, 16)),
    ],
)  # fmt: skip
def test_frames_are_shrunk_to_the_short_side_and_never_enlarged(size, short_side, stored):
    assert frame_size(*size, short_side) == stored


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


def test_errors_inside_a_video_are_counted_located_and_accepted_up_to_a_share(
    tmp_path: Path, machine: Machine, caplog: pytest.LogCaptureFixture
):
    path = write(tmp_path / "walk.mkv")
    with av.open(str(path)) as container, path.open("r+b") as file:
        for packet in [packet for packet in container.demux(video=0) if packet.size][24:27]:  # from a key frame on
            file.seek(packet.pos + 8)
            file.write(bytes(packet.size - 8))
    video = video_of(path, machine)
    with pytest.raises(
        ValueError,
        match=r"of 36 pictures .* from [12]\.\d+ s to 2\.\d+ s; at most 0\.5 % are accepted\..*shards\.max_bad_share",
    ):
        shard(video, CONFIG, machine)
    shards = shard(video, CONFIG.model_copy(update={"max_bad_share": 0.5}), machine)
    assert shards.reused  # the limit is no part of what is made
    assert shards.n_frames == 30 and shards.n_source_frames == 36 and 3 <= shards.n_bad_frames <= 12
    assert "pictures could not be decoded whole" in caplog.text


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_a_damaged_video_gives_the_same_bytes_on_any_number_of_threads(tmp_path: Path, codec: str):
    """What a decoder makes of damage depends on its threads; what is stored does not."""
    encode = (
        ("-c:v", "libx264", "-x264-params", "keyint=10:mbtree=0:scenecut=0")
        if codec == "h264"
        else ("-c:v", "mjpeg", "-q:v", "3")
    )
    ffmpeg("-i", long_film(tmp_path), "-vf", "scale=160:-2", *encode, tmp_path / "film.mkv")
    with av.open(str(tmp_path / "film.mkv")) as container, (tmp_path / "film.mkv").open("r+b") as file:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for number in (20, 61, 70, 71, 100):  # key frames and others
            file.seek(packets[number].pos + 8)
            file.write(bytes(packets[number].size - 8))
    digests: set[str] = set()
    for threads, decoders in ((1, 1), (2, 1), (4, 1), (4, 3)):
        machine = Machine(root=tmp_path / f"{threads}-{decoders}", threads=threads, n_decoders=decoders)
        config = CONFIG.model_copy(update={"max_bad_share": 1, "frames_per_shard": 40})
        shards = shard(video_of(tmp_path / "film.mkv", machine), config, machine)
        digests.add(shards.digest)
        assert 3 <= shards.n_bad_frames < 72
    assert len(digests) == 1


def test_a_whole_video_has_no_damage_however_it_is_cut(tmp_path: Path):
    ffmpeg(
        "-i", long_film(tmp_path), "-vf", "scale=64:-2", "-c:v", "libx264", "-g", "1", "-r", "60", tmp_path / "k.mp4"
    )
    for fps, decoders in ((10, 1), (10, 5), (0.3, 2)):
        machine = Machine(root=tmp_path / f"{fps}-{decoders}", threads=2, n_decoders=decoders)
        shards = shard(video_of(tmp_path / "k.mp4", machine), CONFIG.model_copy(update={"fps": fps}), machine)
        assert shards.n_bad_frames == 0


def test_tars_of_another_video_under_the_same_request_are_not_kept(tmp_path: Path, machine: Machine):
    """An address may serve another film when an unfinished run goes on."""

    def stop(done: float, total: float, unit: str, note: str = "") -> None:
        if done > total / 3:
            raise KeyboardInterrupt

    first = video_of(long_film(tmp_path), machine)
    ffmpeg("-i", first.path, "-vf", "hflip", tmp_path / "other.mp4")
    other = video_of(tmp_path / "other.mp4", Machine(root=tmp_path / "other"))
    posing = other.model_copy(update={"fingerprint": first.fingerprint})
    with contextlib.suppress(KeyboardInterrupt):
        shard(first, CONFIG, machine, progress=stop)
    clean = shard(other, CONFIG, Machine(root=tmp_path / "clean"))
    assert shard(posing, CONFIG, machine).digest == clean.digest
    # The same for a folder that the cache knows nothing of.
    folder = tmp_path / "folder"
    folder.mkdir()
    for video in (first, other):
        write_shards(video, CONFIG, machine, folder)
    assert content(folder) == content(clean.folder)


def test_a_tar_that_was_altered_while_it_was_written_is_not_taken_for_finished(tmp_path: Path, machine: Machine):
    video = video_of(write(tmp_path / "walk.mp4"), machine)

    def spoil(done: float, total: float, unit: str, note: str = "") -> None:
        for path in machine.root.glob("shards/*/shard-000000.tar"):
            if done == total:
                path.write_bytes(path.read_bytes()[:-1] + b"!")

    with pytest.raises(OSError, match=r"shard-000000\.tar was altered while it was written\. Run again"):
        shard(video, CONFIG, machine, progress=spoil)
    assert not list(machine.root.glob("shards/*/manifest.json"))
    assert not shard(video, CONFIG, machine).reused


def test_a_writer_that_slept_through_its_lease_changes_nothing(tmp_path: Path):
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / JOB).write_text('{"key": "a job"}')
    mine = Claims(folder, key="a job", n_tars=1, store=None, timeout_s=60).begin()
    lease = mine.folder / ".lease"
    lease.write_text(lease.read_text().replace(f'"pid": {os.getpid()}', '"pid": 1'))  # somebody else's by now
    with writing(mine.folder / "x.tar", "walk") as tar:
        record = tar.finish("shard-000000.tar", key="a job", bad_s=[])
    with pytest.raises(LeaseLost):
        keep(mine.folder / "x.tar", folder, record, lease=mine.lease, store=None)
    mine.lease.release()
    assert not list(folder.glob("shard*")) and not list(folder.glob(".shard*"))


@pytest.mark.parametrize("where", ["here", "in a store"])
def test_a_writer_that_slept_until_all_was_tidied_up_has_lost_its_lease(tmp_path: Path, where: str):
    folder, store = tmp_path / "shards", (tmp_path / "bucket").as_uri() if where == "in a store" else None
    folder.mkdir()
    (folder / JOB).write_text('{"key": "a job"}')
    claims = Claims(folder, key="a job", n_tars=1, store=store, timeout_s=60)
    mine = claims.begin()
    with writing(mine.folder / "x.tar", "walk") as tar:
        record = tar.finish("shard-000000.tar", key="a job", bad_s=[])
        (folder / JOB).unlink()
        shutil.rmtree(folder / ".claims")
    with pytest.raises(LeaseLost):
        keep(mine.folder / "x.tar", folder, record, lease=mine.lease, store=store)
    claims.give_back(mine, None)
    assert claims.take(0) is None and not list(folder.iterdir())


def test_nobody_claims_a_tar_of_a_job_that_is_gone_or_another(tmp_path: Path):
    (tmp_path / JOB).write_text('{"key": "a job"}')
    claims = Claims(tmp_path, key="a job", n_tars=2, store=None, timeout_s=60)
    other = Claims(tmp_path, key="another", n_tars=2, store=None, timeout_s=60)
    assert other.begin() is None
    first = claims.begin()
    assert first.number == 0 and claims.take(0) is None
    claims.give_back(first, None)
    claims.close()
    assert claims.begin() is None and claims.take(1) is None


def test_a_video_that_breaks_off_is_refused_with_the_time(tmp_path: Path, machine: Machine):
    video = video_of(write(tmp_path / "walk.mp4"), machine).model_copy(update={"duration_s": 9.0})
    with pytest.raises(ValueError, match=r"breaks off at 3\.0 s of 9\.0 s: expected 90 frames, got 30"):
        shard(video, CONFIG, machine)
    assert not list(machine.root.glob("shards/*/manifest.json"))


def test_a_video_that_is_gone_is_named(tmp_path: Path, machine: Machine):
    video = video_of(write(tmp_path / "walk.mp4"), machine)
    with pytest.raises(FileNotFoundError, match=r"no video at .*gone\.mp4\. Check the path"):
        write_shards(video.model_copy(update={"path": tmp_path / "gone.mp4"}), CONFIG, machine, tmp_path)


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
    (folder / "..shard-000002.tar.json").symlink_to("/dev/full")  # where its record is written first
    with pytest.raises(OSError, match=r"no space left to write \.shard-000002\.tar\.json"):
        write_shards(video, CONFIG, machine, folder)
    assert sorted(path.name for path in folder.glob(".shard*.json")) == [f".shard-00000{n}.tar.json" for n in (0, 1)]
    assert not list(folder.glob(".claims/*/*.tar"))
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


@pytest.mark.parametrize("kind", ["even", "uneven", "edited", "slow"])
def test_what_is_stored_is_what_ffmpegs_own_filter_chooses(tmp_path: Path, machine: Machine, kind: str):
    path = long_film(tmp_path)
    match kind:
        case "uneven":
            steps = np.random.default_rng(1).integers(1, 9, 36)
            path = write(tmp_path / "uneven.mkv", fps=60, times=np.cumsum(steps).tolist())
        case "edited":
            ffmpeg("-ss", "0.7", "-i", path, "-c", "copy", tmp_path / "edited.mp4")
            path = tmp_path / "edited.mp4"
        case "slow":
            path = write(tmp_path / "slow.mp4", fps=8)
        case _:
            pass
    video = video_of(path, machine)
    shards = shard(video, CONFIG, machine.model_copy(update={"n_decoders": 3}))
    index = open_index(shards.folder)
    rate = min(CONFIG.fps, video.fps)
    filters = f"setpts=PTS-STARTPTS,fps={rate},scale={shards.width}:{shards.height}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-map", "0:V:0", "-vf", filters,
               "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]  # fmt: skip
    run = subprocess.run(command, check=True, capture_output=True)
    theirs = np.frombuffer(run.stdout, np.uint8).reshape(-1, shards.height, shards.width, 3)
    assert len(theirs) == index.n_frames
    for row in range(len(theirs)):
        distances = np.abs(frame_at(shards, index, row).astype(int) - theirs).mean((1, 2, 3))
        assert distances[row] == distances.min() < 20  # noise and a lossy picture; other frames are further


WRITE = """
import os, sys
from pathlib import Path
from dora.artifacts import Machine, Video
from dora.config import ShardsConfig
from dora.data.shards import shard

print("started", flush=True)
machine = Machine(root=Path(sys.argv[1]), n_decoders=2, lease_timeout_s=5)
shard(Video.model_validate_json(sys.argv[2]), ShardsConfig.model_validate_json(sys.argv[3]), machine)
"""


@pytest.mark.slow
def test_fifty_kills_at_random_moments_leave_the_same_bytes(tmp_path: Path, machine: Machine):
    write(tmp_path / "once.mp4")
    ffmpeg("-stream_loop", "19", "-i", tmp_path / "once.mp4", "-vf", "scale=320:-2", "-g", "31", "-preset", "ultrafast",
           tmp_path / "walk.mp4")  # fmt: skip
    video, config = video_of(tmp_path / "walk.mp4", machine), CONFIG.model_copy(update={"frames_per_shard": 20})
    started = time.monotonic()
    whole = shard(video, config, machine)
    whole_s = time.monotonic() - started
    root, draw, n_kills, n_finished = tmp_path / "killed", random.Random(0), 0, 0
    command = [sys.executable, "-c", WRITE, str(root), video.model_dump_json(), config.model_dump_json()]
    while n_kills < 50:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
            run.stdout.readline()
            try:
                run.wait(draw.uniform(0, 0.5 * whole_s))
            except subprocess.TimeoutExpired:
                run.kill()
                n_kills += 1
        for path in root.glob("shards/*/shard-*.tar"):
            assert path.read_bytes() == (whole.folder / path.name).read_bytes()
        assert run.returncode in (0, -signal.SIGKILL)
        if finished := list(root.glob("shards/*/manifest.json")):
            (folder,) = (path.parent for path in finished)
            assert content(folder) == content(whole.folder)
            assert read_manifest(folder).digest == whole.digest
            shutil.rmtree(root)
            n_finished += 1
    assert n_finished > 0


JOIN = """
import sys
from pathlib import Path
from dora.artifacts import Machine
from dora.data.shards import join

print("started", flush=True)
n_tars = 0
while not n_tars:
    n_tars = join(Machine(root=Path(sys.argv[1])))
print(n_tars)
"""


def test_another_host_that_joins_writes_some_of_the_tars(tmp_path: Path, machine: Machine):
    write(tmp_path / "once.mp4")
    ffmpeg("-stream_loop", "19", "-i", tmp_path / "once.mp4", "-vf", "scale=480:-2", "-g", "31", "-preset", "ultrafast",
           tmp_path / "walk.mp4")  # fmt: skip
    video, config = video_of(tmp_path / "walk.mp4", machine), CONFIG.model_copy(update={"frames_per_shard": 20})
    with subprocess.Popen([sys.executable, "-c", JOIN, str(machine.root)], stdout=subprocess.PIPE, text=True) as helper:
        helper.stdout.readline()
        together = shard(video, config, machine)
        helper.wait(60)
        assert 1 <= int(helper.stdout.read()) < together.n_tars
    alone = shard(video, config, Machine(root=tmp_path / "alone"))
    assert together.digest == alone.digest
    assert {path.name for path in together.folder.glob(".*")} == {".lease.guard"}


def test_a_helper_that_comes_when_all_has_been_made_again_does_not_wait(tmp_path: Path, machine: Machine):
    video = video_of(write(tmp_path / "walk.mp4"), machine)
    begun = time.time()
    made = shard(video, CONFIG, machine, rerun=True)
    told = list[str]()
    helped = take_part(video, CONFIG, machine, again_since=begun, progress=lambda *now: told.append(now[3]))
    assert helped.reused and helped.digest == made.digest and not told


def test_a_helper_waits_until_what_is_older_is_begun_again(tmp_path: Path, machine: Machine):
    video = video_of(write(tmp_path / "walk.mp4"), machine)
    made = shard(video, CONFIG, machine)
    os.utime(made.folder / "manifest.json", (0, 0))
    told = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        since = time.time()
        helper = pool.submit(take_part, video, CONFIG, machine, again_since=since, progress=lambda *now: told.set())
        assert told.wait(10) and not helper.done()
        again = shard(video, CONFIG, machine, rerun=True)
        assert helper.result(60).digest == again.digest == made.digest


def test_tars_in_a_store_have_the_digest_of_tars_in_a_folder(tmp_path: Path, machine: Machine):
    video = video_of(write(tmp_path / "walk.mp4"), machine)
    here = shard(video, CONFIG, machine)
    away = Machine(root=tmp_path / "away", store=(tmp_path / "bucket").as_uri())
    there = shard(video, CONFIG, away)
    assert there.digest == here.digest and there.store and here.store is None
    kept = tmp_path / "bucket" / "shards" / there.folder.name
    assert content(kept) == {name: data for name, data in content(here.folder).items() if name.endswith(".tar")}
    assert not list(there.folder.glob("*.tar"))
    assert open_index(there.folder).facts.store == there.store


@pytest.mark.parametrize("loss", ["gone", "cut off"])
def test_shards_of_which_a_store_has_lost_a_tar_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], loss: str
):
    away = Machine(root=tmp_path / "away", store=(tmp_path / "bucket").as_uri())
    video = video_of(write(tmp_path / "walk.mp4"), away)
    made = shard(video, CONFIG, away)
    tar = tmp_path / "bucket" / "shards" / made.folder.name / "shard-000001.tar"
    monkeypatch.setenv("DORA_ROOT", str(away.root))
    for run in ("monday", "monday"):  # the very run that made them, too
        kept = content(tar.parent)
        if loss == "gone":
            tar.unlink()
        else:
            os.truncate(tar, 1000)
        assert main(["cache", "verify"]) == 1 and f"{tar} " in capsys.readouterr().out
        with looking() as looks, for_run(run):
            assert shard(video, CONFIG, away).reused and not looks[-1].is_reused
        assert content(tar.parent) != kept  # who only looks makes nothing
        with for_run(run), ThreadPoolExecutor(2) as pool:
            both = [*pool.map(lambda _: shard(video, CONFIG, away), range(2))]
        assert {one.digest for one in both} == {made.digest} and content(tar.parent) == kept
        assert shard(video, CONFIG, away).reused
    assert main(["cache", "verify"]) == 0
    assert main(["cache", "remove", f"shards/{made.folder.name}"]) == 0
    assert not list(tar.parent.iterdir()) and not made.folder.exists()


@pytest.mark.slow
def test_a_sharding_into_s3_that_is_stopped_goes_on_with_what_is_there(tmp_path: Path, machine: Machine):
    video = video_of(long_film(tmp_path), machine)
    here = shard(video, CONFIG, machine)

    def stop_half_way(done: float, total: float, unit: str, note: str = "") -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with s3_server("tours") as url:
        away = Machine(root=tmp_path / "away", store=f"{url}/dora")
        with contextlib.suppress(KeyboardInterrupt):
            shard(video, CONFIG, away, progress=stop_half_way)
        there = shard(video, CONFIG, away)
        assert there.digest == here.digest
        near, far = (Clips([shards.folder], ClipConfig()) for shards in (here, there))
        for start in (0, len(near) // 2, len(near) - 1):
            assert np.array_equal(near.read(start), far.read(start))
