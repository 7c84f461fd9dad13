"""Cuts by PySceneDetect: pictures that differ too much from the one before, and which of them count."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8

from dora.data.statistics.config import StatisticsConfig

_FPS = 30.0  # only picture numbers are compared: the rate is asked for, and not used


def require() -> None:
    """Refuse to look for cuts without the library.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import scenedetect  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise ValueError(
            "cuts are found by PySceneDetect, which is not installed: pip install scenedetect (the extra "
            "'statistics'), or leave them out with --no-cuts."
        ) from None


class Jumps:
    """Tells where a picture differs from the one before by more than the threshold."""

    def __init__(self, config: StatisticsConfig) -> None:
        from scenedetect import ContentDetector, FrameTimecode

        self._timecode = FrameTimecode
        # Without a shortest shot it answers for each picture by itself, so that a pass can stop and go on anywhere.
        self._detector = ContentDetector(threshold=config.cut_threshold, min_scene_len=0)

    def see(self, number: int, pixels: UInt8[np.ndarray, "Y X 3"]) -> bool:
        """Whether this picture, the next one, is a jump; the first never is."""
        blue_first = np.ascontiguousarray(pixels[..., ::-1])
        return bool(self._detector.process_frame(self._timecode(number, fps=_FPS), blue_first))


def cuts(jumps: Sequence[int], n_pictures: int, config: StatisticsConfig) -> list[int]:
    """Numbers of the pictures that begin a shot: PySceneDetect's own rule for jumps near to each other.

    Only where its state can change is it asked: at the first picture, and for a shortest shot after each jump.
    """
    from scenedetect import FrameTimecode
    from scenedetect.detector import FlashFilter

    rule, above = FlashFilter(FlashFilter.Mode.MERGE, config.min_shot_pictures), set(jumps)
    after = range(config.min_shot_pictures + 1)
    asked: Iterable[int] = sorted({0, *(jump + more for jump in jumps for more in after if jump + more < n_pictures)})
    found = [cut for n in asked for cut in rule.filter(FrameTimecode(n, fps=_FPS), n in above)]
    return sorted(cut.frame_num for cut in found)
