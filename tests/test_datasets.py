"""Data sets are looked through: each as it should be, and each typical mistake with what to do about it."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import write

from dora.__main__ import main
from dora.data.datasets.check import Report, check, how_to_get
from dora.data.datasets.layouts import LAYOUTS, PARTS
from dora.data.datasets.table import SETS, find


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write(root, *SETS)
    return root


@pytest.fixture
def root(originals: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy that a test may break, of the one set that it is about or of all; its name has a space."""
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    for name in [params["name"]] if "name" in params else SETS:
        shutil.copytree(originals / name, tmp_path / "my sets" / name)
    return tmp_path / "my sets"


def problems(root: Path, name: str) -> list[str]:
    return check(SETS[name], root / name, any_size=True).problems


def run_remedy(problem: str) -> None:
    """Do what the problem says: its lines for a shell are the ones that are set in by four."""
    lines = [line[4:] for line in problem.splitlines() if line.startswith("    ")]
    assert lines[0].startswith("FOLDER=")
    subprocess.run(["bash", "-euc", "\n".join(lines)], check=True)


@pytest.mark.parametrize("name", SETS)
def test_each_miniature_set_is_as_it_should_be(originals: Path, name: str):
    report = check(SETS[name], originals / name, any_size=True)
    assert report.problems == []
    # A misspelt key of the table would never be compared with anything.
    assert set(report.counts) == set(SETS[name].counts)
    exact = SETS[name].model_copy(update={"counts": report.counts})
    assert check(exact, originals / name).problems == []


@pytest.mark.parametrize("name", SETS)
def test_another_count_than_the_real_sets_is_told_with_what_to_do(originals: Path, name: str):
    report = check(SETS[name], originals / name)
    told = "\n".join(report.problems)
    for what, expected in SETS[name].counts.items():
        if report.counts[what] != expected:
            assert f"{what}: expected {expected:,}, got {report.counts[what]:,}. Unpack the archive again" in told
    assert report.problems


def test_the_table_has_the_figures_that_the_field_knows():
    assert SETS["ade20k"].counts == {"training images": 20_210, "validation images": 2_000}
    assert SETS["coco"].counts == {"training images": 118_287, "validation images": 5_000, "categories": 80}
    assert (SETS["davis"].counts["train sequences"], SETS["davis"].counts["val sequences"]) == (60, 30)
    assert SETS["voc2012"].counts["images with boxes (trainval)"] == 11_540
    assert SETS["imagenet"].counts["training images"] == 1_281_167
    assert set(SETS) == set(LAYOUTS) == set(PARTS)
    for each in SETS.values():
        assert each.is_open != bool(each.how_to_get)
        for archive in each.archives:
            assert archive.url.startswith("https://")
            assert re.fullmatch("[0-9a-f]{64}", archive.sha256 or "") and archive.size_bytes


@pytest.mark.parametrize("name", SETS)
def test_a_set_that_is_not_there_is_told_how_to_get(tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("something else")
    for folder in ("none", "empty", "other"):
        with pytest.raises(FileNotFoundError) as caught:
            check(SETS[name], tmp_path / folder)
        said = str(caught.value)
        assert f"no {name} in {tmp_path / folder}" in said
        assert f"dora data {'get' if SETS[name].is_open else 'check'} {name}" in said


def test_gated_sets_come_with_addresses_file_names_and_checksums(tmp_path: Path):
    said = how_to_get(SETS["imagenet"], tmp_path / "my imagenet")
    assert "https://image-net.org/download-images" in said
    assert "ILSVRC2012_img_train.tar  147897477120 bytes  md5 1d675b47d978889d74fa0da5fadfb00e" in said
    assert "md5 29b22e2961454d5413ddabcf34fc5622" in said
    assert f"FOLDER='{tmp_path}/my imagenet'" in said and "FOLDER=?" not in said
    assert "http://got-10k.aitestunion.com/downloads" in how_to_get(SETS["got10k"], tmp_path)
    assert "nyu_depth_v2_labeled.mat" in how_to_get(SETS["nyu"], tmp_path)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("levels", [1, 2])
def test_a_folder_too_high_is_led_to_the_right_one(root: Path, tmp_path: Path, name: str, levels: int):
    above = tmp_path / "above"
    place = above / "/".join(["data", "sets"][:levels])
    place.parent.mkdir(parents=True)
    (root / name).rename(place)
    report = check(SETS[name], above)
    assert len(report.problems) == 1
    assert "too high" in report.problems[0] and f"dora data check {name} {place}" in report.problems[0]


@pytest.mark.parametrize("name", [name for name in SETS if name != "nyu"])
def test_a_folder_too_low_is_led_to_the_right_one(root: Path, name: str):
    place = root / name
    for part in PARTS[name]:
        report = check(SETS[name], place / part)
        assert "too low" in report.problems[0] and report.problems[0].endswith(f"check {name} '{place}'"), part


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in PARTS.items() for part in parts])
def test_each_missing_part_is_named(root: Path, name: str, part: str):
    path = root / name / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    told = problems(root, name)
    assert f"no {part} in {root / name}. {PARTS[name][part]}" in told


def test_missing_annotations_of_coco_are_led_to_their_archive(root: Path):
    shutil.rmtree(root / "coco/annotations")
    assert "Unpack annotations_trainval2017.zip there." in problems(root, "coco")[0]


def test_a_coco_json_that_was_cut_short_or_lists_other_images_is_told(root: Path):
    path = root / "coco/annotations/instances_val2017.json"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 9])
    assert any("instances_val2017.json is no whole JSON: it was cut short" in p for p in problems(root, "coco"))
    path.write_bytes(b"")
    assert any("instances_val2017.json is empty" in p for p in problems(root, "coco"))
    path.write_bytes(content.replace(b"000000000004.jpg", b"000000000009.jpg"))
    told = [p for p in problems(root, "coco") if "should go together" in p]
    assert len(told) == 1 and "000000000004.jpg has no counterpart among the entries of" in told[0]


LAST_PICTURES = {
    "ade20k": "images/validation/ADE_val_00000002.jpg",
    "coco": "train2017/000000000003.jpg",
    "davis": "JPEGImages/480p/*/00011.jpg",
    "voc2012": "JPEGImages/2012_000005.jpg",
    "imagenet": "train/n00000019/*_1.JPEG",
    "got10k": "train/GOT-10k_Train_000002/00000030.jpg",
    "nyu": "*/sync_depth_00002.png",
}


@pytest.mark.parametrize(("name", "pattern"), LAST_PICTURES.items())
@pytest.mark.parametrize("share", [0, 0.7])
def test_unpacking_that_was_cut_short_shows_in_the_last_picture(root: Path, name: str, pattern: str, share: float):
    path = sorted((root / name).glob(pattern))[-1]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    told = problems(root, name)
    assert len(told) == 1 and f"{path} is no whole picture" in told[0]


def convert(path: Path, change: Callable[[Image.Image], Image.Image]) -> None:
    with Image.open(path) as image:
        changed = change(image)
    changed.save(path)


@pytest.mark.parametrize(
    ("name", "pattern", "change", "says"),
    [
        ("ade20k", "annotations/training/*.png", lambda i: i.convert("RGB"), "is RGB, expected a grey PNG of 8 bits"),
        ("davis", "Annotations/480p/*/*.png", lambda i: Image.fromarray(np.array(i)), "is L, expected an indexed PNG"),
        ("voc2012", "SegmentationClass/*.png", lambda i: i.convert("RGB"), "is RGB, expected an indexed PNG"),
        ("nyu", "*/sync_depth_*.png", lambda i: Image.fromarray((np.array(i) // 256).astype(np.uint8)), "of 16 bits"),
        ("ade20k", "annotations/*/*.png", lambda i: i.point(lambda v: 151), "holds the label 151"),
        ("voc2012", "SegmentationClass/*.png", lambda i: i.point([21] * 256), "holds the label 21"),
    ],
)
def test_label_maps_that_were_converted_are_found(
    root: Path, name: str, pattern: str, change: Callable[[Image.Image], Image.Image], says: str
):
    for path in (root / name).glob(pattern):
        convert(path, change)
    assert any(says in problem for problem in problems(root, name))


@pytest.mark.parametrize(
    ("name", "pattern", "says"),
    [
        (
            "ade20k",
            "annotations/training/*_00000002.png",
            "ADE_train_00000002 has no counterpart among the annotations",
        ),
        ("davis", "Annotations/480p/*/00004.png", "00004 has no counterpart among the annotations"),
        ("voc2012", "Annotations/2012_000002.xml", "Annotations lacks 1 of the 5 names of ImageSets/Main/trainval.txt"),
        ("voc2012", "SegmentationClass/2012_000004.png", "SegmentationClass lacks 1 of the 2 names"),
        ("voc2007", "JPEGImages/2012_000002.jpg", "JPEGImages lacks 1 of the 5 names"),
        ("coco", "val2017/000000000004.jpg", "000000000004.jpg has no counterpart"),
        ("got10k", "val/GOT-10k_Val_000001/cover.label", "no val/GOT-10k_Val_000001/cover.label"),
        ("got10k", "train/GOT-10k_Train_000001/00000007.jpg", "has 29 frames and 30 boxes in groundtruth.txt"),
        ("nyu", "*/rgb_00001.jpg", "rgb_00001.jpg and 0 more files"),
    ],
)
def test_an_image_without_its_labels_is_named(root: Path, name: str, pattern: str, says: str):
    for path in (root / name).glob(pattern):
        path.unlink()
    assert any(says in problem for problem in problems(root, name))


@pytest.mark.parametrize(
    ("name", "folder", "says"),
    [
        ("ade20k", "annotations/validation", "ADE_val_00000001 has no counterpart among the annotations"),
        ("ade20k", "images/training", "training images: got none"),
        ("coco", "val2017", "validation images: got none"),
        ("davis", "Annotations/480p/*", "00000 has no counterpart among the annotations"),
        ("davis", "JPEGImages/480p/*", "00000 has no counterpart among the frames of street-"),
        ("voc2012", "SegmentationClass", "SegmentationClass lacks 3 of the 3 names"),
        ("got10k", "train/GOT-10k_Train_000001", "has 0 frames and 0 boxes"),
    ],
)
def test_an_empty_folder_is_no_folder_of_labels(root: Path, name: str, folder: str, says: str):
    for path in (root / name).glob(f"{folder}/*"):
        path.unlink()
    assert any(says in problem for problem in problems(root, name))


def test_a_sequence_that_is_listed_and_not_there_is_named(root: Path):
    for path in (root / "davis").glob("*/480p/*"):
        shutil.rmtree(path)
    assert any(re.search("no frame of street-.*which val.txt lists", problem) for problem in problems(root, "davis"))


def flatten_val(folder: Path) -> str:
    """Undo the sorting of ImageNet's validation images; returns Kaggle's list of where they belong."""
    rows = ["ImageId,PredictionString\n"]
    for path in sorted(folder.glob("val/*/*.JPEG")):
        rows.append(f"{path.stem},{path.parent.name} 85 1 499 272 {path.parent.name} 1 2 3 4\n")
        path.rename(folder / "val" / path.name)
    for empty in folder.glob("val/n*"):
        empty.rmdir()
    return "".join(rows)


def test_unsorted_imagenet_validation_images_are_told_how_to_be_sorted(root: Path):
    flatten_val(root / "imagenet")
    (told,) = problems(root, "imagenet")
    assert "val holds 16 images that are in no class folder" in told
    assert "valprep.sh" in told and f"FOLDER='{root}/imagenet'" in told


def test_the_remedy_for_kaggles_imagenet_sorts_its_validation_images(root: Path, tmp_path: Path):
    kaggle = tmp_path / "kaggle"
    folder = kaggle / "ILSVRC/Data/CLS-LOC"
    folder.parent.mkdir(parents=True)
    (root / "imagenet").rename(folder)
    (kaggle / "LOC_val_solution.csv").write_text(flatten_val(folder))
    (too_high,) = check(SETS["imagenet"], kaggle, any_size=True).problems
    assert f"dora data check imagenet {folder}" in too_high
    (told,) = check(SETS["imagenet"], folder, any_size=True).problems
    run_remedy(told)
    report = check(SETS["imagenet"], folder, any_size=True)
    assert report.problems == [] and report.counts["validation images"] == 16


def test_the_remedy_for_imagenets_tars_of_classes_unpacks_them(root: Path):
    train = root / "imagenet/train"
    for folder in sorted(train.iterdir()):
        subprocess.run(["tar", "cf", f"{folder}.tar", "-C", folder, "."], check=True)
        shutil.rmtree(folder)
    told = problems(root, "imagenet")
    run_remedy(next(problem for problem in told if "holds a tar for each class" in problem))
    assert problems(root, "imagenet") == []


def test_imagenet_classes_must_be_the_same_and_hold_images(root: Path):
    (root / "imagenet/val/n00000019").rename(root / "imagenet/val/n99999999")
    (root / "imagenet/train/n00000018/odd").mkdir()
    for path in (root / "imagenet/train/n00000018").glob("*.JPEG"):
        path.unlink()
    told = "\n".join(problems(root, "imagenet"))
    assert "n00000019 has no counterpart among the class folders of val" in told
    assert "train/n00000018 holds no image" in told


def test_the_remedies_for_got10ks_parts_and_its_missing_list_mend_them(root: Path):
    train = root / "got10k/train"
    for number, name in enumerate(("GOT-10k_Train_000001", "GOT-10k_Train_000002"), start=1):
        part = train / f"GOT-10k_Train_split_{number:02d}"
        part.mkdir()
        (train / name).rename(part / name)
    (train / "list.txt").unlink()
    run_remedy(next(problem for problem in problems(root, "got10k") if "parts of the download" in problem))
    (told,) = problems(root, "got10k")
    assert "no train/list.txt" in told
    command = told.partition("or write it: ")[2]
    subprocess.run(["bash", "-euc", command], check=True)
    assert problems(root, "got10k") == []


def test_the_remedy_for_nyus_two_folders_moves_the_scenes(root: Path):
    folder = root / "nyu"
    scenes = sorted(path for path in folder.iterdir() if path.is_dir())
    for path, place in zip(scenes, ("sync", "official_splits/test"), strict=False):
        (folder / place).mkdir(parents=True)
        path.rename(folder / place / path.name)
    for place in ("sync/", "official_splits/"):
        (told,) = problems(root, "nyu")
        assert f"scenes in {place}" in told
        run_remedy(told)
    assert problems(root, "nyu") == []


def test_the_slash_before_the_paths_of_nyus_lists_means_its_folder(root: Path):
    listing = root / "nyu/nyudepthv2_train_files_with_gt.txt"
    listing.write_text(
        "".join(f"/{line.replace(' street', ' /street')}\n" for line in listing.read_text().splitlines())
    )
    assert listing.read_text().startswith("/street") and problems(root, "nyu") == []


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("davis", lambda f: (f / "JPEGImages/480p").rename(f / "JPEGImages/Full-Resolution"), "at full resolution"),
        ("davis", lambda f: (f / "ImageSets/2017").rename(f / "ImageSets/480p"), "is DAVIS 2016, expected DAVIS 2017"),
        ("ade20k", lambda f: (f / "annotations").rename(f / "index_ade20k.pkl"), "is the full ADE20K"),
        ("voc2012", lambda f: (f / "ImageSets/Main/trainval.txt").rename(f / "ImageSets/Main/test.txt"), "test set"),
    ],
)
def test_relatives_of_a_set_are_recognised(root: Path, name: str, change: Callable[[Path], object], says: str):
    change(root / name)
    (told,) = problems(root, name)
    assert says in told


def test_vocs_test_images_in_the_same_folder_do_no_harm(root: Path):
    known = check(SETS["voc2007"], root / "voc2007", any_size=True).counts
    exact = SETS["voc2007"].model_copy(update={"counts": known})
    shutil.copy(root / "voc2007/JPEGImages/2012_000001.jpg", root / "voc2007/JPEGImages/2012_000099.jpg")
    assert check(exact, root / "voc2007").problems == []


def test_more_than_expected_is_told_too(root: Path):
    known = check(SETS["coco"], root / "coco", any_size=True).counts
    exact = SETS["coco"].model_copy(update={"counts": known})
    shutil.copy(root / "coco/val2017/000000000004.jpg", root / "coco/val2017/000000000004 (copy).jpg")
    told = check(exact, root / "coco").problems
    assert "validation images: expected 2, got 3. Something else was put in between" in told[0]


def test_a_report_changes_nothing(root: Path):
    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in root.rglob("*")}

    before = state()
    for name in SETS:
        assert isinstance(check(SETS[name], root / name), Report)
    assert state() == before


def test_an_unknown_set_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown data set 'davis17'\. Known: ade20k, coco, davis"):
        find("davis17")


@pytest.fixture
def machine_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DORA_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


def test_the_command_checks_a_folder_that_is_named(root: Path, machine_root: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "check", "davis", str(root / "davis"), "--any-size"]) == 0
    assert f"davis in {root / 'davis'}: as it should be (1 train sequences" in capsys.readouterr().out
    assert main(["data", "check", "davis", str(root / "davis")]) == 1
    assert "- train sequences: expected 60, got 1." in capsys.readouterr().out
    assert main(["data", "check", "davis", str(root / "nowhere")]) == 2
    assert "Get it: dora data get davis" in capsys.readouterr().err
    assert main(["data", "check", "davis17"]) == 2
    assert "unknown data set 'davis17'" in capsys.readouterr().err


def test_the_command_checks_what_is_here(
    root: Path, machine_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main(["data", "check"]) == 2
    assert "none of the data sets is here" in capsys.readouterr().err
    monkeypatch.setenv("DORA_DATASETS__COCO", str(root / "coco"))
    shutil.copytree(root / "nyu", machine_root / "datasets/nyu")
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert f"in {root / 'coco'}" in listed and f"in {machine_root / 'datasets/nyu'}" in listed
    assert re.search(r"davis +900 MB +dora data get davis \(833 MB\) +not here", listed)
    assert main(["data", "check", "--any-size"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["coco", "nyu"]
    assert main(["data", "check", "davis", "coco", "--any-size"]) == 2  # one is missing, the other is looked at
    assert "coco in" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["imagenet", "got10k", "nyu"])
def test_the_command_says_how_to_get_a_gated_set(name: str, machine_root: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "get", name]) == 2
    said = capsys.readouterr().err
    assert how_to_get(SETS[name], machine_root / "datasets" / name) in said
    assert main(["data", "check", name]) == 2
    assert how_to_get(SETS[name], machine_root / "datasets" / name) in capsys.readouterr().err
