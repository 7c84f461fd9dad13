"""VOC's and COCO20k's photos, and what counts in them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_eval
from PIL import Image

from dora.artifacts import Machine
from dora.data.labelled.files import write_photo
from dora.progress import silent
from eval.benchmarks import voc_attention, voc_lost
from eval.discovery.corloc import by_class, corloc
from eval.discovery.photos import COCO_IDS, Thing, coco_photos, voc_folder, voc_photos, voc_things
from eval.images import open_photo

XML = """<annotation><object><name>{name}</name><truncated>{truncated}</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>11</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object></annotation>"""


def write_voc(folder: Path, names: list[str]) -> Path:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for name in names:
        (folder / "Annotations" / f"{name}.xml").write_text(XML.format(name="dog", truncated=1))
    (folder / "ImageSets/Main/trainval.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def test_vocs_first_pixel_is_1_and_its_last_one_included(tmp_path: Path):
    photos = voc_photos(write_voc(tmp_path / "VOC2012", ["2008_000002"]), 2012, "trainval")
    assert photos.things(0) == [Thing("dog", (0, 10, 20, 30), is_hard=True)]
    assert photos.path(0) == tmp_path / "VOC2012/JPEGImages/2008_000002.jpg"


def test_voc_2007_is_found_beside_2012(tmp_path: Path):
    ours, other = write_voc(tmp_path / "VOC2012", ["2008_000002"]), write_voc(tmp_path / "VOC2007", ["000005"])
    assert voc_folder(ours, 2007) == other and voc_folder(other, 2012) == ours
    assert voc_photos(ours, 2007, "trainval").names == ["000005"]


def test_a_list_of_another_year_or_of_too_few_photos_is_refused(tmp_path: Path):
    folder = write_voc(tmp_path / "mine", ["000005"])
    with pytest.raises(ValueError, match=r"lists 000005 first, which is of VOC 2007, expected 2012"):
        voc_lost.check(folder, voc_lost.Config())
    with pytest.raises(ValueError, match=r"lists 1 photos for voc2007, expected 5,011.*whole=false"):
        voc_lost.check(folder, voc_lost.Config(photos="voc2007"))
    assert voc_lost.check(folder, voc_lost.Config(photos="voc2007", whole=False))["n_photos"] == 1


def test_an_encoder_of_fewer_heads_than_dino_seg_looks_at_is_told_so(tmp_path: Path):
    data = write_voc(tmp_path / "VOC2012", ["2008_000002"])
    write_photo(data / "JPEGImages/2008_000002.jpg", np.full((40, 40, 3), 99, np.uint8))
    machine = Machine(root=tmp_path / "root", device="cpu", threads=1, datasets={voc_lost.DATASET: data})
    checkpoint = tiny_eval.write_checkpoint(tmp_path / "checkpoint.safetensors")
    (tmp_path / "out").mkdir()
    result = voc_lost.evaluate(checkpoint, voc_lost.Config(whole=False), machine, tmp_path / "out", silent)
    assert result.notes == ("DINO-seg by head 2, the last of 3: there is no head 4",)


def test_a_torn_annotation_is_named(tmp_path: Path):
    (tmp_path / "a.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match=r"a\.xml is no annotation of VOC's"):
        voc_things(tmp_path / "a.xml")


def test_a_photo_is_not_turned_as_its_camera_says(tmp_path: Path):
    """Boxes are of the stored pixels."""
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=turned)
    assert open_photo(tmp_path / "a.jpg").size == (30, 20)


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco20k_is_read_by_its_ids_without_crowds(tmp_path: Path, year: str):
    (tmp_path / f"train{year}").mkdir()
    (tmp_path / "annotations").mkdir()
    boxes = [{"image_id": 9, "category_id": 3, "iscrowd": crowd, "bbox": [1.4, 2.4, 2.2, 3.2]} for crowd in (0, 1)]
    content = {"images": [{"id": 9}, {"id": 10}], "annotations": boxes, "categories": [{"id": 3, "name": "car"}]}
    (tmp_path / f"annotations/instances_train{year}.json").write_text(json.dumps(content))
    (tmp_path / COCO_IDS).write_text("COCO_train2014_000000000009.jpg\n")
    photos = coco_photos(tmp_path, None)
    assert photos.names == ["9"] and photos.things(0) == [Thing("car", (1, 2, 4, 6))]
    assert photos.path(0).name == ("COCO_train2014_" if year == "2014" else "") + "000000000009.jpg"
    (tmp_path / "mine.txt").write_text("11\n")
    with pytest.raises(ValueError, match="has no photo 11"):
        coco_photos(tmp_path, tmp_path / "mine.txt")


def test_corloc_counts_a_half_and_classes_count_their_own_boxes():
    hit = {"lost": [0, 0, 10, 10], "truth": [["dog", 0, 0, 10, 20], ["cat", 50, 50, 60, 60]]}
    miss = {"lost": [0, 0, 10, 10], "truth": [["dog", 0, 0, 10, 21]]}
    assert corloc([hit, miss], "lost", 0.5) == 50
    assert by_class([hit, miss], 0.5) == [
        {"name": "cat", "CorLoc": 0.0, "n_photos": 1}, {"name": "dog", "CorLoc": 50.0, "n_photos": 2},
    ]  # fmt: skip


def test_presets_have_protocols_of_their_own():
    assert set(voc_lost.PRESETS) == {"voc2007", "coco20k"} and set(voc_attention.PRESETS) == {"mass90"}
