"""Films decoded again: what was drawn, in its order; the same bytes; nothing half-made under their name."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dora.film import write_film


def squares(n: int, height: int = 47, width: int = 65) -> Iterator[np.ndarray]:
    """A red square that moves right over green."""
    for t in range(n):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[..., 1] = 120
        frame[8:24, 2 * t : 2 * t + 16] = (220, 30, 30)
        yield frame


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_film_shows_its_frames_in_order_and_odd_sides_get_a_pixel(tmp_path: Path):
    write_film(tmp_path / "film.mp4", squares(20), fps=12.5)
    film = decoded(tmp_path / "film.mp4")
    assert film.shape == (20, 48, 66, 3)
    difference = np.abs(film[:, :47, :65].astype(int) - np.stack(list(squares(20))))
    assert difference.mean() < 4
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(25, 2)


def test_a_browser_can_start_before_all_is_loaded(tmp_path: Path):
    write_film(tmp_path / "film.mp4", squares(3), fps=10)
    content = (tmp_path / "film.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_the_same_frames_give_the_same_bytes(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3), dtype=np.uint8)
    for name in "ab":
        write_film(tmp_path / f"{name}.mp4", noise, fps=24)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_film_of_one_frame(tmp_path: Path):
    write_film(tmp_path / "film.mp4", squares(1), fps=10)
    assert len(decoded(tmp_path / "film.mp4")) == 1


def test_a_film_that_breaks_off_leaves_nothing_and_keeps_the_one_before(tmp_path: Path):
    def broken() -> Iterator[np.ndarray]:
        yield from squares(2)
        raise ValueError("the disk with the frames is gone")

    path = tmp_path / "film.mp4"
    write_film(path, squares(3), fps=10)
    with pytest.raises(ValueError, match="the disk with the frames is gone"):
        write_film(path, broken(), fps=10)
    assert os.listdir(tmp_path) == ["film.mp4"] and len(decoded(path)) == 3


def test_frames_of_two_sizes_and_no_frames_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"frame 1 of a film is \(20, 20\) pixels, the first \(47, 65\)"):
        write_film(tmp_path / "film.mp4", [next(squares(1)), np.zeros((20, 20, 3), np.uint8)], fps=10)
    with pytest.raises(ValueError, match=r"no frame for the film .*film\.mp4"):
        write_film(tmp_path / "film.mp4", [], fps=10)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/film\.mp4"):
        write_film(tmp_path / "nowhere" / "film.mp4", squares(1), fps=10)
