"""`dora data statistics` against oracles: light by hand, cuts that were made, counts in a file, a killed pass."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import scenedetect
import torch
import torchvision
from footage import FPS, ffmpeg, walk, write
from PIL import Image
from scenedetect.detector import FlashFilter

from dora.__main__ import main
from dora.artifacts import Machine
from dora.data.miniature import World, render
from dora.data.statistics import StatisticsConfig, analyse, survey
from dora.data.statistics.canvas import ticks
from dora.data.statistics.cuts import cuts
from dora.data.statistics.light import cielab, light
from dora.data.statistics.motion import speed
from dora.data.statistics.schema import Statistics, read_statistics

torch.set_num_threads(1)
CPU = Machine(device="cpu", threads=1)
ROOT = Path(__file__).parents[1]
QUICK = StatisticsConfig(sample_fps=4, cuts=False, motion=False)
LOOKS = ("statistics.json", "statistics.png", "statistics.md")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("film") / "walk.mp4")


def scenes(*seeds: int, n: int = 24) -> list[np.ndarray]:
    """Still pictures of several streets, one after another."""
    return [image for seed in seeds for image in [render(World(seed=seed, width=96, height=64), 0).image] * n]


def test_lightness_is_what_the_tables_of_cielab_say():
    colours = np.uint8([[(0, 0, 0), (255, 255, 255), (119, 119, 119), (255, 0, 0), (0, 0, 255)]])
    expected = [(0, 0, 0), (100, 0, 0), (50.03, 0, 0), (53.24, 80.09, 67.20), (32.30, 79.19, -107.86)]
    np.testing.assert_allclose(cielab(colours)[0], expected, atol=0.02)


def test_light_is_the_mean_over_pixels_and_not_that_of_the_mean_pixel():
    half = np.zeros((4, 4, 3), np.uint8)
    half[:, :2] = 255
    seen = light(half)
    assert (round(seen.lightness, 3), round(seen.contrast, 3), seen.colour) == (50, 50, (128, 128, 128))
    assert seen.chroma < 0.01


def test_samples_are_the_first_pictures_of_each_second_with_their_lightness(tmp_path: Path):
    greys = [20, 90, 160, 230]
    times = [0, 5, 11, 13, 20, 30, 47]  # in twelfths of a second: in the seconds 0, 0, 0, 1, 1, 2, 3
    shown = [20, 21, 22, 90, 95, 160, 230]
    write(tmp_path / "film.mkv", [np.full((48, 64, 3), grey, np.uint8) for grey in shown], times=times)
    config = StatisticsConfig(cuts=False, motion=False)
    (video,) = analyse([tmp_path / "film.mkv"], tmp_path / "out", config, machine=CPU).statistics.videos
    assert video.series.time_s == pytest.approx([0, 13 / 12, 30 / 12, 47 / 12], abs=1e-3)  # mkv counts milliseconds
    by_hand = [float(cielab(np.full((1, 1, 3), grey, np.uint8))[0, 0, 0]) for grey in greys]
    assert video.series.lightness == pytest.approx(by_hand, abs=0.4)  # a grey level, after H.264
    assert video.summary.lightness_step == pytest.approx(np.abs(np.diff(video.series.lightness)).mean(), abs=1e-3)
    assert video.file.n_pictures == 7 and video.cuts_s is None and video.series.motion is None


def rgb(frame: av.VideoFrame) -> np.ndarray:
    """By the formulas of BT.601, limited range; libav's own quick way is a grey level too dark."""
    planes = frame.to_ndarray()  # yuv420p: luma above, the two chromas below
    height, width = frame.height, frame.width
    chroma = planes[height:].reshape(2, height // 2, width // 2).repeat(2, 1).repeat(2, 2) - 128.0
    luma, (blue, red) = (planes[:height] - 16.0) * 255 / 219, chroma * 255 / 224
    green = luma - 0.344136 * blue - 0.714136 * red
    return np.stack([luma + 1.402 * red, green, luma + 1.772 * blue], -1).round().clip(0, 255).astype(np.uint8)


def test_numbers_are_those_of_a_naive_pass(film: Path, tmp_path: Path):
    (video,) = analyse([film], tmp_path, machine=CPU).statistics.videos
    with av.open(str(film)) as container:
        every = [rgb(frame) for frame in container.decode(video=0)]
    naive = [light(every[number]) for number in (0, 12, 24)]
    assert video.series.lightness == pytest.approx([seen.lightness for seen in naive], abs=0.2)
    assert video.series.contrast == pytest.approx([seen.contrast for seen in naive], abs=0.2)
    assert np.abs(np.array(video.series.colour) - [seen.colour for seen in naive]).max() <= 2
    assert video.series.motion and video.series.motion[0] is None
    by_hand = [speed(every[number - 1], every[number], 1 / FPS) for number in (12, 24)]
    assert video.series.motion[1:] == pytest.approx(by_hand, rel=0.05)
    assert (video.file.width, video.file.height, video.file.fps, video.file.duration_s) == (64, 48, 12, 3)
    assert video.file.size_bytes == film.stat().st_size and video.file.codec == "h264"


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_cuts_are_where_they_were_made_and_where_pyscenedetect_finds_them(suffix: str, tmp_path: Path):
    made = write(tmp_path / "made.mp4", scenes(1, 2, 3, n=24) + scenes(4, n=20))
    film = tmp_path / f"film{suffix}"
    ffmpeg("-i", made, *(["-c", "copy"] if suffix == ".mp4" else ["-c:v", "libvpx", "-b:v", "2M"]), film)
    (video,) = analyse([film], tmp_path / "out", machine=CPU).statistics.videos
    assert video.cuts_s == pytest.approx([2, 4, 6], abs=2e-3)
    theirs = scenedetect.detect(str(film), scenedetect.ContentDetector())
    assert [begin.seconds for begin, _ in theirs[1:]] == pytest.approx(video.cuts_s, abs=2e-3)
    assert (video.summary.n_cuts, video.summary.shot_mean_s) == (3, pytest.approx(92 / 12 / 4, abs=1e-3))


def test_cuts_near_each_other_are_pyscenedetects_own_on_pictures_that_it_scales(tmp_path: Path):
    draw = np.random.default_rng(4)
    shots = [(tuple(draw.integers(0, 255, 3)), int(draw.integers(1, 30))) for _ in range(12)]
    frames = [np.broadcast_to(np.uint8(colour), (180, 322, 3)) for colour, n in shots for _ in range(n)]
    film = write(tmp_path / "film.mp4", frames)
    config = StatisticsConfig(motion=False)
    (video,) = analyse([film], tmp_path / "out", config, machine=CPU).statistics.videos
    theirs = [begin.seconds for begin, _ in scenedetect.detect(str(film), scenedetect.ContentDetector())[1:]]
    assert video.cuts_s == pytest.approx(theirs, abs=1e-4) and 3 < len(theirs) < 11


def test_a_walk_has_no_cut(film: Path, tmp_path: Path):
    assert analyse([film], tmp_path, machine=CPU).statistics.videos[0].cuts_s == []


@pytest.mark.parametrize("shortest", [0, 1, 15])
def test_jumps_are_merged_as_pyscenedetect_would_that_sees_every_picture(shortest: int):
    draw, config = random.Random(shortest), StatisticsConfig(min_shot_pictures=shortest)
    for share in (0.01, 0.1, 0.5):
        jumps = [number for number in range(1, 400) if draw.random() < share]
        rule, every = FlashFilter(FlashFilter.Mode.MERGE, shortest), []
        for number in range(400):
            every += rule.filter(scenedetect.FrameTimecode(number, fps=30.0), number in jumps)
        assert cuts(jumps, 400, config) == [found.frame_num for found in every]


def test_motion_is_the_speed_of_a_pattern_that_moves():
    noise = np.random.default_rng(0).integers(0, 255, (12, 20), dtype=np.uint8)
    pattern = np.asarray(Image.fromarray(noise).resize((200, 120), Image.Resampling.BICUBIC))
    first, second = (np.repeat(pattern[:96, left : left + 128, None], 3, 2) for left in (8, 11))
    assert speed(first, second, 0.1) == pytest.approx(3 / 128 / 0.1, rel=0.1)
    assert speed(first, first, 0.1) < 0.001


class Killed(Exception):
    pass


@pytest.mark.parametrize("options", [["-bf", "2", "-g", "12"], ["-x264-params", "open-gop=1:keyint=10:bframes=3"]])
def test_a_pass_that_was_stopped_anywhere_ends_in_the_same_bytes(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(survey, "KEEP_EVERY_S", 0.0)
    monkeypatch.setattr(survey, "_REPORT_EVERY", 1)
    write(tmp_path / "made.mp4", scenes(1, 2, n=30))
    film = tmp_path / "film.mp4"
    ffmpeg("-i", tmp_path / "made.mp4", "-c:v", "libx264", *options, film)
    config = StatisticsConfig(sample_fps=4)
    whole = analyse([film], tmp_path / "whole", config, machine=CPU)
    assert whole.statistics.videos[0].cuts_s == [2.5]
    seen: list[float] = []
    for stop in (7, 8, 30, 31, 44):

        def listen(done: float, total: float, unit: str, note: str = "", stop: int = stop) -> None:
            seen.append(done)
            if done == stop:
                raise Killed

        with pytest.raises(Killed):
            analyse([film], tmp_path / "stopped", config, machine=CPU, progress=listen)
    (journal,) = (tmp_path / "stopped" / "measured").iterdir()
    with journal.open("ab") as file:
        file.write(b'{"end": 50, "samp')  # the line at which it was killed
    analyse([film], tmp_path / "stopped", config, machine=CPU)
    assert len(seen) <= 44 + 2 * 5 and seen[-1] == 44  # hardly a picture was measured twice
    for name in LOOKS:
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_pass_that_was_killed_goes_on(film: Path, tmp_path: Path):
    code = (
        "import os, signal, sys; from pathlib import Path; from dora.data.statistics import analyse, survey\n"
        "survey.KEEP_EVERY_S, survey._REPORT_EVERY = 0.0, 1\n"
        "def listen(done, *_): done == 20 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "analyse([Path(sys.argv[1])], Path(sys.argv[2]), progress=listen)"
    )
    killed = subprocess.run([sys.executable, "-c", code, film, tmp_path / "killed"], cwd=ROOT, check=False)
    assert killed.returncode == -9 and not (tmp_path / "killed" / "statistics.json").exists()
    begun: list[float] = []
    analyse([film], tmp_path / "killed", machine=CPU, progress=lambda done, *_: begun.append(done))
    analyse([film], tmp_path / "whole", machine=CPU)
    assert begun[0] >= 20
    for name in LOOKS:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_is_damaged_is_left_out_and_counted(tmp_path: Path):
    film = write(tmp_path / "film.mp4", [pixels for pixels in walk() for _ in range(2)])
    content = bytearray(film.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = os.urandom(400)
    film.write_bytes(content)
    (video,) = analyse([film], tmp_path / "out", QUICK, machine=CPU).statistics.videos
    assert 0 < video.file.n_damaged < video.file.n_pictures
    assert len(video.series.lightness) >= 12


def test_objects_are_counted_from_a_file_of_detections(film: Path, tmp_path: Path):
    found = [
        {"image_id": image, "category_id": category, "bbox": [0, 0, 9, 9], "score": score}
        for image, category, score in [(0, 1, 0.9), (0, 1, 0.5), (0, 3, 0.8), (0, 3, 0.49), (2, 18, 0.7), (2, 1, 0.6)]
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    config = QUICK.model_copy(update={"sample_fps": 1})
    (video,) = analyse([film], tmp_path, config, detector=tmp_path / "found.json", machine=CPU).statistics.videos
    assert video.series.n_objects == [3, 0, 2] and video.series.n_new_classes == [2, 0, 1]
    assert video.classes == {"person": 2, "car": 1, "dog": 1}
    summary = video.summary
    assert (summary.objects_mean, summary.objects_median, summary.objects_max) == (1.6667, 2, 3)
    assert summary.n_classes == 3
    assert video.detector and video.detector.kind == "detections"


def test_pictures_are_written_for_any_detector_and_then_nothing_is_decoded_again(film: Path, tmp_path: Path):
    decoded: list[float] = []

    def go(**options: object) -> Statistics:
        return analyse(
            [film], tmp_path, QUICK, machine=CPU, progress=lambda done, *_: decoded.append(done), **options
        ).statistics  # pyright: ignore[reportArgumentType]

    go()
    go(write_frames=True)  # they were not kept the first time
    listing = json.loads((tmp_path / "frames" / "walk" / "images.json").read_text())
    names = sorted(path.name for path in (tmp_path / "frames" / "walk").glob("*.jpg"))
    assert [image["file_name"] for image in listing["images"]] == names and len(names) == 12
    with Image.open(tmp_path / "frames" / "walk" / "000004.jpg") as image:
        distances = [abs(np.asarray(image).astype(int) - frame).mean() for frame in walk()]
    assert np.argmin(distances) == 12  # the first picture of the second second
    n_passes = len(decoded)
    listing["annotations"] = [{"id": 1, "image_id": 4, "category_id": 7, "bbox": [0, 0, 1, 1]}]
    listing["categories"] = [{"id": 7, "name": "gondola"}]
    (tmp_path / "found.json").write_text(json.dumps(listing))
    (video,) = go(detector=tmp_path / "found.json").videos
    assert len(decoded) == n_passes
    assert video.classes == {"gondola": 1} and video.detector and video.detector.n_classes == 1


def test_a_detector_of_torchvision_counts_what_it_finds(film: Path, tmp_path: Path):
    torch.manual_seed(1)
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=3).eval()
    weights = tmp_path / f"{name}-1234.pth"
    torch.save(model.state_dict(), weights)
    config = StatisticsConfig(sample_fps=1, cuts=False, motion=False, min_score=0.2)
    (video,) = analyse([film], tmp_path, config, detector=weights, machine=CPU).statistics.videos
    with av.open(str(film)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    with torch.inference_mode():
        scores = model([torch.from_numpy(frame).permute(2, 0, 1) / 255])[0]["scores"]
    assert video.series.n_objects and video.series.n_objects[0] == pytest.approx(int((scores >= 0.2).sum()), abs=3)
    assert video.detector and (video.detector.kind, video.detector.n_classes) == (name, 2)
    assert video.series.n_objects[0] > 0 and set(video.classes or {}) <= {"class 1", "class 2"}


def test_videos_are_compared_in_one_figure_and_table(film: Path, tmp_path: Path):
    analyse([film], tmp_path / "one", QUICK, machine=CPU)
    others = []
    for number in range(7):
        others.append(tmp_path / f"walk{number}.mp4")
        others[-1].write_bytes(film.read_bytes())
    analysis = analyse(others, tmp_path / "all", QUICK, compare=[tmp_path / "one" / "statistics.json"], machine=CPU)
    assert [video.name for video in analysis.statistics.videos] == [path.stem for path in others]
    table = (tmp_path / "all" / "statistics.md").read_text().splitlines()
    assert table[2] == "| | " + " | ".join([*(path.stem for path in others), "walk"]) + " |"
    assert "no detector was named" in "\n".join(table) and "Walking Tours" in "\n".join(table)
    with (
        Image.open(tmp_path / "all" / "statistics.png") as figure,
        Image.open(tmp_path / "one" / "statistics.png") as small,
    ):
        assert figure.width == small.width and figure.height > small.height
    assert read_statistics(tmp_path / "all") == analysis.statistics


def test_every_field_of_the_file_is_in_its_documentation():
    page = (ROOT / "docs" / "statistics.md").read_text()
    schema = Statistics.model_json_schema(by_alias=True)
    models = [schema, *schema["$defs"].values()]
    missing = {field for model in models for field in model["properties"] if f"`{field}`" not in page}
    assert not missing


def test_ticks_are_round_and_hold_the_range():
    assert ticks(0, 2.3) == [0, 1, 2, 3]
    assert ticks(26, 59) == [20, 30, 40, 50, 60]


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


OF_900 = '[{"image_id": 900, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]'


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: [folder / "none.mp4"], "no video at"),
        (lambda folder: [folder], "is a folder"),
        (lambda folder: [_text(folder / "text.mp4", "hello")], "is no video that can be read"),
        (lambda folder: ["--compare", folder / "none.json"], "no statistics to compare with"),
        (lambda folder: ["--compare", _text(folder / "a.json", "{")], "is no JSON"),
        (lambda folder: ["--compare", _text(folder / "a.json", '{"schema": "x"}')], "is of schema 'x'"),
        (lambda folder: ["--detector", folder / "none.pth"], "no detector at"),
        (lambda folder: ["--detector", _text(folder / "a.json", "[1]")], "is not in COCO's results format"),
        (lambda folder: ["--detector", _text(folder / "a.json", OF_900)], "has detections in picture 900, but 3"),
        (lambda folder: ["--detector", _text(folder / "mine.pth", "")], "the name mine.pth tells no architecture"),
        (lambda folder: ["--detector", _text(folder / "ssd300_vgg16.pth", "x")], "holds no weights that can be read"),
        (lambda folder: ["--detector", _text(folder / "a.pth", ""), "--detector-model", "yolo"], "no detector 'yolo'"),
        (lambda folder: ["--score", "2"], "min_score"),
    ],
)
def test_a_mistake_is_one_clear_sentence(
    change: Callable[[Path], list[object]], sentence: str, film: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    arguments = [film, *change(tmp_path), "--out", tmp_path / "out", "--no-cuts", "--no-motion"]
    assert main(["data", "statistics", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("dora: ") and said.count("\n") == 1


@pytest.mark.parametrize(("library", "switch"), [("scenedetect", "--no-cuts"), ("cv2", "--no-motion")])
def test_a_library_that_is_absent_is_named_with_the_switch_to_do_without(
    library: str, switch: str, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setitem(sys.modules, library, None)  # what importing then does is what it does without the library
    arguments = ["data", "statistics", str(film), "--out", str(tmp_path)]
    assert main(arguments if switch == "--no-cuts" else [*arguments, "--no-cuts"]) == 2
    said = capsys.readouterr().err
    assert "not installed" in said and switch in said
    assert main([*arguments, "--no-cuts", "--no-motion"]) == 0
    assert "objects    not counted: no detector" in capsys.readouterr().out
