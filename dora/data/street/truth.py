"""What stands in a picture: each thing's box, and how much of it there is to see."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from dora.data.street.layout import Camera
from dora.data.street.polygons import paint
from dora.data.street.residents import Thing
from dora.data.street.things import in_front, pose

# A car beside the camera would fill thousands of pictures; what lies so many pictures outside is not counted.
MARGIN = 3


class Box(NamedTuple):
    """Pixels from `left` and `top` up to, but without, `right` and `bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels across."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels down."""
        return self.bottom - self.top


class Annotation(NamedTuple):
    """One thing in one picture."""

    instance: int  # its identity, the same at all times
    class_index: int  # in CLASSES
    box: Box  # of the pixels that can be seen
    whole_box: Box  # of all of it, as if nothing stood before it; it may reach out of the picture
    n_visible: int  # pixels
    n_whole: int  # pixels, those hidden or outside included, as far as MARGIN pictures away
    distance_m: float  # to its nearest visible point

    @property
    def visibility(self) -> float:
        """Share of the thing's silhouette that is seen, above 0 and up to 1."""
        return self.n_visible / self.n_whole

    def is_cut(self, camera_width: int, camera_height: int) -> bool:
        """Whether the thing reaches out of the picture."""
        return _is_cut(self.whole_box, camera_width, camera_height)


def annotate(
    things: Sequence[Thing], camera: Camera, *, classes: UInt8[np.ndarray, "Y X"], instances: Int32[np.ndarray, "Y X"],
    depth: Float32[np.ndarray, "Y X"],
) -> tuple[Annotation, ...]:  # fmt: skip
    """Everything of which at least one pixel is seen, the largest first."""
    seen = {thing.instance: thing for thing in things}
    found: list[Annotation] = []
    for instance, box, mask in _visible(instances):
        region = np.s_[box.top : box.bottom, box.left : box.right]
        n_visible = int(np.count_nonzero(mask))
        n_whole, whole_box = _silhouette(seen[instance], camera)
        # The silhouette is filled on another grid of pixels, which may round an edge the other way.
        whole_box = Box(
            min(box.left, whole_box.left), min(box.top, whole_box.top),
            max(box.right, whole_box.right), max(box.bottom, whole_box.bottom),
        )  # fmt: skip
        found.append(
            Annotation(
                instance, int(classes[region][mask][0]), box, whole_box, n_visible, max(n_visible, n_whole),
                float(depth[region][mask].min()),
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda annotation: (-annotation.n_visible, annotation.instance)))


def is_whole(instance: int, things: Sequence[Thing], camera: Camera, *, visibility: float) -> bool:
    """Whether so much of a thing can be seen, and nothing of it lies outside: what `annotate` says of the picture.

    No picture is needed: of `things`, the farthest first, those before it tell what hides it.
    """
    farther = next((number for number, thing in enumerate(things) if thing.instance == instance), None)
    if farther is None:
        return False
    n_whole, box = _silhouette(things[farther], camera)
    if _is_cut(box, camera.width, camera.height):
        return False
    n_visible = int(np.count_nonzero(in_front(things[farther:], camera) == 0))
    return n_visible > 0 and n_visible / max(n_visible, n_whole) >= visibility


def box_of(mask: Bool[np.ndarray, "Y X"]) -> Box:
    """The smallest box around a mask; empty at the origin if the mask is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Box(0, 0, 0, 0)
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _is_cut(box: Box, width: int, height: int) -> bool:
    return box.left < 0 or box.top < 0 or box.right > width or box.bottom > height


def _visible(instances: Int32[np.ndarray, "Y X"]) -> list[tuple[int, Box, Bool[np.ndarray, "y x"]]]:
    """Each instance of the map, its box, and its pixels inside that."""
    flat = instances.ravel()
    order = np.argsort(flat, kind="stable")
    names, starts = np.unique(flat[order], return_index=True)
    found: list[tuple[int, Box, Bool[np.ndarray, "y x"]]] = []
    for name, pixels in zip(names.tolist(), np.split(order, starts[1:]), strict=True):
        if name:
            rows, columns = np.divmod(pixels, instances.shape[1])
            box = Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
            found.append((name, box, instances[box.top : box.bottom, box.left : box.right] == name))
    return found


def _silhouette(thing: Thing, camera: Camera) -> tuple[int, Box]:
    """Pixels and box of all of a thing, as far as it lies within MARGIN pictures of this one."""
    posed = pose([thing], camera)
    points = posed.points[:, :, posed.is_shown]
    margin_x, margin_y = MARGIN * camera.width, MARGIN * camera.height
    low = np.floor(points.min(axis=(1, 2)))
    high = np.ceil(points.max(axis=(1, 2)))
    left, top = (max(int(edge), -margin) for edge, margin in zip(low, (margin_x, margin_y), strict=True))
    right = min(int(high[0]), camera.width + margin_x)
    bottom = min(int(high[1]), camera.height + margin_y)
    shifted = points - np.array([left, top], np.float32)[:, None, None]
    filled = paint(shifted, width=max(right - left, 1), height=max(bottom - top, 1)) >= 0
    box = box_of(filled)
    return int(np.count_nonzero(filled)), Box(box.left + left, box.top + top, box.right + left, box.bottom + top)
