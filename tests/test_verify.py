import json
import logging
import random
import shlex
import subprocess
import sys
import wave
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import pytest
from footage import FPS, HEIGHT, WIDTH, cut, ffmpeg, rename_codec, walk, write
from PIL import Image

from dora import cache, recipes
from dora.__main__ import main
from dora.artifacts import Machine, Video
from dora.config import FileVideo, Recipe
from dora.data.contact_sheet import clock
from dora.data.defects import Findings, checks
from dora.data.looks import Look, LookConfig, Looker, Span, difference, find_spans
from dora.data.verify import inspect, require, verify
from dora.data.video import acquire
from dora.data.watch import WatchConfig

KEYS, EVERY = WatchConfig(), WatchConfig(every_frame=True)
BLACK = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


@lru_cache(maxsize=1)
def stroll() -> tuple[np.ndarray, ...]:
    """Nine seconds, there and back and there."""
    return (*walk(), *reversed(walk()), *walk())


def seconds(frames: Sequence[np.ndarray], length_s: float) -> list[np.ndarray]:
    return list(frames[: round(length_s * FPS)])


def look_at(path: Path, config: WatchConfig = KEYS) -> Findings:
    return inspect(path, config, sheet=None, threads=1)


def defects(findings: Findings, *, expected_s: float | None = None, min_height: int = 1) -> dict[str, str]:
    found = checks(findings, expected_s=expected_s, min_height=min_height)
    return {check.name: check.says for check in found if check.is_defect}


def spans(found: tuple[Span, ...]) -> list[tuple[float, float]]:
    return [(pytest.approx(span.start_s, abs=0.01), pytest.approx(span.end_s, abs=0.01)) for span in found]


@pytest.mark.parametrize("config", [KEYS, EVERY])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
def test_a_good_walk_has_no_defect(tmp_path: Path, suffix: str, config: WatchConfig):
    found = look_at(write(tmp_path / f"walk{suffix}", stroll()), config)
    assert defects(found, expected_s=9.0, min_height=HEIGHT) == {}
    assert found.timing.duration_s == pytest.approx(9.0, abs=0.01)
    assert found.timing.gap_s == pytest.approx(1 / FPS, abs=0.001)
    assert (found.width, found.height, found.n_bad) == (WIDTH, HEIGHT, 0)
    assert found.n_looked == 9 * FPS if config is EVERY else found.n_looked < 9 * FPS


def test_a_walk_that_is_blank_from_some_time_on_is_refused_with_the_moment(tmp_path: Path):
    """The published Venice file is black after 1 h 50 min."""
    path = write(tmp_path / "venice.mp4", [*stroll(), *[BLACK] * (7 * FPS)])
    found = look_at(path)
    assert spans(found.black) == [(9.0, 16.0)] and not found.frozen
    assert found.n_looked < 6 * FPS
    assert defects(found) == {"black": "7.0 s (43.8%): 0:00:09.0 to 0:00:16.0"}


@pytest.mark.parametrize("config", [KEYS, EVERY])
@pytest.mark.parametrize(("pix_fmt", "grey"), [("yuv420p", 20), ("yuvj420p", 20), ("yuv420p10le", 20), ("yuv444p", 20)])
def test_black_is_black_in_every_range_and_depth(tmp_path: Path, pix_fmt: str, grey: int, config: WatchConfig):
    dark = np.full_like(BLACK, grey)  # 20 of 255 is under a tenth; 30 is not
    path = write(tmp_path / "walk.mkv", [*seconds(stroll(), 3), *[dark] * (6 * FPS)], pix_fmt=pix_fmt)
    assert spans(look_at(path, config).black) == [(3.0, 9.0)]
    path = write(tmp_path / "grey.mkv", [*seconds(stroll(), 3), *[dark + 12] * (6 * FPS)], pix_fmt=pix_fmt)
    assert look_at(path, config).black == ()


@pytest.mark.parametrize("config", [KEYS, EVERY])
def test_a_walk_at_night_is_not_black(tmp_path: Path, config: WatchConfig):
    night = [(frame * 0.25).astype(np.uint8) for frame in stroll()]
    assert np.mean(night) < 40
    assert defects(look_at(write(tmp_path / "night.mp4", night), config)) == {}


@pytest.mark.parametrize("config", [KEYS, EVERY])
def test_a_picture_that_is_stuck_in_the_middle_is_found(tmp_path: Path, config: WatchConfig):
    first = seconds(stroll(), 3.5)
    path = write(tmp_path / "stuck.mp4", [*first, *[first[-1]] * (6 * FPS), *stroll()[len(first) :]])
    found = look_at(path, config)
    [frozen] = found.frozen
    assert 3.4 < frozen.start_s < 4.0  # x264 takes some pictures to settle
    assert frozen.end_s == pytest.approx(9.5, abs=0.01) and not found.black
    assert list(defects(found)) == ["frozen"]


@pytest.mark.parametrize("config", [KEYS, EVERY])
def test_a_camera_that_stands_still_is_not_frozen(tmp_path: Path, config: WatchConfig):
    rng = np.random.default_rng(0)
    scene = walk()[0].astype(np.int16)
    noisy = [np.clip(scene + rng.integers(-1, 2, scene.shape), 0, 255).astype(np.uint8) for _ in range(9 * FPS)]
    assert defects(look_at(write(tmp_path / "tripod.mp4", noisy), config)) == {}


def test_the_noise_of_a_large_picture_is_not_averaged_away():
    rng, looker = np.random.default_rng(0), Looker(LookConfig())
    scene = np.full((1080, 1920, 3), 90)
    noisy = [(scene + rng.integers(-1, 2, (1080, 1920, 1))).astype(np.uint8) for _ in range(2)]
    frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in noisy]
    first, second = (looker.look(frame, 0.0) for frame in frames)
    assert first.grey.shape == (90, 160)
    assert difference(first, second) > 2 * LookConfig().frozen_difference


def test_a_video_with_a_single_key_frame_is_decoded_whole(tmp_path: Path):
    write(tmp_path / "walk.mkv", [*stroll(), *[BLACK] * (6 * FPS)])
    screen = tmp_path / "screen.mp4"
    ffmpeg("-i", tmp_path / "walk.mkv", "-c:v", "libx264", "-g", "9999", "-sc_threshold", "0", screen)
    found = look_at(screen)
    assert found.n_looked == 15 * FPS and found.whole_s == pytest.approx(15.0, abs=0.01)
    assert spans(found.black) == [(9.0, 15.0)]


def test_what_lies_between_key_frames_far_apart_is_decoded(tmp_path: Path):
    film = [*seconds(stroll(), 4), *[BLACK] * (6 * FPS), *seconds(stroll(), 5)]
    write(tmp_path / "walk.mkv", film)
    far = tmp_path / "far.mp4"
    options = ["-c:v", "libx264", "-g", "9999", "-sc_threshold", "0", "-force_key_frames", "0,2,12,13"]
    ffmpeg("-i", tmp_path / "walk.mkv", *options, far)
    assert spans(look_at(far).black) == [(4.0, 10.0)]


def test_a_video_whose_pictures_are_refreshed_bit_by_bit_is_decoded(tmp_path: Path):
    write(tmp_path / "walk.mkv", stroll())
    options = ["-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=24"]
    ffmpeg("-i", tmp_path / "walk.mkv", *options, tmp_path / "refresh.mp4")
    found = look_at(tmp_path / "refresh.mp4")
    assert defects(found) == {} and found.n_looked == 9 * FPS


def test_a_video_of_key_frames_alone_is_looked_at_once_a_second(tmp_path: Path):
    write(tmp_path / "walk.mkv", stroll())
    ffmpeg("-i", tmp_path / "walk.mkv", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", tmp_path / "camera.mov")
    found = look_at(tmp_path / "camera.mov")
    assert defects(found) == {} and found.n_looked < 5 * FPS


def _fast_start(path: Path) -> Path:
    write(path.with_name("whole.mp4"), stroll())
    ffmpeg("-i", path.with_name("whole.mp4"), "-c", "copy", "-movflags", "faststart", path)
    return path


@pytest.mark.parametrize("make", [lambda d: _fast_start(d / "w.mp4"), lambda d: write(d / "w.mkv", stroll())])
def test_a_file_that_is_cut_off_says_where(tmp_path: Path, make):
    found = look_at(cut(make(tmp_path), 0.6))
    assert found.timing.promised_s == pytest.approx(9.0, abs=0.1) and 3 < found.timing.duration_s < 7
    assert "cut off at 0:00:0" in defects(found)["duration"]


def test_bytes_that_were_flipped_in_the_middle_are_found(tmp_path: Path):
    path = write(tmp_path / "walk.mkv", stroll())
    with av.open(str(path)) as container:
        pictures = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    rng = random.Random(0)
    for picture in pictures[52:55]:  # x264's bytes vary: flips at fixed places might hit what no picture needs
        first = content.index(picture)
        for place in range(first + 8, first + len(picture), 50):
            content[place] ^= rng.randrange(1, 256)
    path.write_bytes(content)
    found = look_at(path, EVERY)
    assert 0 < found.n_bad < 3 * FPS and "undecodable" in defects(found)
    assert any(3 < span.start_s < span.end_s < 6 for span in found.bad)
    assert "pictures damaged or missing: 0:00:0" in defects(found)["undecodable"]


def test_pictures_damaged_at_the_end_are_found_without_decoding_all(tmp_path: Path):
    path = write(tmp_path / "walk.mp4", stroll())
    with av.open(str(path)) as container:
        last = [packet.pos for packet in container.demux(video=0) if packet.pos][-3]
    content = bytearray(path.read_bytes())
    content[last : last + 4] = b"\xff\xff\xff\xff"  # the length of what follows
    path.write_bytes(content)
    found = look_at(path)
    assert found.n_bad and found.bad[0].start_s > 8 and found.n_looked < 5 * FPS


def test_a_hole_in_the_pictures_is_named_with_its_moment(tmp_path: Path):
    times = [time for time in range(9 * FPS) if not 40 <= time < 70]
    found = look_at(write(tmp_path / "hole.mp4", [stroll()[time] for time in times], times=times))
    assert defects(found)["uneven"].startswith("no picture for 2.6 s from 0:00:03.2 on")
    assert not found.frozen  # one picture that stays is a gap


def test_a_last_picture_that_is_held_for_an_hour_is_named(tmp_path: Path):
    write(tmp_path / "walk.mp4", stroll())
    with av.open(str(tmp_path / "walk.mp4")) as source, av.open(str(tmp_path / "held.mp4"), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        last = max(packets, key=lambda packet: packet.pts)
        last.duration = round(3600 / last.time_base)
        for packet in packets:
            packet.stream = stream
            copy.mux(packet)
    found = look_at(tmp_path / "held.mp4")
    assert defects(found)["uneven"].startswith("no picture for 3600.0 s from 0:00:08.9 on")
    assert found.timing.gap_s == pytest.approx(1 / FPS, abs=0.001) and found.timing.uneven_share == 0


def test_a_rate_that_wanders_is_uneven_and_a_little_jitter_is_not(tmp_path: Path):
    rng = random.Random(0)
    wild = sorted(rng.sample(range(10 * len(stroll())), len(stroll())))
    found = look_at(write(tmp_path / "wild.mkv", stroll(), times=wild, fps=10 * FPS))
    assert "of the gaps between pictures differ from the usual" in defects(found)["uneven"]
    phone = [10 * number + rng.randrange(-2, 3) for number in range(1, len(stroll()) + 1)]
    found = look_at(write(tmp_path / "phone.mkv", stroll(), times=phone, fps=10 * FPS))
    assert defects(found) == {} and found.timing.duration_s == pytest.approx(9, abs=0.1)


def test_a_video_without_time_stamps_is_named(tmp_path: Path):
    write(tmp_path / "walk.mp4")
    ffmpeg("-i", tmp_path / "walk.mp4", "-c", "copy", tmp_path / "raw.h264")
    with pytest.raises(ValueError, match=r"raw\.h264 does not say when its pictures are shown: 36 packets"):
        look_at(tmp_path / "raw.h264")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.mkdir(), "is a folder, expected one video file"),
        (lambda path: path.touch(), r"is empty \(0 bytes\), expected a video"),
        (lambda path: cut(write(path, stroll()), 0.6), r"is a cut-off mp4: its table of contents \(moov\) is missing"),
    ],
)
def test_what_cannot_be_opened_is_told_why(tmp_path: Path, make: Callable[[Path], object], says: str):
    make(tmp_path / "walk.mp4")
    with pytest.raises(ValueError, match=f"walk.mp4 {says}"):
        look_at(tmp_path / "walk.mp4")


def test_another_length_and_a_low_resolution_are_refused(tmp_path: Path):
    found = look_at(write(tmp_path / "walk.mp4", stroll()))
    assert defects(found, expected_s=9.5) == {}
    assert defects(found, expected_s=12) == {"duration": "0:00:09.0, expected 0:00:12.0"}
    assert defects(found, min_height=2160) == {"resolution": "64x48, expected 2160 rows"}


def _sound(path: Path, length_s: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.zeros(8000 * length_s, np.int16).tobytes())
    return path


def test_pictures_that_end_before_the_sound_are_named(tmp_path: Path):
    inputs = ["-i", write(tmp_path / "walk.mkv"), "-i", _sound(tmp_path / "sound.wav", 9)]
    ffmpeg(*inputs, "-c:v", "copy", tmp_path / "both.mkv")
    found = look_at(tmp_path / "both.mkv")
    assert defects(found) == {"duration": "the pictures end at 0:00:03.0, the sound goes on until 0:00:09.0"}


@pytest.mark.parametrize("config", [KEYS, EVERY])
def test_odd_but_whole_files_pass(tmp_path: Path, config: WatchConfig):
    walked = write(tmp_path / "walk.mp4", stroll())
    ffmpeg("-display_rotation", "90", "-i", walked, "-c", "copy", tmp_path / "upright.mp4")
    found = look_at(tmp_path / "upright.mp4", config)
    assert (found.width, found.height) == (HEIGHT, WIDTH) and defects(found) == {}
    ffmpeg("-ss", "2.4", "-i", walked, "-c", "copy", tmp_path / "edited.mp4")  # hides 0.4 s by an edit list
    found = look_at(tmp_path / "edited.mp4", config)
    assert found.timing.duration_s == pytest.approx(6.6, abs=0.1) and defects(found) == {}
    late = [24 + number for number in range(len(stroll()))]
    assert defects(look_at(write(tmp_path / "late.mkv", stroll(), times=late), config)) == {}
    ffmpeg("-output_ts_offset", "1000", "-i", walked, "-c", "copy", tmp_path / "broadcast.ts")
    assert defects(look_at(tmp_path / "broadcast.ts", config)) == {}
    ffmpeg("-i", walked, "-c:v", "libx264", "-x264-params", "open-gop=1:keyint=12:scenecut=0", tmp_path / "open.mp4")
    assert defects(look_at(tmp_path / "open.mp4", config)) == {}
    ffmpeg("-i", walked, "-vf", "tinterlace,setsar=2", "-c:v", "libx264", "-flags", "+ildct", tmp_path / "tv.ts")
    assert defects(look_at(tmp_path / "tv.ts", config)) == {}
    ffmpeg("-i", walked, "-c", "copy", "-live", "1", tmp_path / "live.mkv")
    found = look_at(tmp_path / "live.mkv", config)
    assert found.timing.promised_s is None and defects(found) == {}


@pytest.mark.parametrize(
    ("options", "name", "says"),
    [
        (["-display_hflip"], "odd.mp4", "asks to be shown mirrored"),
        (["-display_rotation", "45"], "odd.mov", "asks to be shown turned by 45 degrees"),
        ([], "odd.avi", "does not say when its pictures are shown: an AVI has no place for that"),
    ],
)
def test_what_would_be_shown_wrongly_is_refused(tmp_path: Path, options: list[str], name: str, says: str):
    write(tmp_path / "walk.mp4", stroll())
    ffmpeg(*options, "-i", tmp_path / "walk.mp4", "-c", "copy", tmp_path / name)
    with pytest.raises(ValueError, match=says):
        look_at(tmp_path / name)


def test_a_single_picture_is_a_video_too(tmp_path: Path):
    found = look_at(write(tmp_path / "one.mp4", walk()[:1]))
    assert found.n_looked == 1 and defects(found) == {}


def spans_of(greys: Sequence[float], *, keys: Sequence[int] = (), step_s: float = 1.0) -> tuple[list, list]:
    """Black and frozen spans of pictures of one grey each; 0 is black."""
    looks = [
        Look(number * step_s, number in keys, grey == 0, np.full((10, 10), grey, np.uint8))
        for number, grey in enumerate(greys)
    ]
    for look, grey in zip(looks, greys, strict=True):
        look.grey.flat[: round(100 * (grey % 1))] += 1  # so many hundredths of a level
    found = find_spans(looks, len(greys) * step_s, LookConfig(span_s=2))
    return tuple([(span.start_s, span.end_s) for span in spans] for spans in found)


def test_spans_last_until_the_next_other_picture():
    assert spans_of([50, 0, 0, 60, 0]) == ([(1, 3)], [])
    assert spans_of([50, 60, 60, 60, 70, 70, 80]) == ([], [(1, 4), (4, 6)])
    assert spans_of([50, 60, 70, 70]) == ([], [(2, 4)])


def test_what_is_black_is_not_called_frozen_too():
    assert spans_of([50, 50, 0, 0, 0, 50, 50]) == ([(2, 5)], [(0, 2), (5, 7)])


def test_frozen_means_as_the_picture_it_began_with():
    assert spans_of([50, 50.2, 50.2, 50]) == ([], [(0, 4)])  # 0.2 of 255 levels
    assert spans_of([50, 50.2, 50.4, 50.6, 50.8, 51]) == ([], [(0, 2), (2, 4), (4, 6)])  # slow, but it moves


def test_a_stuck_picture_may_be_coded_anew_in_a_key_frame():
    assert spans_of([50, 50, 50.5, 50.5], keys=[0, 2]) == ([], [(0, 4)])
    assert spans_of([50, 50, 50.5, 50.5], keys=[0]) == ([], [(0, 2), (2, 4)])
    assert spans_of([50, 50, 51.5, 51.5], keys=[0, 2]) == ([], [(0, 2), (2, 4)])
    assert spans_of([50, 50.5, 50, 50.5, 50, 50.5] * 9, keys=range(54), step_s=0.1) == ([], [])  # noise
    assert spans_of([50, 50, 50.5, 50.5] * 13, keys=range(52), step_s=0.1) == ([], [])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(root=tmp_path / "root", threads=1)


@pytest.fixture
def venice(tmp_path: Path, machine: Machine) -> Video:
    path = write(tmp_path / "venice.mp4", [*stroll(), *[BLACK] * (7 * FPS)])
    return acquire(FileVideo(path=path, name="venice", accept=("black",)), machine)


def needed(video: Video, machine: Machine, **settings):
    return require(video, **({"expected_s": None, "min_height": 1, "accept": (), "machine": machine} | settings))


def test_a_video_is_not_acquired_before_it_is_verified(tmp_path: Path, machine: Machine):
    path = write(tmp_path / "venice.mp4", [*stroll(), *[BLACK] * (7 * FPS)])
    with pytest.raises(ValueError, match=r"is refused .*\n  black: 7\.0 s .* 0:00:09\.0 to 0:00:16\.0"):
        acquire(FileVideo(path=path), machine)


def test_a_refusal_lists_every_defect_and_the_ways_out(venice: Video, machine: Machine):
    with pytest.raises(ValueError, match="the video venice is refused") as error:
        needed(venice, machine, expected_s=60.0, min_height=2160, index=1)
    text = str(error.value)
    for part in (
        "duration: 0:00:16.0, expected 0:01:00.0", "resolution: 64x48, expected 2160 rows",
        "black: 7.0 s (43.8%): 0:00:09.0 to 0:00:16.0",
        f"ffmpeg -to 9.00 -i {venice.source} -c copy venice-whole.mp4",
        """'videos.1.accept=["black"]'""", """'videos.1.accept=["duration","resolution","black"]'""",
    ):  # fmt: skip
        assert part in text
    [sheet] = machine.root.glob("verification/*/verify.jpg")
    assert str(sheet) in text


def test_the_switch_in_the_message_is_one_that_the_recipe_takes(venice: Video, machine: Machine):
    with pytest.raises(ValueError) as error:
        needed(venice, machine, min_height=100, accept=("resolution",), index=0)
    switch = next(line for line in str(error.value).splitlines() if "black:" in line).split("Accept it: ")[1]
    recipe = Recipe(videos=(FileVideo(path=venice.path, accept=("resolution",)),))
    accepting = recipes.override(recipe, shlex.split(switch)).videos[0]
    assert isinstance(accepting, FileVideo) and accepting.accept == ("resolution", "black")
    assert needed(venice, machine, min_height=100, accept=accepting.accept).findings.black[0].length_s > 6


def test_the_command_in_the_message_makes_a_video_that_passes(tmp_path: Path, venice: Video, machine: Machine):
    with pytest.raises(ValueError) as error:
        needed(venice, machine)
    command = str(error.value).split("good stretch, 9.0 s: ffmpeg ")[1]
    *arguments, out = shlex.split(command)
    ffmpeg(*arguments, tmp_path / out)
    cured = acquire(FileVideo(path=tmp_path / out), machine)
    assert needed(cured, machine).findings.timing.duration_s == pytest.approx(9.0, abs=0.4)


def test_the_command_keeps_the_longest_stretch_without_what_is_refused(tmp_path: Path, machine: Machine):
    film = [*seconds(stroll(), 2), *[BLACK] * (5 * FPS), *stroll(), *[stroll()[-1]] * (6 * FPS)]
    path = write(tmp_path / "film.mp4", film)
    video = acquire(FileVideo(path=path, accept=("black", "frozen")), machine)
    for accept, arguments in ((), "-ss 7.00 -to 1"), (("black",), "-to 1"), (("frozen",), "-ss 7.00 -i"):
        with pytest.raises(ValueError, match=f"ffmpeg {arguments}"):
            needed(video, machine, accept=accept)


def test_without_a_place_in_the_recipe_the_switch_names_the_video(venice: Video, machine: Machine):
    with pytest.raises(ValueError, match=r'Accept it: accept=\["black"\] of the video venice'):
        needed(venice, machine)


def test_what_is_accepted_is_warned_about(venice: Video, machine: Machine, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "dora.verify"):
        needed(venice, machine, accept=("black", "frozen"))
    assert [record.getMessage() for record in caplog.records] == [
        "venice: black: 7.0 s (43.8%): 0:00:09.0 to 0:00:16.0 (accepted)"
    ]


def test_a_file_is_looked_through_once_whatever_is_expected_of_it(venice: Video, machine: Machine):
    first = needed(venice, machine, accept=("black",))  # acquiring it has looked through it
    second = needed(venice, machine, accept=("black", "duration"), expected_s=100.0)
    assert first.reused and second == first
    assert first.sheet.is_file() and cache.read_manifest(first.folder)
    assert len(list(machine.root.glob("verification/*"))) == 1
    every = verify(venice, EVERY, machine)
    assert not every.reused and every.findings.n_looked == 16 * FPS


def test_the_sheet_shows_where_it_is_black(venice: Video, machine: Machine):
    sheet = np.asarray(Image.open(needed(venice, machine, accept=("black",)).sheet)).astype(int)
    red = (np.abs(sheet - (200, 40, 60)) < 40).all(axis=-1)
    bar = red[28:46].mean(axis=0) > 0.5
    assert bar[8:-8].mean() == pytest.approx(7 / 16, abs=0.02) and not bar[: sheet.shape[1] // 2].any()
    assert (sheet[80:] < 12).all(axis=-1).mean() > 0.2 and red[80:].any()


def test_the_sheet_of_a_broken_file_says_what_cannot_be_decoded(tmp_path: Path):
    path, sheet = cut(write(tmp_path / "walk.mkv", stroll()), 0.5), tmp_path / "sheet.jpg"
    inspect(path, KEYS, sheet=sheet, threads=1)
    with Image.open(sheet) as picture:
        assert picture.width > 1000


def test_the_sheet_is_upright_as_ffmpeg_shows_it(tmp_path: Path):
    halves = BLACK.copy()
    halves[:, : WIDTH // 2] = (30, 200, 30)
    ffmpeg(
        "-display_rotation", "90", "-i", write(tmp_path / "v.mp4", [halves] * FPS), "-c", "copy", tmp_path / "up.mp4"
    )
    inspect(tmp_path / "up.mp4", KEYS, sheet=tmp_path / "sheet.jpg", threads=1)
    ffmpeg("-i", tmp_path / "up.mp4", "-frames:v", "1", tmp_path / "up.png")
    with Image.open(tmp_path / "up.png") as shown, Image.open(tmp_path / "sheet.jpg") as sheet:
        shown, first = np.asarray(shown.convert("RGB")), np.asarray(sheet)[84:308, 12:178]
    for half in (0, 1):
        ours, theirs = (np.array_split(picture, 2)[half].mean(axis=(0, 1)) for picture in (first, shown))
        np.testing.assert_allclose(ours, theirs, atol=12)
    assert abs(float(shown[: WIDTH // 2].mean()) - float(shown[WIDTH // 2 :].mean())) > 50


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dora", "video", "verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])


def test_the_command_prints_the_verdict_first_and_a_line_a_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    good, bad = write(tmp_path / "good.mp4", stroll()), write(tmp_path / "bad.mp4", [*stroll(), *[BLACK] * (7 * FPS)])
    assert main(["video", "verify", str(good)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{good}: good"
    assert [line.split()[:2] for line in lines[1:]] == [
        ["ok", name] for name in ("duration", "resolution", "undecodable", "uneven", "black", "frozen")
    ]
    assert main(["video", "verify", str(good), str(bad), "--out", str(tmp_path / "seen")]) == 1
    out = capsys.readouterr().out
    assert (
        f"{good}: good" in out
        and f"{bad}: refused, for black" in out
        and "Keep its longest good stretch, 9.0 s: ffmpeg -to 9.00" in out
    )
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"good.mp4.jpg", "bad.mp4.jpg"}
    assert main(["video", "verify", str(good), "--expect-minutes", "2", "--min-height", "480"]) == 1
    assert "refused, for duration, resolution" in capsys.readouterr().out


def test_the_command_goes_on_after_a_file_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "text.mp4").write_text("This is no video.")
    good, unknown = write(tmp_path / "good.mp4", stroll()), rename_codec(write(tmp_path / "unknown.mp4"))
    done = run(tmp_path / "text.mp4", tmp_path / "none.mp4", unknown, good, "--every-frame")
    assert done.returncode == 2 and f"{good}: good" in done.stdout and "Traceback" not in done.stderr
    assert "text.mp4 is no video that can be read" in done.stderr and "no video at" in done.stderr
    assert "unknown.mp4 is in a codec that FFmpeg" in done.stderr


def test_findings_survive_as_json(tmp_path: Path):
    found = look_at(write(tmp_path / "walk.mp4", [*stroll(), *[BLACK] * (7 * FPS)]))
    assert Findings.model_validate(json.loads(json.dumps(found.model_dump(mode="json")))) == found


def test_times_are_written_as_on_a_clock():
    assert [clock(time_s) for time_s in (0, 59.96, 6600, 3661.25)] == [
        "0:00:00.0", "0:01:00.0", "1:50:00.0", "1:01:01.2",
    ]  # fmt: skip
