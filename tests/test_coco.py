"""COCO without a network: annotations that are whole or refused, the judge, the order, and what `check` says."""

import contextlib
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_coco
import tiny_eval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_coco import CAR, DOG, PERSON
from typecheck import unchecked

from dora.data.labelled import coco as layout
from dora.data.labelled.moments import moments, still
from eval import benchmark
from eval.benchmarks import coco
from eval.dense import coco_annotations, coco_sheet, orientation
from eval.dense.coco_annotations import CATEGORY_IDS, NAMES
from eval.dense.coco_judge import STATISTICS, code, decode, judge

CONFIG = small_coco.CONFIG


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_coco.write(tmp_path / "coco")


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stills of the miniature walk, whose small things are crowds."""
    folder = tmp_path_factory.mktemp("streets")
    with unchecked():
        layout.write(folder, {"val": map(still, moments(tiny_eval.WORLD, "val", 3))})
    return coco.annotations_file(folder, "val")


def detections_of(path: Path, kind: str, *, noise: float = 0.0) -> list[dict[str, Any]]:
    """The truth as detections, boxes moved at random, every fifth of another category; and each crowd, found twice."""
    draw = np.random.default_rng(0)
    found: list[dict[str, Any]] = []
    content = json.loads(path.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for thing in content["annotations"]:
        height, width = sizes[thing["image_id"]]
        for _ in range(1 + thing["iscrowd"]):
            dx, dy = (draw.normal(0, noise, 2) if noise else np.zeros(2)).tolist()
            category = thing["category_id"]
            if noise and draw.random() < 0.2:
                category = int(draw.choice(CATEGORY_IDS))
            x, y, w, h = thing["bbox"]
            mask = np.roll(decode(thing["segmentation"], height, width), (round(dy), round(dx)), (0, 1))
            what = (
                {"bbox": [x + dx, y + dy, w, h]}
                if kind == "bbox"
                else {"segmentation": {"size": [height, width], "counts": code(mask)}}
            )
            score = float(draw.random())
            found.append({"image_id": thing["image_id"], "category_id": category, "score": score, **what})
    return found


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_truth_as_detections_is_perfect_and_crowds_are_neither_missed_nor_wrong(streets: Path, kind: Any):
    truth = coco_annotations.load(streets)
    assert any(thing["iscrowd"] for thing in truth["annotations"])
    judged = judge(truth, detections_of(streets, kind), kind)
    prefix = {"bbox": "box", "segm": "mask"}[kind]
    assert judged.metrics[f"{prefix}_AP"] == pytest.approx(100)
    assert all(value == pytest.approx(100) for name, value in judged.metrics.items() if "_AP" in name)
    assert judged.metrics[f"{prefix}_AR100"] == pytest.approx(100)
    shown = {category: ap for category, ap in judged.categories.items() if ap is not None}
    assert shown and all(ap == pytest.approx(100) for ap in shown.values())
    assert len(judged.categories) == 80


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_judge_equals_pycocotools_called_directly(streets: Path, tmp_path: Path, kind: Any):
    found = detections_of(streets, kind, noise=1.0)
    (tmp_path / "found.json").write_text(json.dumps(found))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(streets))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    judged = judge(coco_annotations.load(streets), found, kind)
    expected = dict(zip(STATISTICS, evaluation.stats.tolist(), strict=True))
    given = {name.partition("_")[2]: value / 100 for name, value in judged.metrics.items()}
    assert given == pytest.approx({name: value for name, value in expected.items() if value >= 0})
    assert 0 < given["AP"] < 1
    assert len(judged.metrics) + len(judged.undefined) == 12


def test_judging_prints_nothing_and_changes_neither_truth_nor_detections(
    data: Path, capsys: pytest.CaptureFixture[str]
):
    truth = coco_annotations.load(coco.annotations_file(data, "val"))
    for kind in ("bbox", "segm"):
        found = detections_of(coco.annotations_file(data, "val"), kind)
        before = json.dumps([truth, found])
        judge(truth, found, kind)
        assert json.dumps([truth, found]) == before
    assert capsys.readouterr().out == ""


def test_nothing_found_is_zero_and_sizes_without_an_object_are_left_out(data: Path):
    judged = judge(coco_annotations.load(coco.annotations_file(data, "val")), [], "bbox")
    assert judged.metrics["box_AP"] == judged.metrics["box_AR100"] == 0
    assert judged.undefined == ("box_AP_medium", "box_AP_large", "box_AR_medium", "box_AR_large")
    assert judged.categories["car"] == 0 and judged.categories["person"] is None  # people are a crowd here


def test_detections_in_an_unknown_image_are_refused(data: Path):
    found = [{"image_id": 1, "category_id": CAR, "score": 1.0, "bbox": [0, 0, 1, 1]}]
    with pytest.raises(ValueError, match=r"1 images with detections are not among the 3 of the truth"):
        judge(coco_annotations.load(coco.annotations_file(data, "val")), found, "bbox")


def test_a_mask_survives_its_run_lengths():
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    assert np.array_equal(decode({"size": [7, 5], "counts": code(mask)}, 7, 5), mask)
    assert not decode([[1, 1, 2, 2]], 7, 5).any()  # no polygon


def test_annotations_give_an_image_its_objects_as_the_file_has_them(data: Path):
    path = coco.annotations_file(data, "train")
    content = json.loads(path.read_text())
    annotations = coco_annotations.read(path)
    assert annotations.image_ids == [7, 8, 9, 10]
    for number, image_id in enumerate(annotations.image_ids):
        expected = [thing for thing in content["annotations"] if thing["image_id"] == image_id]
        rows = annotations.objects_of(number)
        assert [annotations.segmentation(row) for row in rows] == [thing["segmentation"] for thing in expected]
        assert annotations.boxes[rows].tolist() == [thing["bbox"] for thing in expected]
        instances = annotations.instances(number)
        assert [CATEGORY_IDS[i["bbox_label"]] for i in instances] == [CAR, DOG, PERSON]
        assert [i["ignore_flag"] for i in instances] == [0, 0, 1]
        assert instances[0]["bbox"] == [4, 6, 24, 20]
    assert annotations.sizes.tolist() == [[40, 60], [40, 60], [60, 40], [40, 60]]


def test_what_mmdet_leaves_out_is_not_learnt_from(data: Path):
    def edit(content: dict[str, Any]) -> None:
        first, empty, small, only_crowd = (image["id"] for image in content["images"])
        content["images"][2] |= {"height": 31}
        kept = [a for a in content["annotations"] if a["image_id"] in (first, small)]
        kept += [a for a in content["annotations"] if a["image_id"] == only_crowd and a["iscrowd"]]
        odd = [
            small_coco.rectangle(900, first, CAR, (70, 0, 9, 9)),  # outside
            small_coco.rectangle(901, first, CAR, (3, 3, 9, 9), area=0),
            small_coco.rectangle(902, first, CAR, (3, 3, 9, 9), bbox=[3, 3, 0.5, 9]),
            small_coco.rectangle(903, first, CAR, (3, 3, 9, 9), ignore=1),
        ]
        content["annotations"] = kept + odd
        assert empty not in {a["image_id"] for a in content["annotations"]}

    small_coco.change(data, "train", edit)
    annotations = coco_annotations.read(coco.annotations_file(data, "train"))
    assert annotations.trainable(min_side=32) == [0, 3]
    assert annotations.trainable(min_side=1) == [0, 2, 3]
    assert len(annotations.objects_of(0)) == 7
    assert [i["bbox"] for i in annotations.instances(0)] == [[4, 6, 24, 20], [26, 20, 36, 36], [58, 0, 60, 40]]


def _rename(content: dict[str, Any]) -> None:
    content["categories"][2]["name"] = "automobile"
    del content["categories"][5]


def _dangle(content: dict[str, Any]) -> None:
    content["annotations"][0]["image_id"] = 999
    content["annotations"][1]["category_id"] = 12
    content["annotations"][2]["category_id"] = 12


def _double(content: dict[str, Any]) -> None:
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


def _unbox(content: dict[str, Any]) -> None:
    content["annotations"][3]["bbox"] = [1, 2, 3]
    content["annotations"][4]["segmentation"] = []


def _forget(content: dict[str, Any]) -> None:
    del content["images"][0]["height"]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (_rename, r"other categories than COCO 2017's 80: 3 is 'automobile', expected 'car', "
                  r"6 is missing, expected 'bus'"),
        (_dangle, r"1 name an image that is not there \(image_id 999\) of its 9 annotations; "
                  r"2 name a category that is not there \(category_id 12\)"),
        (_double, r"1 share their id with another \(id 1\d\d\)"),
        (_unbox, r"1 have no box of four numbers or no area .*; 1 have no outline"),
        (_forget, r"lacks 'height'"),
        (lambda content: content.pop("categories"), r"no lists called images, annotations and categories"),
        (lambda content: content.update(annotations=[]), r"3 images and 0 annotations"),
    ],
)  # fmt: skip
def test_annotations_that_contradict_themselves_are_refused_with_numbers(
    data: Path, edit: Callable[[dict[str, Any]], None], says: str
):
    small_coco.change(data, "val", edit)
    with pytest.raises(ValueError, match=says) as caught:
        coco_annotations.read(coco.annotations_file(data, "val"))
    assert "instances_val2017.json" in str(caught.value)


def test_check_is_told_by_content_and_refuses_broken_data(data: Path):
    facts = coco.check(data, CONFIG)
    assert (facts["n_train"], facts["n_val"]) == (4, 3)
    small_coco.change(data, "train", lambda content: content["annotations"][0].update(area=5))
    assert coco.check(data, CONFIG) != facts
    with pytest.raises(ValueError, match=r"training images: expected 118,287, got 4.*whole=false"):
        coco.check(data, CONFIG.model_copy(update={"whole": True}))
    small_coco.change(data, "val", _rename)
    with pytest.raises(ValueError, match="'automobile'"):
        coco.check(data, CONFIG)
    path = coco.annotations_file(data, "train")
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match=r"instances_train2017.json is no whole JSON: it was cut short"):
        coco.check(data, CONFIG)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no annotations/instances_train2017.json in .*DORA_DATASETS__COCO"):
        coco.check(data, CONFIG)


def test_check_finds_a_photo_that_is_not_there(data: Path):
    next((data / "val2017").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"val2017.*has no counterpart"):
        coco.check(data, CONFIG)


@pytest.mark.parametrize("group_size", [1, 4, 32])
def test_each_pass_has_every_image_in_groups_of_one_orientation(group_size: int):
    is_wide = [number % 4 > 0 for number in range(50)]
    order = orientation.in_groups(is_wide, group_size=group_size, seed=3)
    assert order.pass_length % group_size == 0 and 50 <= order.pass_length < 50 + 2 * group_size
    passes = [[order.at(n * order.pass_length + place) for place in range(order.pass_length)] for n in range(3)]
    for images in passes:
        counts = Counter(images)
        assert set(counts) == set(range(50)) and max(counts.values()) <= -(-group_size // 13) + 1
        for first in range(0, order.pass_length, group_size):
            assert len({is_wide[number] for number in images[first : first + group_size]}) == 1
    assert passes[0] != passes[1] != passes[2]
    assert orientation.in_groups(is_wide, group_size=group_size, seed=4).at(0) in range(50)


def test_config_says_the_published_numbers():
    config = coco.Config()
    assert config.short_sides == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert (config.lr, config.weight_decay, config.layer_decay) == (1e-4, 0.05, 0.8)
    assert [share * config.epochs for share in config.decay_at] == pytest.approx([8, 11])
    assert benchmark.protocol("coco", config, None) == coco.PROTOCOL
    assert benchmark.protocol("coco", coco.PRESETS["short"], None) == f"{coco.PROTOCOL}-short"
    with pytest.raises(ValueError, match="crop_sides are"):
        coco.Config(crop_sides=(600, 384))
    assert len(NAMES) == len(CATEGORY_IDS) == 80 and CATEGORY_IDS[-1] == 90


def test_decays_out_of_order_are_refused():
    with pytest.raises(ValueError, match=r"decay_at is \(0.9, 0.6\).*ascending"):
        benchmark.configure("coco", overrides=["decay_at=[0.9,0.6]"])


def test_a_sheet_outlines_objects_and_hatches_crowds():
    photo = np.full((40, 60, 3), 100, np.uint8)
    mask = np.zeros((40, 60), np.bool_)
    mask[10:30, 5:25] = True
    thing = coco_sheet.Shown((5, 10, 20, 20), mask, label=2, text="car")
    crowd = coco_sheet.Shown((35, 10, 20, 20), np.roll(mask, 30, 1), label=0, text="person", is_crowd=True)
    picture = coco_sheet.drawn(photo, [crowd, thing], height=80)
    assert picture.shape == (80, 120, 3)
    colour = np.array(coco_sheet.colour_of(2))
    assert (picture[60, 30] == colour).all()  # the box
    assert (picture[40, 30] == 50 + colour // 2).all()  # the mask
    inside = (picture[24:56, 74:106] == coco_sheet.colour_of(0)).all(2)
    assert 0.1 < inside.mean() < 0.5  # lines of the hatching
    assert (picture[:18, 60:] == 100).all()  # no name for a crowd
    assert len({coco_sheet.colour_of(label) for label in range(80)}) == 80
