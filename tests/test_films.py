"""Films of one thing each, for those who learn to track."""

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from typecheck import unchecked

from dora.data.labelled import got10k
from dora.data.labelled.films import Film, films
from dora.data.labelled.imagenet import THINGS
from dora.data.miniature import CLASSES, World
from eval.trackers import overlap, sequences

WORLD = World(seed=1000, width=64, height=64)


@pytest.fixture(scope="module")
def made() -> list[Film]:
    with unchecked():
        return list(films(WORLD, "val", 1, n_frames=8, fps=3))


def test_each_class_of_things_is_filmed_as_often_as_asked(made: list[Film]):
    classes = Counter(CLASSES[thing.class_index] for film in made if (thing := film.shots[0].thing) is not None)
    assert classes == Counter(THINGS) and {len(film.shots) for film in made} == {8}


def test_the_same_films_come_again_and_other_ones_of_another_subset(made: list[Film]):
    with unchecked():
        (again,) = islice(films(WORLD, "val", 1, n_frames=8, fps=3), 1)
        (other,) = islice(films(WORLD, "train", 1, n_frames=8, fps=3), 1)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(made[0].shots, again.shots, strict=True))
    assert other.start.world.seed != again.start.world.seed


def test_a_film_begins_with_the_whole_thing_and_shows_it_most_of_the_time(made: list[Film]):
    for film in made:
        first = film.shots[0].thing
        assert first is not None and first.visibility >= 0.75 and not first.is_cut(64, 64)
        assert sum(shot.thing is not None for shot in film.shots) >= 5
        assert len({shot.thing.instance for shot in film.shots if shot.thing}) == 1


def test_the_thing_is_large_and_does_not_stay_where_it_was(made: list[Film], tmp_path: Path):
    got10k.write(tmp_path, {"val": made})
    overlaps: list[float] = []
    for name in sequences.listed(tmp_path, "val"):
        sequence = sequences.read_sequence(tmp_path, "val", name)
        assert max(sequence.boxes[0][2:]) > 64 / 5
        still = np.tile(sequence.boxes[0], (len(sequence.boxes), 1))
        assert sequence.cover is not None
        seen = overlap.counted(sequence.cover)
        overlaps.append(float(overlap.iou(still, sequence.boxes, size=sequence.size)[seen].mean()))
    assert np.mean(overlaps) < 0.4


def test_more_films_than_the_streets_have_things_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dora.data.labelled.imagenet.LOOKS_PER_STREET", 0)
    with pytest.raises(ValueError, match=r"gave 0 films of the class tree, 3 are wanted\. Ask for fewer"):
        list(films(WORLD, "val", 3, n_frames=2, fps=1))
