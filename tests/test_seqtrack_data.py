"""What SeqTrack learns from: annotations read once, frames by the sampler's rules, crops that are changed by chance."""

from pathlib import Path

import numpy as np
import pytest
from small_tracks import HEIGHT, WIDTH, moving, write_subset, write_track

from dora.data.labelled.files import write_lines
from eval.images import read_video_frame
from eval.trackers.seqtrack import tokens
from eval.trackers.seqtrack.augmentation import Frame, augmented, shaken
from eval.trackers.seqtrack.crop import cut, to_crop, window
from eval.trackers.seqtrack.sampling import choose, eligible, generator
from eval.trackers.seqtrack.settings import Settings
from eval.trackers.seqtrack.tracks import Tracks, read_tracks
from eval.trackers.seqtrack.training import reader

SETTINGS = Settings(iterations=1)
PLAIN = Settings(
    iterations=1, grayscale=0, joint_flip=0, own_flip=0, brightness=0, scale_jitter=0, center_jitter=0, n_bins=4000
)
N_DRAWN = 400


def tracks(visible: list[list[int]]) -> Tracks:
    """Sequences of which only this is known: in which frames something is seen."""
    lengths = [len(one) for one in visible]
    seen = np.array([value for one in visible for value in one], bool)
    return Tracks(
        Path("nowhere"), tuple(f"s{number}" for number in range(len(visible))), np.cumsum([0, *lengths]),
        np.where(seen[:, None], np.array([1, 2, 30, 40]), 0).astype(np.float32), seen,
    )  # fmt: skip


def drawn(of: Tracks, settings: Settings = SETTINGS, n: int = N_DRAWN):
    among = eligible(of, settings)
    return [choose(of, among, settings, generator(settings.seed, number)) for number in range(n)]


def by_the_rules(visible: list[int], max_gap: int, draws: np.random.Generator) -> tuple[list[int], int]:
    """The sampler as its protocol says it, step by step: the draws come from the same generator."""
    ids = [frame for frame, is_seen in enumerate(visible) if is_seen]
    base, widened = ids[draws.integers(len(ids))], 0
    while True:
        near = [frame for frame in ids if base - max_gap - widened <= frame <= base + max_gap + widened]
        if near:
            break
        widened += 5
    frames = sorted(near[draws.integers(len(near))] for _ in range(3))
    if draws.random() < 0.5:
        frames = frames[::-1]
    return frames[:2], frames[2]


def test_frames_are_those_of_a_plain_reading_of_the_rules():
    draw = np.random.default_rng(3)
    seen = [(draw.random(n) < share).astype(int).tolist() for n, share in ((60, 0.5), (1500, 0.3), (25, 0.9))]
    for chosen, number in zip(drawn(tracks(seen)), range(N_DRAWN), strict=True):
        plain = generator(SETTINGS.seed, number)
        sequence = int(plain.integers(3))
        assert (chosen.sequence, (list(chosen.templates), chosen.search)) == (
            sequence, by_the_rules(seen[sequence], SETTINGS.max_gap, plain)
        )  # fmt: skip


def test_a_frame_without_its_thing_is_never_drawn():
    visible = [1, 0] * 20
    for chosen in drawn(tracks([visible])):
        assert all(visible[frame] for frame in (*chosen.templates, chosen.search))


def test_frames_are_in_order_or_all_backwards_and_at_most_twice_the_gap_apart():
    found = drawn(tracks([[1] * 2000]))
    steps = [np.sign(np.diff([*one.templates, one.search])) for one in found]
    forwards, backwards = (sum(bool((sign * step >= 0).all()) for step in steps) for sign in (1, -1))
    assert forwards + backwards >= N_DRAWN and 0.4 < forwards / N_DRAWN < 0.6
    spans = [max(*one.templates, one.search) - min(*one.templates, one.search) for one in found]
    assert 400 < max(spans) <= 800


@pytest.mark.parametrize(
    ("visible", "is_eligible"),
    [([1] * 19, False), ([1] * 20, True), ([1] * 6 + [0] * 30, False), ([1] * 7 + [0] * 30, True)],
)
def test_a_sequence_is_long_enough_and_shows_its_thing_often_enough(visible: list[int], is_eligible: bool):
    of = tracks([visible, [1] * 20])
    assert eligible(of, SETTINGS).tolist() == ([0, 1] if is_eligible else [1])


def test_no_sequence_to_learn_from_is_an_error_that_says_what_was_expected():
    with pytest.raises(
        ValueError, match="none of the 1 sequences in nowhere has 20 frames and its thing in more than 6"
    ):
        eligible(tracks([[1] * 5]), SETTINGS)


def test_a_sample_is_a_pure_function_of_seed_and_number(tmp_path: Path):
    write_subset(tmp_path, "train", 2, n_frames=24, seed=0)
    of, _ = read_tracks(tmp_path, "train", max_broken_share=0)
    read = reader(of, SETTINGS, search_size=32, template_size=16)
    first = [read(number) for number in range(4)]
    np.random.seed(5)
    for number in (3, 1, 0, 2):
        again = read(number)
        assert all(np.array_equal(a, b) for a, b in zip(again, first[number], strict=True))
    other = reader(of, SETTINGS.model_copy(update={"seed": 1}), search_size=32, template_size=16)(0)
    assert not np.array_equal(other.search, first[0].search)
    assert first[0].search.shape == (32, 32, 3) and first[0].templates.shape == (2, 16, 16, 3)


def test_tracks_hold_what_the_files_say(tmp_path: Path):
    boxes = moving(24, seed=0)
    boxes[5, 2:] = 0
    names = write_subset(tmp_path, "train", 1, n_frames=21, seed=1)
    write_track(tmp_path / "train/GOT-10k_Train_000007", boxes, seed=0, absent=[3], hidden=[4])
    write_lines(tmp_path / "train/list.txt", [*names, "GOT-10k_Train_000007"])
    of, notes = read_tracks(tmp_path, "train", max_broken_share=0)
    assert notes == () and of.names == (*names, "GOT-10k_Train_000007")
    assert [of.n_frames(0), of.n_frames(1)] == [21, 24]
    # Absent, hidden, and a box without area.
    assert of.visible_frames(1).tolist() == [t for t in range(24) if t not in (3, 4, 5)]
    np.testing.assert_allclose(of.box(1, 20), boxes[20])
    assert of.path(1, 20) == tmp_path / "train/GOT-10k_Train_000007/00000021.jpg" and of.path(1, 20).exists()
    drawn_frames = {frame for one in drawn(of, n=300) if one.sequence == 1 for frame in (*one.templates, one.search)}
    assert drawn_frames == set(of.visible_frames(1).tolist())


def test_few_broken_sequences_are_named_and_left_out_and_many_stop(tmp_path: Path):
    names = write_subset(tmp_path, "train", 4, n_frames=21, seed=0)
    write_lines(tmp_path / "train" / names[1] / "cover.label", ["8"] * 20)
    of, notes = read_tracks(tmp_path, "train", max_broken_share=0.25)
    assert of.names == (names[0], *names[2:]) and of.n_frames(1) == 21
    assert len(notes) == 1 and "1 of 4 sequences of train could not be read" in notes[0] and names[1] in notes[0]
    with pytest.raises(ValueError, match=rf"1 of 4 sequences of train cannot be read.*{names[1]}"):
        read_tracks(tmp_path, "train", max_broken_share=0.2)


def frames() -> tuple[Frame, list[Frame]]:
    draw = np.random.default_rng(0)
    made = [
        Frame(draw.integers(0, 200, (HEIGHT, WIDTH, 3)).astype(np.uint8), np.array([20.0 + t, 12, 12, 9]))
        for t in range(3)
    ]
    return made[2], made[:2]


def test_without_chance_a_sample_is_its_crops_and_words():
    search, templates = frames()
    sample = augmented(search, templates, PLAIN, generator(0, 0), search_size=32, template_size=16)
    around = window(search.box, area_factor=4)
    np.testing.assert_array_equal(sample.search, cut(search.pixels, around, size=32))
    for crop, frame in zip(sample.templates, templates, strict=True):
        np.testing.assert_array_equal(crop, cut(frame.pixels, window(frame.box, area_factor=4), size=16))
    expected = tokens.words(to_crop(search.box, around, size=32), n_bins=4000)
    assert sample.words.tolist() == expected.tolist() and sample.brightness.tolist() == [1, 1, 1]


def test_a_mirrored_crop_has_mirrored_words():
    search, templates = frames()
    shaking = PLAIN.model_copy(update={"center_jitter": 3.5, "scale_jitter": 0.5})
    straight = augmented(search, templates, shaking, generator(0, 3), search_size=32, template_size=16)
    for joint, own in ((1, 0), (0, 1), (1, 1)):
        settings = shaking.model_copy(update={"joint_flip": joint, "own_flip": own})
        sample = augmented(search, templates, settings, generator(0, 3), search_size=32, template_size=16)
        is_mirrored = joint ^ own
        step = -1 if is_mirrored else 1
        np.testing.assert_array_equal(sample.search, straight.search[:, ::step])
        np.testing.assert_array_equal(sample.templates, straight.templates[:, :, ::step])
        assert sample.words[1:].tolist() == straight.words[1:].tolist()
        cx = 3999 - straight.words[0] if is_mirrored else straight.words[0]
        assert abs(sample.words[0] - cx) <= 1


def test_grey_is_of_all_crops_and_brightness_of_each():
    search, templates = frames()
    settings = PLAIN.model_copy(update={"grayscale": 1.0, "brightness": 0.2})
    sample = augmented(search, templates, settings, generator(0, 0), search_size=32, template_size=16)
    for crop in (sample.search, *sample.templates):
        assert (crop == crop[..., :1]).all()
    assert len(set(sample.brightness.tolist())) == 3 and ((0.8 <= sample.brightness) & (sample.brightness <= 1.2)).all()


def test_a_shaken_box_has_the_published_spread():
    box = np.array([100.0, 50, 40, 10])
    boxes = np.stack([shaken(box, SETTINGS, generator(0, number)) for number in range(4000)])
    logs = np.log(boxes[:, 2:] / box[2:])
    assert logs.mean(0) == pytest.approx([0, 0], abs=0.03) and logs.std(0) == pytest.approx([0.5, 0.5], abs=0.03)
    shift = (boxes[:, :2] + boxes[:, 2:] / 2 - [120, 55]) / np.sqrt(boxes[:, 2:].prod(1, keepdims=True))
    assert abs(shift).max() <= 1.75 and shift.std(0) == pytest.approx([3.5 / 12**0.5] * 2, rel=0.05)
    assert np.array_equal(shaken(box, PLAIN, generator(0, 0)), box)


def test_the_thing_is_where_the_words_say(tmp_path: Path):
    """Squares are brighter than the street, so the crop's bright part is the box."""
    write_subset(tmp_path, "train", 3, n_frames=24, seed=0)
    of, _ = read_tracks(tmp_path, "train", max_broken_share=0)
    settings = SETTINGS.model_copy(update={"brightness": 0.0})
    read = reader(of, settings, search_size=64, template_size=32)
    for number in range(30):
        sample = read(number)
        cx, cy, w, h = tokens.shares(sample.words, n_bins=4000) * 64
        if min(w, h) < 8 or min(cx - w / 2, cy - h / 2) < 1 or max(cx + w / 2, cy + h / 2) > 63:
            continue  # cut by the crop's edge
        bright = sample.search.astype(float).mean(2)
        inside = bright[round(cy - h / 2) + 1 : round(cy + h / 2) - 1, round(cx - w / 2) + 1 : round(cx + w / 2) - 1]
        assert inside.mean() > bright.mean() + 20
    assert read_video_frame(of.path(0, 0)).shape == (HEIGHT, WIDTH, 3)
