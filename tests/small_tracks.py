"""The smallest GOT-10k that can be learnt from: textured squares that move over noise, drawn in no time."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from dora.data.labelled.files import write_lines, write_photo

HEIGHT, WIDTH = 48, 64


def write_track(
    folder: Path,
    boxes: Float64[np.ndarray, "T 4"],
    *,
    seed: int,
    absent: Iterable[int] = (),
    hidden: Iterable[int] = (),
) -> None:
    """Frames with a square in each box; in `absent` ones nothing, with an empty box, in `hidden` ones a cover of 0."""
    draw = np.random.default_rng(seed)
    street, texture = draw.integers(0, 120, (HEIGHT, WIDTH, 3)), draw.integers(120, 256, (HEIGHT, WIDTH, 3))
    absent, hidden = set(absent), set(hidden)
    folder.mkdir(parents=True)
    for t, box in enumerate(boxes):
        pixels = street.copy()
        x, y, w, h = (int(value) for value in box)
        if t not in absent:
            pixels[y : y + h, x : x + w] = texture[:h, :w]
        write_photo(folder / f"{t + 1:08d}.jpg", pixels.astype(np.uint8))
    told = ["0,0,0,0" if t in absent else ",".join(f"{v:.4f}" for v in box) for t, box in enumerate(boxes)]
    write_lines(folder / "groundtruth.txt", told)
    write_lines(folder / "absence.label", [str(int(t in absent)) for t in range(len(boxes))])
    write_lines(folder / "cover.label", [str(0 if t in absent or t in hidden else 8) for t in range(len(boxes))])
    write_lines(folder / "meta_info.ini", ["[METAINFO]", "object_class: square", f"resolution: ({WIDTH}, {HEIGHT})"])


def moving(n: int, *, seed: int) -> Float64[np.ndarray, "n 4"]:
    """Boxes of a square that moves evenly from one place to another."""
    draw = np.random.default_rng(seed)
    side = draw.integers(8, 16)
    first, last = (draw.uniform((0, 0), (WIDTH - side, HEIGHT - side)) for _ in range(2))
    corners = np.linspace(first, last, n).round()
    return np.concatenate([corners, np.full((n, 2), side)], axis=1).astype(np.float64)


def write_subset(data: Path, subset: str, n: int, *, n_frames: int, seed: int) -> list[str]:
    """`n` sequences and their list."""
    names = [f"GOT-10k_{subset.capitalize()}_{number:06d}" for number in range(1, n + 1)]
    for number, name in enumerate(names):
        write_track(data / subset / name, moving(n_frames, seed=seed + number), seed=seed + number)
    write_lines(data / subset / "list.txt", names)
    return names
