"""GOT-10k's layout: a folder of frames for each thing that is tracked, its boxes, and how much of it is seen.

The test subset tells the first box only. A box holds the pixels that are seen; where none is, it is empty and the
thing absent.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dora.data.labelled.files import write_lines, write_photo
from dora.data.labelled.films import Film, Shot
from dora.data.labelled.moments import Moment, Still, still, streets
from dora.data.miniature import CLASSES, World
from dora.data.street.truth import Annotation, Box

ROOT = "GOT-10k"
FPS, N_FRAMES = 10, 30
FULLY_SEEN = 8
# Upper ends of the levels of cover.label: level 1 is up to 15 % of the thing seen, … level 7 short of all of it.
COVER_LEVELS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
LOOK_EVERY_S, LOOK_UNTIL_S, LOOK_EVERY_FRAMES, MOST_STREETS = 5, 30, 6, 100
# What is worth tracking: at first whole, well seen and a hundredth of the picture, then seen for most of the time.
LEAST_VISIBILITY, LEAST_SHARE, LEAST_TIME_SEEN = 0.7, 0.01, 0.6
MAJOR_CLASSES = {
    "person": "person", "dog": "animal", "cat": "animal", "bird": "animal", "tree": "plant", "plant": "plant",
    "car": "vehicle", "truck": "vehicle", "bus": "vehicle", "motorcycle": "vehicle", "bicycle": "vehicle",
}  # fmt: skip
MOTION_CLASSES = {"person": "walking", "animal": "walking", "vehicle": "driving"}


class Track(NamedTuple):
    """A thing to be tracked from a moment on."""

    start: Moment
    instance: int


def write(folder: Path, subsets: Mapping[str, Iterable[Film]]) -> None:
    """Write the data set into `folder`, which is what the field calls GOT-10k."""
    for subset, films in subsets.items():
        names: list[str] = []
        for number, film in enumerate(films, start=1):
            names.append(f"GOT-10k_{subset.capitalize()}_{number:06d}")
            _write_film(folder / subset / names[-1], film, is_test=subset == "test")
        write_lines(folder / subset / "list.txt", names)


def tracks(world: World, subset: str, n: int) -> list[Track]:
    """One track a street, each of the class that has come up least so far, moving ones first.

    Raises:
        ValueError: if there are fewer.
    """
    found: list[Track] = []
    times_taken: Counter[int] = Counter()
    for street in islice(streets(world, subset), MOST_STREETS):
        if len(found) == n:
            break
        candidates = sorted(
            _candidates(street), key=lambda c: (times_taken[c.class_index], not _may_move(c.class_index))
        )
        taken = next((c for c in candidates if _time_seen(c.track) >= LEAST_TIME_SEEN), None)
        if taken:
            found.append(taken.track)
            times_taken[taken.class_index] += 1
    if len(found) < n:
        raise ValueError(
            f"only {len(found)} of {MOST_STREETS} streets from seed {world.seed} show a thing worth tracking, {n} are "
            f"wanted. Ask for fewer, or for wider pictures than {world.width}x{world.height}."
        )
    return found


def walked(tracks: Iterable[Track]) -> Iterator[Film]:
    """What the walker sees of each thing, for three seconds."""
    for track in tracks:
        moments = (Moment(track.start.world, track.start.time_s + number / FPS) for number in range(N_FRAMES))
        pictures = map(still, moments)
        shots = tuple(Shot(picture.frame.image, _find(picture, track.instance)) for picture in pictures)
        yield Film(track.start, FPS, shots)


def cover_level(visibility: float) -> int:
    """Level 0 … 8 of how much is seen."""
    if visibility >= 1:
        return FULLY_SEEN
    return sum(visibility > end for end in COVER_LEVELS)


class _Candidate(NamedTuple):
    class_index: int
    track: Track


def _may_move(class_index: int) -> bool:
    return MAJOR_CLASSES.get(CLASSES[class_index]) in MOTION_CLASSES


def _candidates(street: World) -> Iterator[_Candidate]:
    """Things that are large, whole and well seen at some moment."""
    for start_s in range(0, LOOK_UNTIL_S, LOOK_EVERY_S):
        start = Moment(street, float(start_s))
        for thing in still(start).things:
            is_whole = thing.visibility >= LEAST_VISIBILITY and not thing.is_cut(street.width, street.height)
            if thing.n_visible >= LEAST_SHARE * street.width * street.height and is_whole:
                yield _Candidate(thing.class_index, Track(start, thing.instance))


def _time_seen(track: Track) -> float:
    """Share of a few of the track's frames in which the thing is seen."""
    world, start_s = track.start
    some = [Moment(world, start_s + number / FPS) for number in range(0, N_FRAMES, LOOK_EVERY_FRAMES)]
    return sum(_find(still(moment), track.instance) is not None for moment in some) / len(some)


def _write_film(folder: Path, film: Film, *, is_test: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    height, width = film.shots[0].image.shape[:2]
    seen = [shot.thing for shot in film.shots]
    for number, shot in enumerate(film.shots, start=1):
        write_photo(folder / f"{number:08d}.jpg", shot.image)
    first = seen[0]
    assert first is not None, "a track begins with what is tracked"
    write_lines(folder / "groundtruth.txt", map(_box_line, seen[:1] if is_test else seen))
    if not is_test:
        cut = [thing is not None and thing.is_cut(width, height) for thing in seen]
        write_lines(folder / "absence.label", (str(int(thing is None)) for thing in seen))
        write_lines(folder / "cut_by_image.label", map(str, map(int, cut)))
        write_lines(folder / "cover.label", (str(cover_level(thing.visibility) if thing else 0) for thing in seen))
    write_lines(folder / "meta_info.ini", _meta(CLASSES[first.class_index], film))


def _find(picture: Still, instance: int) -> Annotation | None:
    return next((thing for thing in picture.things if thing.instance == instance), None)


def _box_line(thing: Annotation | None) -> str:
    box = thing.box if thing else Box(0, 0, 0, 0)
    return f"{box.left:.4f},{box.top:.4f},{box.width:.4f},{box.height:.4f}"


def _meta(class_name: str, film: Film) -> Iterator[str]:
    major = MAJOR_CLASSES.get(class_name, "object")
    begin, end = film.start.time_s, film.start.time_s + len(film.shots) / film.fps
    height, width = film.shots[0].image.shape[:2]
    yield "[METAINFO]"
    yield f"url: miniature://street-{film.start.world.seed}"
    yield f"begin: {_clock(begin)}"
    yield f"end: {_clock(end)}"
    yield f"anno_fps: {film.fps:g}Hz"
    yield f"object_class: {class_name}"
    yield f"motion_class: {MOTION_CLASSES.get(major, 'standing')}"
    yield f"major_class: {major}"
    yield f"root_class: {'animal' if major == 'animal' else 'plant' if major == 'plant' else 'object'}"
    yield "motion_adverb: normally"
    yield f"resolution: ({width}, {height})"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"
