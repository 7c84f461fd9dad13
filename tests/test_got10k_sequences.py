"""GOT-10k's folders are read as they are, and what contradicts itself is named with its file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_tracks

from eval.trackers.sequences import listed, read_boxes, read_sequence

FIRST = "GOT-10k_Val_000001"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    small_tracks.write_subset(tmp_path, "val", 2, n_frames=4, seed=0)
    return tmp_path


def test_a_sequence_has_its_frames_boxes_and_labels(tmp_path: Path):
    boxes = small_tracks.moving(5, seed=1)
    small_tracks.write_track(tmp_path / "val" / FIRST, boxes, seed=1, absent=[2], hidden=[3])
    sequence = read_sequence(tmp_path, "val", FIRST)
    assert [path.name for path in sequence.frames] == [f"{number:08d}.jpg" for number in range(1, 6)]
    assert np.array_equal(sequence.boxes[[0, 1, 3, 4]], boxes[[0, 1, 3, 4]])
    assert sequence.visible.tolist() == [True, True, False, False, True]
    assert (sequence.size, sequence.kind) == ((small_tracks.WIDTH, small_tracks.HEIGHT), "square")


def test_a_sequence_of_the_test_subset_has_one_box_even_where_somebody_put_more(tmp_path: Path):
    name = "GOT-10k_Test_000001"
    small_tracks.write_track(tmp_path / "test" / name, small_tracks.moving(3, seed=1), seed=1)
    sequence = read_sequence(tmp_path, "test", name)
    assert (len(sequence.boxes), len(sequence.frames), sequence.cover, sequence.absent) == (1, 3, None, None)


@pytest.mark.parametrize(
    "meta", [None, "", "[METAINFO]\nurl: https://a.b/%20c\n", "no section\n", "[METAINFO]\nresolution: x"]
)
def test_without_a_resolution_the_first_frame_tells_it(data: Path, meta: str | None):
    path = data / "val" / FIRST / "meta_info.ini"
    path.unlink() if meta is None else path.write_text(meta)
    assert read_sequence(data, "val", FIRST).size == (small_tracks.WIDTH, small_tracks.HEIGHT)


def test_a_box_may_be_nan_where_nothing_is_seen_only(data: Path):
    folder = data / "val" / FIRST
    lines = (folder / "groundtruth.txt").read_text().splitlines()
    (folder / "groundtruth.txt").write_text("\n".join([*lines[:2], "nan,nan,nan,nan", lines[3]]))
    with pytest.raises(ValueError, match=r"groundtruth.txt, line 3: the box is \[nan.*cover.label says"):
        read_sequence(data, "val", FIRST)
    (folder / "cover.label").write_text("8\n8\n0\n8\n")
    assert read_sequence(data, "val", FIRST).visible.tolist() == [True, True, False, True]


def test_boxes_are_read_whatever_parts_them(tmp_path: Path):
    path = tmp_path / "boxes.txt"
    path.write_text("1,2,3,4\n1.5\t2\t3\t4\r\n 1  2 3, 4 \n\n")
    assert read_boxes(path).tolist() == [[1, 2, 3, 4], [1.5, 2, 3, 4], [1, 2, 3, 4]]


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a gap": (lambda f: (f / "00000002.jpg").unlink(), r"has 3 frames, but no 00000002.jpg before 00000003.jpg"),
    "a frame less": (lambda f: (f / "00000004.jpg").unlink(), r"groundtruth.txt has 4 boxes, but there are 3 frames"),
    "no number": (lambda f: (f / "groundtruth.txt").write_text("1,2,3,4\na,2,3,4\n"), r"line 2: 'a,2,3,4' is no box"),
    "three numbers": (lambda f: (f / "groundtruth.txt").write_text("1,2,3\n"), r"line 1: '1,2,3' is no box"),
    "no box": (lambda f: (f / "groundtruth.txt").write_text("\n"), r"groundtruth.txt has no box"),
    "a NaN": (lambda f: (f / "groundtruth.txt").write_text("nan,1,2,3\n" * 4), r"the first box is \[nan"),
    "few labels": (lambda f: (f / "cover.label").write_text("8\n8\n"), r"cover.label has 2 labels, but there are 4"),
    "odd labels": (lambda f: (f / "absence.label").write_text("0\n2\n0\n0\n"), r"absence.label has the label '2'"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_sequence_that_contradicts_itself_is_refused_with_its_file(data: Path, what: str):
    spoil, says = BROKEN[what]
    spoil(data / "val" / FIRST)
    with pytest.raises(ValueError, match=says):
        read_sequence(data, "val", FIRST)


@pytest.mark.parametrize("lacking", ["groundtruth.txt", "cover.label", "absence.label", "*.jpg"])
def test_a_file_that_is_not_there_is_named_with_how_to_get_it(data: Path, lacking: str):
    for path in (data / "val" / FIRST).glob(lacking):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"got10k: no val/.* in .*DORA_DATASETS__GOT10K") as caught:
        read_sequence(data, "val", FIRST)
    assert f"{FIRST}/{lacking}" in str(caught.value)


def test_a_list_names_sequences_once(data: Path):
    assert listed(data, "val") == [FIRST, "GOT-10k_Val_000002"]
    (data / "val/list.txt").write_text(f"{FIRST}\n{FIRST}\n")
    with pytest.raises(ValueError, match="lists 2 sequences, but only 1 different"):
        listed(data, "val")
    (data / "val/list.txt").write_text("\n")
    with pytest.raises(ValueError, match="lists no sequence"):
        listed(data, "val")
    with pytest.raises(FileNotFoundError, match=r"no test/list\.txt"):
        listed(data, "test")


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "..", "a/b"])
def test_a_list_that_leads_elsewhere_is_refused(data: Path, name: str):
    (data / "val" / "list.txt").write_text(f"{FIRST}\n{name}\n")
    with pytest.raises(ValueError, match=r"list.txt has '.*', expected the plain name of a folder"):
        listed(data, "val")
