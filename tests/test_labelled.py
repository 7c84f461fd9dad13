"""The labelled sets in their real layouts: the field's own readers open them, and they agree with each other."""

import contextlib
import hashlib
import io
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import ValidationError
from torchvision.datasets import CocoDetection, ImageFolder, VOCDetection, VOCSegmentation
from typecheck import unchecked

from dora.__main__ import main
from dora.config import MiniatureVideo
from dora.data.labelled import ade20k, coco, davis, got10k, imagenet, nyu, voc
from dora.data.labelled.moments import SUBSETS, Moment, Still, moments, still, streets
from dora.data.labelled.sets import world_beside, write_everything
from dora.data.miniature import CLASSES, World, render
from dora.data.street.layout import FAR_M
from dora.data.street.truth import box_of

WORLD = World(seed=1000, width=160, height=90)
# pycocotools 2.0.11 still speaks numpy 1's protocol for arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def pictures() -> dict[str, list[Still]]:
    return {"train": list(map(still, moments(WORLD, "train", 3))), "val": list(map(still, moments(WORLD, "val", 2)))}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, list[Still]]) -> Path:
    """ADE20K, COCO and VOC of the same pictures, NYU depth of as many."""
    root = tmp_path_factory.mktemp("sets")
    for layout in (ade20k, coco, voc):
        layout.write(root / layout.ROOT, pictures)
    nyu.write(root / nyu.ROOT, {"train": nyu.shots(WORLD, "train", 3), "val": nyu.shots(WORLD, "val", 2)})
    return root


def quietly_read(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def labels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_an_object_has_the_same_mask_in_ade20k_coco_voc_and_davis(
    root: Path, pictures: dict[str, list[Still]], tmp_path: Path
):
    reader = quietly_read(root / "coco/annotations/instances_train2017.json")
    n_compared = 0
    for number, picture in enumerate(pictures["train"], start=1):
        things = voc.objects(picture)
        walk = davis.Walk(picture.moment, tuple(thing.instance for thing in things))
        davis.write(tmp_path / str(number), {"val": [walk]})
        in_davis = labels(tmp_path / str(number) / davis.ANNOTATIONS / walk.name / "00000.png")
        in_ade = labels(root / f"ADEChallengeData2016/annotations/training/ADE_train_{number:08d}.png")
        in_voc = labels(root / f"VOCdevkit/VOC2012/SegmentationObject/2012_{number:06d}.png")
        annotated = {
            (a["category_id"], *a["bbox"]): reader.annToMask(a).astype(bool)
            for a in reader.loadAnns(reader.getAnnIds(imgIds=number, iscrowd=False))
        }
        for index, thing in enumerate(things, start=1):
            box, name = thing.box, CLASSES[thing.class_index]
            in_coco = annotated[coco.CATEGORY_IDS[thing.class_index], box.left, box.top, box.width, box.height]
            assert np.array_equal(in_coco, in_voc == index), name
            assert np.array_equal(in_coco, in_davis == index), name
            assert (in_ade[in_coco] == ade20k.LABELS[thing.class_index]).all(), name
            n_compared += 1
    assert n_compared > 10


def test_ade20k_labels_every_pixel_by_the_data_sets_own_numbers(root: Path, pictures: dict[str, list[Still]]):
    folder = root / "ADEChallengeData2016"
    picture = pictures["val"][1]
    in_file = labels(folder / "annotations/validation/ADE_val_00000002.png")
    for name, label in (("building", 2), ("sky", 3), ("tree", 5), ("road", 7), ("pavement", 12), ("car", 21)):
        assert np.array_equal(in_file == label, picture.frame.classes == CLASSES.index(name))
    assert len(ade20k.NAMES) == 150 and in_file.min() > 0
    assert sorted(path.name for path in (folder / "images/training").iterdir()) == [
        f"ADE_train_{number:08d}.jpg" for number in (1, 2, 3)
    ]
    info = (folder / "objectInfo150.txt").read_text().splitlines()
    assert info[0].split("\t") == ["Idx", "Ratio", "Train", "Val", "Stuff", "Name"] and len(info) == 151
    assert sum(float(line.split("\t")[1]) for line in info[1:]) == pytest.approx(1, abs=0.01)
    road = info[7].split("\t")
    assert road[2:4] == ["3", "2"] and road[5] == "road"


def test_pycocotools_gives_ground_truth_as_prediction_a_perfect_score(root: Path):
    truth = quietly_read(root / "coco/annotations/instances_val2017.json")
    objects = [a for a in truth.dataset["annotations"] if not a["iscrowd"]]
    predictions = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": 1.0, "segmentation": truth.annToRLE(a),
         "bbox": a["bbox"]} for a in objects
    ]  # fmt: skip
    for kind in ("segm", "bbox"):
        with contextlib.redirect_stdout(io.StringIO()):
            judge = COCOeval(truth, truth.loadRes(predictions), kind)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        assert judge.stats[0] == pytest.approx(1)


def test_coco_areas_boxes_and_crowds_are_those_of_the_masks(root: Path, pictures: dict[str, list[Still]]):
    reader = quietly_read(root / "coco/annotations/instances_train2017.json")
    assert len(reader.getCatIds()) == 80 and max(reader.getCatIds()) == 90
    kinds = set()
    for annotation in reader.dataset["annotations"]:
        mask = reader.annToMask(annotation)
        kinds.add((annotation["iscrowd"], type(annotation["segmentation"])))
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation["bbox"]
        assert annotation["area"] == mask.sum() > 0
        assert (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) == (x, y, width, height)
    assert kinds == {(0, list), (1, dict)}  # polygons, and run lengths for crowds alone, as in COCO
    of_class = {index: number for index, number in coco.CATEGORY_IDS.items() if CLASSES[index] == "person"}
    people = np.isin(pictures["train"][0].frame.classes, list(of_class))
    drawn = [reader.annToMask(a) for a in reader.loadAnns(reader.getAnnIds(imgIds=1, catIds=list(of_class.values())))]
    assert np.array_equal(np.sum(drawn, axis=0, dtype=int), people)  # every pixel once: as an object's or a crowd's


def test_torchvision_reads_coco_and_voc(root: Path, pictures: dict[str, list[Still]]):
    detection = CocoDetection(str(root / "coco/val2017"), str(root / "coco/annotations/instances_val2017.json"))
    assert len(detection) == 2 and detection[1][0].size == (160, 90) and len(detection[1][1]) > 2
    segmentation = VOCSegmentation(str(root), year="2012", image_set="val")
    boxes = VOCDetection(str(root), year="2012", image_set="trainval")
    assert len(segmentation) == 2 and len(boxes) == 5
    image, classes = segmentation[0]
    assert image.size == classes.size == (160, 90) and classes.mode == "P"
    assert set(np.unique(np.array(classes))) <= {*range(21), 255}
    things = voc.objects(pictures["train"][0])
    found = boxes[0][1]["annotation"]["object"]
    assert [o["name"] for o in found] == [voc.NAMES[voc.LABELS[t.class_index] - 1] for t in things]
    first = {key: int(value) for key, value in found[0]["bndbox"].items()}
    box = things[0].box
    assert first == {"xmin": box.left + 1, "ymin": box.top + 1, "xmax": box.right, "ymax": box.bottom}


def test_voc_boxes_hold_the_objects_of_the_png_and_lists_say_what_is_where(root: Path):
    folder = root / "VOCdevkit/VOC2012"
    names = (folder / "ImageSets/Segmentation/train.txt").read_text().split()
    for name in names:
        numbers = labels(folder / f"SegmentationObject/{name}.png")
        classes = labels(folder / f"SegmentationClass/{name}.png")
        objects = ElementTree.parse(folder / f"Annotations/{name}.xml").findall("object")
        assert set(np.unique(numbers)) - {0, 255} == set(range(1, len(objects) + 1))
        assert np.array_equal(classes == 255, numbers == 255)
        for number, element in enumerate(objects, start=1):
            rows, columns = np.nonzero(numbers == number)
            corners = [int(element.findtext(f"bndbox/{corner}") or 0) for corner in ("xmin", "ymin", "xmax", "ymax")]
            assert corners == [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]
            label = 1 + voc.NAMES.index(element.findtext("name") or "")
            assert (classes[numbers == number] == label).all()
        for listed in voc.NAMES:
            line = next(
                line for line in (folder / f"ImageSets/Main/{listed}_train.txt").read_text().splitlines()
                if line.startswith(name)
            )  # fmt: skip
            hard = [o.findtext("difficult") == "1" for o in objects if o.findtext("name") == listed]
            assert int(line.split()[1]) == (-1 if not hard else 0 if all(hard) else 1)


def test_nyu_depth_is_the_rendered_depth_in_millimetres_and_unknown_where_16_bits_end(root: Path):
    shot = [*nyu.shots(WORLD, "val", 2)][1]
    lines = (root / "nyu" / nyu.LISTS["val"]).read_text().splitlines()
    assert len(lines) == 2
    photo, depth, focal = lines[1].split()
    assert (root / "nyu" / photo).exists() and float(focal) == pytest.approx(shot.camera.focal, abs=1e-4)
    with Image.open(root / "nyu" / depth) as image:
        stored = np.array(image)
    truth = shot.frame.depth
    known = stored > 0
    assert stored.dtype == np.uint16 and np.array_equal(known, truth * 1000 < 65535.5)
    assert np.abs(stored[known] / 1000 - truth[known]).max() <= 0.0006
    assert not known[shot.frame.classes == CLASSES.index("sky")].any() and known.mean() > 0.5


def test_one_kinect_took_all_of_nyus_pictures(root: Path):
    listed = [line for listing in nyu.LISTS.values() for line in (root / "nyu" / listing).read_text().splitlines()]
    [focal] = {float(line.split()[2]) for line in listed}
    assert len(listed) > 2 and focal / WORLD.width == pytest.approx(519 / 640, abs=0.002)


def test_the_place_of_a_pixel_tells_little_about_its_depth_in_nyus_pictures_and_much_in_a_walkers():
    small = WORLD.model_copy(update={"width": 64, "height": 36})
    with unchecked():
        held = np.stack([shot.frame.depth for shot in nyu.shots(small, "train", 64)])
        walked = np.stack([still(moment).frame.depth for moment in moments(small, "train", 64)])

    def told_by_place(depths: np.ndarray) -> float:
        """Share of the variance of log depth that a pixel's mean over the pictures explains, sky apart."""
        logs = np.where(depths < FAR_M, np.log(depths), np.nan)
        return float(np.nanvar(np.broadcast_to(np.nanmean(logs, 0), logs.shape)) / np.nanvar(logs))

    assert told_by_place(held) < 0.15 < 0.3 < told_by_place(walked)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[got10k.Track]]:
    folder = tmp_path_factory.mktemp("tracking")
    with unchecked():
        tracks = got10k.tracks(WORLD, "train", 2)
        walked = list(got10k.walked(tracks))
        got10k.write(folder, {"train": walked, "test": walked[:1]})
    return folder, tracks


def test_got10k_boxes_and_labels_are_those_of_every_frame(tracking: tuple[Path, list[got10k.Track]]):
    folder, tracks = tracking
    names = (folder / "train/list.txt").read_text().split()
    assert names == ["GOT-10k_Train_000001", "GOT-10k_Train_000002"]
    for name, track in zip(names, tracks, strict=True):
        sequence = folder / "train" / name
        boxes = np.loadtxt(sequence / "groundtruth.txt", delimiter=",")
        absent, cover, cut = (
            np.loadtxt(sequence / f"{kind}.label", dtype=int) for kind in ("absence", "cover", "cut_by_image")
        )
        n_frames = len(list(sequence.glob("*.jpg")))
        assert len(boxes) == len(absent) == len(cover) == len(cut) == n_frames >= 20
        assert np.array_equal(absent == 1, cover == 0) and np.array_equal(absent == 1, boxes[:, 2] == 0)
        assert absent[0] == 0 and cover[0] >= 6 and cut[0] == 0 and set(cover) <= set(range(9))
        for number in range(0, n_frames, 10):
            mask = render(track.start.world, track.start.time_s + number / 10).instances == track.instance
            rows, columns = np.nonzero(mask)
            seen = mask.any()
            box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) if seen else (0, 0, 0, 0)
            assert tuple(boxes[number]) == box


def test_got10k_meta_reads_as_the_toolkits_read_it(tracking: tuple[Path, list[got10k.Track]]):
    lines = (tracking[0] / "train/GOT-10k_Train_000001/meta_info.ini").read_text().splitlines()
    meta = dict(line.split(": ") for line in lines[1:])
    assert lines[0] == "[METAINFO]" and lines[5].startswith("object_class: ")  # one reader goes by line number
    assert meta["object_class"] in CLASSES and meta["resolution"] == "(160, 90)" and meta["anno_fps"] == "10Hz"


def test_got10ks_test_subset_tells_the_first_box_alone(tracking: tuple[Path, list[got10k.Track]]):
    sequence = tracking[0] / "test/GOT-10k_Test_000001"
    assert len((sequence / "groundtruth.txt").read_text().splitlines()) == 1
    assert not list(sequence.glob("*.label"))


@pytest.mark.parametrize(
    ("visibility", "level"), [(0.001, 1), (0.15, 1), (0.16, 2), (0.5, 4), (0.9, 6), (0.91, 7), (0.999, 7), (1.0, 8)]
)
def test_cover_has_nine_levels(visibility: float, level: int):
    assert got10k.cover_level(visibility) == level


@pytest.fixture(scope="module")
def portraits() -> dict[str, list[imagenet.Portrait]]:
    with unchecked():
        return imagenet.collect(WORLD, "train", 2)


def test_a_portrait_shows_a_thing_of_its_class_whole_and_in_the_middle(
    portraits: dict[str, list[imagenet.Portrait]],
):
    assert list(portraits) == list(imagenet.THINGS)
    for name, (portrait, other) in portraits.items():
        mask = portrait.frame.instances == portrait.instance
        side = len(mask)
        assert (portrait.frame.classes[mask] == CLASSES.index(name)).all(), name
        box = box_of(mask)
        assert max(box.width, box.height) > 0.3 * side, name
        assert box.left < side / 2 < box.right and box.top < 0.6 * side and box.bottom > 0.4 * side, name
        assert not np.array_equal(portrait.frame.image, other.frame.image)


def test_imagenet_has_a_folder_a_class_and_torchvision_reads_it(
    portraits: dict[str, list[imagenet.Portrait]], tmp_path: Path
):
    with unchecked():
        imagenet.write(tmp_path, WORLD, {"train": 2, "val": 1})
    train, val = ImageFolder(str(tmp_path / "train")), ImageFolder(str(tmp_path / "val"))
    assert train.classes == val.classes == [imagenet.wnid_of(name) for name in imagenet.THINGS]
    assert len(train) == 2 * len(val) == 2 * 16
    names = dict(line.split(" ", 1) for line in (tmp_path / imagenet.SYNSETS).read_text().splitlines())
    for image, label in train:
        expected = [portrait.frame.image for portrait in portraits[names[train.classes[label]]]]
        assert min(np.abs(np.asarray(image).astype(int) - one).mean() for one in expected) < 9  # JPEG


def test_no_two_subsets_share_a_street_and_no_video_shows_one():
    shown = {subset: {street.seed for street in streets(WORLD, subset)} for subset in SUBSETS}
    assert sum(map(len, shown.values())) == len(set.union(*shown.values()))
    for seed in set.union(*shown.values()):
        with pytest.raises(ValidationError, match="less than 1000"):
            MiniatureVideo(seed=seed)
    with pytest.raises(ValueError, match=r"seed 7 belongs to the videos \(0 … 999\)"):
        moments(World(seed=7), "train", 1)


def test_moments_of_a_street_lie_apart_and_streets_follow_each_other():
    chosen = moments(WORLD, "val", 20)
    assert len(set(chosen)) == 20 and len({moment.world.seed for moment in chosen}) == 3
    assert all(b.time_s - a.time_s > 5 for a, b in pairwise(chosen) if a.world == b.world)
    assert isinstance(chosen[0], Moment)


def content(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


def test_the_sets_of_stills_are_the_same_in_another_process(root: Path, tmp_path: Path):
    write = (
        "import sys; from pathlib import Path; from dora.data.labelled import ade20k, coco, nyu, voc\n"
        "from dora.data.labelled.moments import moments, still; from dora.data.miniature import World\n"
        "world = World(seed=1000, width=160, height=90)\n"
        "for layout in (ade20k, coco, voc):\n"
        "    pictures = {subset: map(still, moments(world, subset, n)) for subset, n in (('train', 3), ('val', 2))}\n"
        "    layout.write(Path(sys.argv[1]) / layout.ROOT, pictures)\n"
        "shots = {subset: nyu.shots(world, subset, n) for subset, n in (('train', 3), ('val', 2))}\n"
        "nyu.write(Path(sys.argv[1]) / nyu.ROOT, shots)\n"
    )
    subprocess.run([sys.executable, "-c", write, str(tmp_path)], check=True)
    assert content(tmp_path) == content(root)


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is there already\. Choose another folder with --out"):
        write_everything(tmp_path, MiniatureVideo(duration_s=1))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path):
    def stop(done: float, total: float, unit: str, note: str = "") -> None:
        if unit == "sets":
            raise KeyboardInterrupt

    video = MiniatureVideo(duration_s=0.2, width=64, height=48)
    with pytest.raises(KeyboardInterrupt):
        write_everything(tmp_path / "out", video, stop)
    assert list(tmp_path.iterdir()) == []


def test_sets_of_different_videos_share_no_street():
    worlds = [world_beside(MiniatureVideo(seed=seed)) for seed in (0, 1, 999)]
    shown = [{street.seed for subset in SUBSETS for street in streets(world, subset)} for world in worlds]
    assert len(set.union(*shown)) == sum(map(len, shown)) and min(set.union(*shown)) == 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "5"], "expected WIDTHxHEIGHT in pixels, such as 320x180, got '5'"),
        (["--size", "33x48"], "width: Input should be a multiple of 2 (got 33)"),
        (["--seconds", "0"], "duration_s: Input should be greater than 0 (got 0.0)"),
        (["--seconds", "inf"], "duration_s: Input should be a finite number"),
        (["--fps", "inf"], "fps: Input should be a finite number"),
        (["--fps", "2000"], "fps: Input should be less than or equal to 1000 (got 2000.0)"),
        (["--seed", "1000"], "seed: Input should be less than 1000 (got 1000)"),
        (["--out", "file"], "file is there already. Choose another folder with --out"),
        (["--out", "file/below"], "no folder can be made at "),
        (["--out", "."], "is there already"),
    ],
)
def test_the_command_says_what_is_wrong_and_makes_nothing(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    try:
        code = main(["miniature", "--out", "new", *arguments])
    except SystemExit as stopped:  # argparse
        code = stopped.code
    assert code == 2 and says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_the_command_writes_a_video_a_sheet_and_every_set(tmp_path: Path):
    command = [sys.executable, "-m", "dora", "miniature", "--out", "walk", "--seconds", "1", "--size", "160x90"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "sheet.jpg" in run.stdout
    made = {path.name for path in (tmp_path / "walk").iterdir()}
    assert made == {
        "walk.mp4", "sheet.jpg", "ADEChallengeData2016", "coco", "VOCdevkit", "DAVIS", "GOT-10k", "imagenet", "nyu",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["walk"]


def test_coco_files_are_plain_json_with_the_categories_of_2017(root: Path):
    content = json.loads((root / "coco/annotations/instances_val2017.json").read_text())
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    assert {"supercategory": "furniture", "id": 64, "name": "potted plant"} in content["categories"]
    assert content["images"][0]["file_name"] == f"{content['images'][0]['id']:012d}.jpg"
