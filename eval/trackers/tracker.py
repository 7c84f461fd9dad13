"""What a tracker is: shown a box in the first frame, it says where the box is in each frame after it."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, UInt8

Frame = UInt8[np.ndarray, "Y X 3"]  # RGB
Box = Float64[np.ndarray, "4"]  # x, y of the left upper corner, width, height, in pixels; the first pixel begins at 0


@runtime_checkable  # signatures are checked while tests run
class Tracker(Protocol):
    """Follows one thing at a time; `start` forgets what was followed before.

    What it says of a video depends on nothing but the video and its first box: not on videos followed earlier.
    """

    def start(self, frame: Frame, box: Box) -> None:
        """Take what is in the box, whose sides are positive, for the thing to follow."""
        ...

    def follow(self, frame: Frame) -> Box:
        """Where it is in the next frame: four finite numbers, given when they are known (no work is left on a GPU)."""
        ...
