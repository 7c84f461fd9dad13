"""The DAVIS benchmark on its real layout: results that the official tool reads, resuming, and data that is broken."""

import json
import logging
import os
import shutil
import signal
from multiprocessing import get_context
from pathlib import Path

import av
import finetuner
import numpy as np
import pytest
import tiny_eval
import torch
from PIL import Image

from dora.artifacts import Checkpoint, Machine
from dora.data.labelled.files import voc_palette, write_labels, write_photo
from dora.launch import Interrupted
from dora.progress import Progress, silent
from eval.benchmark import Result, protocol
from eval.benchmarks import davis
from eval.images import read_labels, read_palette, read_video_frame

torch.set_num_threads(1)
CONFIG = davis.Config(short_side=32, long_side_multiple=8, radius=2)
SIZE = (48, 64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_eval.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


def squares(t: int) -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    labels[8:28, 4 + 2 * t : 24 + 2 * t] = 1
    labels[20:44, 40:60] = 2
    return labels


def write_sequence(data: Path, name: str, *, n_frames: int) -> None:
    """A grey square that moves right and a bright one that stays."""
    noise = np.random.default_rng(0).integers(0, 40, (*SIZE, 3), dtype=np.uint8)
    for folder in (davis.IMAGES, davis.ANNOTATIONS):
        (data / folder / name).mkdir(parents=True)
    for t in range(n_frames):
        labels = squares(t)
        image = noise + np.array([0, 100, 200], np.uint8)[labels][..., None]
        write_photo(data / davis.IMAGES / name / f"{t:05d}.jpg", image)
        write_labels(data / davis.ANNOTATIONS / name / f"{t:05d}.png", labels, voc_palette())
    lists = data / davis.LISTS
    lists.mkdir(parents=True, exist_ok=True)
    with (lists / "val.txt").open("a") as file:
        file.write(f"{name}\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "DAVIS"
    for name in ("apple", "pear"):
        write_sequence(data, name, n_frames=5)
    return data


def evaluate(checkpoint: Checkpoint, data: Path, config: davis.Config = CONFIG, progress: Progress = silent) -> Result:
    out = data.parent / "out"
    out.mkdir(exist_ok=True)
    return davis.evaluate(checkpoint, config, Machine(datasets={"davis": data}, device="cpu"), out, progress)


def content(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {
        name: (out / name).read_bytes() for name in (str(path.relative_to(out)) for path in files) if name[0] != "."
    }


def annotation(data: Path, sequence: str, t: int) -> Path:
    return data / davis.ANNOTATIONS / sequence / f"{t:05d}.png"


def test_results_are_indexed_pngs_in_the_annotations_own_colours(checkpoint: Checkpoint, data: Path):
    colours = [17, 18, 19, *voc_palette()[3:]]
    write_labels(annotation(data, "pear", 0), squares(0), colours)
    evaluate(checkpoint, data)
    results = data.parent / "out" / "results"
    assert sorted(path.name for path in (results / "pear").iterdir()) == [f"{t:05d}.png" for t in range(5)]
    for t in range(5):
        path = results / "pear" / f"{t:05d}.png"
        assert read_labels(path).shape == SIZE
        assert read_palette(path)[:12] == colours[:12]
    assert read_palette(results / "apple" / "00003.png")[:12] == voc_palette()[:12]
    assert (read_labels(results / "pear" / "00000.png") == squares(0)).all()  # the first frame is given


def rows(path: Path) -> dict[str, dict[str, float]]:
    return {row.pop("name"): row for row in json.loads(path.read_text())}


def test_metrics_are_percentages_of_the_objects_in_the_json(checkpoint: Checkpoint, data: Path):
    result = evaluate(checkpoint, data)
    objects, sequences = (rows(data.parent / "out" / f"{what}.json") for what in ("objects", "sequences"))
    assert list(objects) == ["apple_1", "apple_2", "pear_1", "pear_2"]
    assert result.n_samples == 4
    J = [row["J_mean"] for row in objects.values()]
    assert result.metrics["J_mean"] == pytest.approx(np.mean(J))
    assert sequences["pear"]["J_mean"] == pytest.approx(np.mean(J[2:]))
    assert result.metrics["J_and_F_mean"] == pytest.approx((result.metrics["J_mean"] + result.metrics["F_mean"]) / 2)
    assert 1 < result.metrics["J_mean"] < 100


def test_ground_truth_as_result_scores_100(checkpoint: Checkpoint, data: Path):
    shutil.copytree(data / davis.ANNOTATIONS, data.parent / "out" / "results")
    metrics = evaluate(checkpoint, data).metrics
    assert metrics["J_and_F_mean"] == metrics["J_recall"] == metrics["F_recall"] == 100
    assert metrics["J_decay"] == 0


def test_a_killed_run_goes_on_after_its_last_complete_sequence_to_the_same_bytes(checkpoint: Checkpoint, data: Path):
    write_sequence(data, "plum", n_frames=4)
    whole, out = evaluate(checkpoint, data), data.parent / "out"
    expected = content(out)
    shutil.rmtree(out)

    def die_in_the_second(done: float, total: float, unit: str, note: str = "") -> None:
        if note == "pear" and done == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    process = get_context("fork").Process(target=evaluate, args=(checkpoint, data, CONFIG, die_in_the_second))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert os.listdir(out / "results") == ["apple"] and len(list((out / ".unfinished" / "pear").iterdir())) > 2
    kept = (out / "results" / "apple" / "00003.png").stat().st_mtime_ns
    assert evaluate(checkpoint, data)._replace(cost=None) == whole._replace(cost=None)
    assert (out / "results" / "apple" / "00003.png").stat().st_mtime_ns == kept
    assert content(out) == expected


def test_asked_to_stop_it_leaves_nothing_of_the_sequence_it_is_in(checkpoint: Checkpoint, data: Path):
    def ask(done: float, total: float, unit: str, note: str = "") -> None:
        if note == "pear":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        evaluate(checkpoint, data, CONFIG, ask)
    out = data.parent / "out"
    assert os.listdir(out / "results") == ["apple"] and os.listdir(out / "films") == ["apple.mp4"]
    assert evaluate(checkpoint, data).n_samples == 4


@pytest.mark.slow
def test_processes_share_the_sequences_and_find_the_same(checkpoint: Checkpoint, data: Path):
    write_sequence(data, "plum", n_frames=4)
    alone, out = evaluate(checkpoint, data), data.parent / "out"
    expected = content(out)
    shutil.rmtree(out)

    def work() -> None:
        result = evaluate(checkpoint, data)
        (data.parent / f"metrics-{os.environ['RANK']}").write_text(json.dumps(result.metrics))

    assert finetuner.side_by_side(2, work) == [0, 0]
    assert json.loads((data.parent / "metrics-0").read_text()) == alone.metrics
    assert json.loads((data.parent / "metrics-1").read_text()) == {}
    assert content(out) == expected


def test_a_film_shows_every_frame_of_its_sequence(checkpoint: Checkpoint, data: Path):
    result = evaluate(checkpoint, data)
    assert result.pictures == ("davis.jpg", "films/apple.mp4", "films/pear.mp4")
    with av.open(str(data.parent / "out" / "films" / "pear.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5 and frames[0].shape == (*SIZE, 3)
    assert frames[0][35, 50].astype(int)[1] > 100  # label 2 is tinted green


def test_features_in_half_precision_are_another_protocol_and_nearly_the_same(checkpoint: Checkpoint, data: Path):
    half = CONFIG.model_copy(update={"precision": "bf16"})
    fp32 = evaluate(checkpoint, data).metrics
    shutil.rmtree(data.parent / "out")
    assert evaluate(checkpoint, data, half).metrics["J_mean"] == pytest.approx(fp32["J_mean"], abs=5)
    assert protocol("davis", half, None) != protocol("davis", CONFIG, None)


def test_a_cost_is_told(checkpoint: Checkpoint, data: Path):
    cost = evaluate(checkpoint, data).cost
    assert cost is not None and cost.n_devices == 1 and 0 < cost.seconds < 600 and cost.memory_bytes > 1e7


@pytest.mark.parametrize("n_frames", [1, 2])
def test_a_sequence_of_one_or_two_frames_has_results_but_no_score(checkpoint: Checkpoint, data: Path, n_frames: int):
    before = evaluate(checkpoint, data)
    shutil.rmtree(data.parent / "out")
    write_sequence(data, "short", n_frames=n_frames)
    assert davis.check(data, CONFIG)["n_frames"] == 10 + n_frames
    assert evaluate(checkpoint, data).metrics == before.metrics
    assert len(list((data.parent / "out" / "results" / "short").iterdir())) == n_frames
    assert (data.parent / "out" / "films" / "short.mp4").stat().st_size > 0


def test_an_object_smaller_than_a_patch_is_lost_and_named(
    checkpoint: Checkpoint, data: Path, caplog: pytest.LogCaptureFixture
):
    for t in range(5):
        labels = squares(t)
        labels[:2, :2] = 3
        write_labels(annotation(data, "pear", t), labels, voc_palette())
    with caplog.at_level(logging.WARNING):
        result = evaluate(checkpoint, data)
    assert result.notes == ("objects smaller than a patch, which cannot be followed: pear 3",)
    assert result.notes[0] in caplog.text
    assert rows(data.parent / "out" / "objects.json")["pear_3"]["J_mean"] == 0


def test_void_is_background(checkpoint: Checkpoint, data: Path):
    labels = squares(0)
    labels[:4] = 255
    write_labels(annotation(data, "pear", 0), labels, voc_palette())
    write_labels(annotation(data, "pear", 2), np.where(squares(2) == 2, np.uint8(255), squares(2)), voc_palette())
    evaluate(checkpoint, data)
    assert set(np.unique(read_labels(data.parent / "out" / "results" / "pear" / "00000.png"))) == {0, 1, 2}


def test_frames_and_annotations_must_match(data: Path):
    annotation(data, "pear", 3).unlink()
    with pytest.raises(ValueError, match=r"sequence pear has 5 frames and 4 annotations.*00003 lacks one of them"):
        davis.check(data, CONFIG)


def test_a_listed_sequence_that_is_not_there_is_named(data: Path):
    shutil.rmtree(data / davis.IMAGES / "pear")
    with pytest.raises(FileNotFoundError, match=r"no JPEGImages/480p/pear/\*\.jpg in .*DORA_DATASETS__DAVIS"):
        davis.check(data, CONFIG)


def test_a_list_that_leads_elsewhere_is_refused(data: Path):
    (data / davis.LISTS / "val.txt").write_text("apple\n../pear\n")
    with pytest.raises(ValueError, match=r"val.txt has '../pear', expected the plain name of a folder"):
        davis.check(data, CONFIG)


def test_an_empty_list_is_refused(data: Path):
    (data / davis.LISTS / "val.txt").write_text("")
    with pytest.raises(ValueError, match=r"val\.txt lists no sequence"):
        davis.check(data, CONFIG)


@pytest.mark.parametrize("n_bytes", [0, 20, 1000])
def test_a_truncated_frame_is_named(checkpoint: Checkpoint, data: Path, n_bytes: int):
    path = data / davis.IMAGES / "pear" / "00002.jpg"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match=r"pear/00002\.jpg is no readable image"):
        evaluate(checkpoint, data)
    assert not (data.parent / "out" / "results" / "pear").exists()


def test_other_frames_under_the_same_names_are_another_data_set(data: Path):
    before = davis.check(data, CONFIG)
    path = data / davis.IMAGES / "pear" / "00002.jpg"
    path.write_bytes(path.read_bytes() + bytes(100))
    after = davis.check(data, CONFIG)
    assert {name for name in after if after[name] != before[name]} == {"sample_sha256"}


def test_bytes_after_a_frames_end_are_no_damage(data: Path):
    path = data / davis.IMAGES / "pear" / "00002.jpg"
    whole = read_video_frame(path)
    path.write_bytes(path.read_bytes() + bytes(100))
    assert np.array_equal(read_video_frame(path), whole)


def test_an_annotation_in_colours_is_refused(checkpoint: Checkpoint, data: Path):
    Image.new("RGB", SIZE[::-1]).save(annotation(data, "pear", 0))
    with pytest.raises(ValueError, match=r"pear/00000\.png holds colours \(RGB\); expected an indexed PNG"):
        evaluate(checkpoint, data)


def test_an_annotation_in_colours_is_refused_before_anything_starts(data: Path):
    Image.new("RGB", SIZE[::-1]).save(annotation(data, "pear", 0))
    with pytest.raises(ValueError, match=r"pear/00000\.png holds colours \(RGB\); expected an indexed PNG"):
        davis.check(data, CONFIG)


def test_a_first_frame_without_objects_is_refused_before_anything_starts(data: Path):
    write_labels(annotation(data, "pear", 0), np.where(squares(0) == 1, np.uint8(255), np.uint8(0)), voc_palette())
    with pytest.raises(ValueError, match=r"first annotation of pear, .*00000\.png, has no object to follow"):
        davis.check(data, CONFIG)


def test_a_photo_of_another_size_than_its_annotation_is_refused(checkpoint: Checkpoint, data: Path):
    for t in (0, 2):
        write_photo(data / davis.IMAGES / "pear" / f"{t:05d}.jpg", np.zeros((40, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="first frame of pear is 64 x 40 pixels, its annotation 64 x 48"):
        davis.check(data, CONFIG)
    write_photo(data / davis.IMAGES / "pear" / "00000.jpg", np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(ValueError, match=r"pear/00002\.jpg is \(40, 64\) pixels, its annotation \(48, 64\)"):
        evaluate(checkpoint, data)


@pytest.mark.parametrize(
    ("renamed", "to", "says"),
    [
        (davis.LISTS, "ImageSets/480p", r"no ImageSets/2017 \(.*is DAVIS 2016"),
        (davis.IMAGES, "JPEGImages/Full-Resolution", r"no JPEGImages/480p \(.*is DAVIS at full resolution"),
        (davis.ANNOTATIONS, "Annotations/elsewhere", "no Annotations/480p in"),
        (f"{davis.LISTS}/val.txt", f"{davis.LISTS}/test-dev.txt", "no ImageSets/2017/val.txt in"),
    ],
)
def test_another_davis_is_told_from_the_right_one(data: Path, renamed: str, to: str, says: str):
    (data / renamed).rename(data / to)
    with pytest.raises(FileNotFoundError, match=f"{says}.*dora data get davis"):
        davis.check(data, CONFIG)


def test_a_split_whose_truth_is_not_public_is_refused(data: Path):
    for t in range(1, 5):
        annotation(data, "pear", t).unlink()
    with pytest.raises(ValueError, match=r"pear has 5 frames, of which only the first has an annotation.*split=val"):
        davis.check(data, CONFIG)


def test_results_hold_indexed_bytes_of_the_annotations_size(checkpoint: Checkpoint, data: Path):
    evaluate(checkpoint, data)
    for path in (data.parent / "out" / "results").rglob("*.png"):
        with Image.open(path) as image:
            assert (image.mode, image.format, image.size) == ("P", "PNG", SIZE[::-1])
            labels = np.array(image)  # how the official tool reads it
        assert labels.dtype == np.uint8 and set(np.unique(labels)) <= {0, 1, 2}


def test_an_annotation_of_another_size_is_refused(checkpoint: Checkpoint, data: Path):
    write_labels(annotation(data, "pear", 3), squares(3)[:-2], voc_palette())
    with pytest.raises(ValueError, match=r"sequence pear: frame 3: the result is \(48, 64\).* \(46, 64\)"):
        evaluate(checkpoint, data)


def test_a_size_that_patches_do_not_divide_is_refused(checkpoint: Checkpoint, data: Path):
    with pytest.raises(ValueError, match="8 px patches do not divide 30 px"):
        evaluate(checkpoint, data, CONFIG.model_copy(update={"short_side": 30}))


def test_the_facts_tell_another_list_apart(data: Path):
    facts = davis.check(data, CONFIG)
    assert (facts["n_sequences"], facts["n_frames"]) == (2, 10)
    (data / davis.LISTS / "val.txt").write_text("pear\napple\n")
    assert davis.check(data, CONFIG) != facts
