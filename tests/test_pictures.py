"""Decoding that begins anywhere gives the pictures of one pass over the whole file, whatever the file."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from footage import FPS, ffmpeg, write

from dora.data.pictures import Faults, Run, choose_hardware, pictures
from dora.data.timeline import Ticks, Timeline, read_timeline

X264 = "min-keyint=4:bframes=3:b-adapt=0:scenecut=0"
KINDS = {
    "closed groups": ("film.mp4", "-c:v", "libx264", "-g", "12"),
    "open groups": ("film.mp4", "-c:v", "libx264", "-x264-params", f"open-gop=1:keyint=8:{X264}"),
    "open groups in a stream": ("film.ts", "-c:v", "libx264", "-x264-params", f"open-gop=1:keyint=8:{X264}"),
    "gradual refresh": ("film.mkv", "-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=8:bframes=0"),
    "a single key frame": ("film.mp4", "-c:v", "libx264", "-g", "999", "-x264-params", "scenecut=0"),
    "open groups of HEVC": ("film.mp4", "-c:v", "libx265", "-x265-params", "open-gop=1:keyint=8:log-level=none"),
    "VP9 with hidden frames": ("film.webm", "-c:v", "libvpx-vp9", "-g", "12", "-lag-in-frames", "12"),
    "AV1": ("film.mp4", "-c:v", "libaom-av1", "-g", "12", "-cpu-used", "8"),
    "a late start": ("film.ts", "-c:v", "libx264", "-g", "12", "-output_ts_offset", "7.3"),
    "fragments": ("film.mp4", "-c:v", "libx264", "-g", "12", "-movflags", "frag_keyframe+empty_moov"),
    "interlaced": ("film.ts", "-c:v", "libx264", "-x264-params", "interlaced=1:keyint=12", "-flags", "+ilme+ildct"),
    "MPEG-2": ("film.ts", "-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-r", "25"),
    "Motion JPEG": ("film.avi", "-c:v", "mjpeg", "-q:v", "3"),
}


def film(folder: Path, kind: str) -> Path:
    name, *encode = KINDS[kind]
    write(folder / "walk.mp4")
    noisy = ("-vf", f"noise=alls=20:allf=t,setpts=N/{FPS}/TB", "-r", str(FPS))
    ffmpeg("-stream_loop", "1", "-i", folder / "walk.mp4", *noisy, *encode, folder / name)
    return folder / name


def pixels(path: Path) -> dict[int | None, np.ndarray]:
    """One pass over the file."""
    whole = pictures(Run(path, 1), read_timeline(path), -(2**62), Faults())
    return {frame.pts: frame.to_ndarray(format="rgb24") for frame in whole}


def assert_same_from_anywhere(path: Path, every: int = 4) -> None:
    timeline, whole = read_timeline(path), pixels(path)
    assert sorted(whole) == timeline.times.tolist()
    for first in timeline.times.tolist()[::every]:
        faults = Faults()
        some = pictures(Run(path, 2), timeline, first, faults)
        opening = next(some)
        assert opening.pts <= first
        shown = (frame for frame in itertools.chain([opening], some) if frame.pts >= first)
        for time in [time for time in timeline.times.tolist() if time >= first][:4]:
            frame = next(shown)
            assert frame.pts == time
            assert np.array_equal(frame.to_ndarray(format="rgb24"), whole[time])
        assert not faults.refused


@pytest.mark.parametrize("kind", KINDS)
def test_a_stretch_has_the_pictures_of_the_whole(tmp_path: Path, kind: str):
    assert_same_from_anywhere(film(tmp_path, kind))


def test_what_an_edit_list_hides_stays_hidden(tmp_path: Path):
    path = film(tmp_path, "closed groups")
    ffmpeg("-ss", "0.7", "-i", path, "-c", "copy", tmp_path / "edited.mp4")
    timeline = read_timeline(tmp_path / "edited.mp4")
    assert timeline.seconds(timeline.end) == pytest.approx(6 - 0.7, abs=1 / FPS)
    assert_same_from_anywhere(tmp_path / "edited.mp4")


def test_a_broken_key_frame_is_looked_for_further_back(tmp_path: Path):
    path = film(tmp_path, "Motion JPEG")
    timeline = read_timeline(path)
    with av.open(str(path)) as container, path.open("r+b") as file:
        for packet in [packet for packet in container.demux(video=0) if packet.size][20:25]:
            file.seek(packet.pos)
            file.write(bytes(packet.size))
    wanted = int(timeline.times[24])
    before = itertools.takewhile(lambda frame: frame.pts <= wanted, pictures(Run(path, 1), timeline, wanted, Faults()))
    assert [frame.pts for frame in before][-1] == timeline.times[19]
    list(pictures(Run(path, 1), timeline, int(timeline.times[0]), faults := Faults()))
    end = int(timeline.times[-1]) + 1
    assert faults.between(timeline, 0, end) == timeline.times[20:25].tolist()
    assert faults.between(timeline, int(timeline.times[21]), int(timeline.times[23])) == timeline.times[21:23].tolist()


@pytest.mark.parametrize("fps", [Fraction(10), Fraction(12), Fraction(30000, 1001), Fraction(7)])
def test_moments_take_the_picture_that_is_nearest_in_whole_numbers(fps: Fraction):
    times = np.cumsum(np.random.default_rng(0).integers(1, 900, 200)) + 12345
    ticks = Ticks(int(times[0]), int(times[-1]) + 500, Fraction(1, 15360), fps)
    for time in times.tolist():
        exact = Fraction(time - int(times[0]), 15360) * fps
        assert abs(ticks.of(time) - exact) <= Fraction(1, 2)
        assert (
            ticks.of(ticks.first_time(ticks.of(time)))
            == ticks.of(time)
            != ticks.of(ticks.first_time(ticks.of(time)) - 1)
        )
    halves_go_up = Ticks(0, 100, Fraction(1, 20), Fraction(10))
    assert [halves_go_up.of(time) for time in (-1, 0, 1, 2, 3)] == [0, 0, 1, 1, 2]


def test_a_file_that_does_not_say_when_its_pictures_are_shown_is_refused(tmp_path: Path):
    path = film(tmp_path, "closed groups")
    ffmpeg("-i", path, "-c:v", "libx264", "-bf", "2", "-f", "h264", tmp_path / "raw.h264")
    with pytest.raises(ValueError, match=r"does not say when its pictures are shown: 72 packets .* Write it anew"):
        read_timeline(tmp_path / "raw.h264")


def test_without_hardware_the_software_decodes(tmp_path: Path):
    path = film(tmp_path, "closed groups")
    assert choose_hardware(path, read_timeline(path), lambda frame: frame.to_ndarray(format="rgb24")) in (
        None,
        "cuda",
        "vaapi",
        "qsv",
    )


def test_a_timeline_counts_seconds_from_the_first_picture():
    timeline = Timeline(Fraction(1, 90000), np.array([90000, 93600]), np.array([90000]), 97200)
    assert (timeline.seconds(90000), timeline.seconds(97200)) == (0.0, 0.08)
