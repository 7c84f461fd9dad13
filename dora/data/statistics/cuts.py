"""Cuts by PySceneDetect: pictures that differ too much from the one before, and which of them count."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from dora.data.statistics.config import StatisticsConfig

_FPS = 30.0  # only picture numbers are compared: the rate is asked for, and not used


def require() -> None:
    """Refuse to look for cuts without the library.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import cv2  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import scenedetect  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ValueError(
            f"cuts are found by PySceneDetect, for which {error.name or 'it'} is not installed: pip install "
            "scenedetect opencv-python-headless (the extra 'statistics'), or leave them out with --no-cuts."
        ) from None


class Jumps:
    """Tells where a picture differs from the one before by more than the threshold."""

    def __init__(self, config: StatisticsConfig) -> None:
        from scenedetect import ContentDetector, FrameTimecode

        self._timecode, self._scaler = FrameTimecode, VideoReformatter()
        # Without a shortest shot it answers for each picture by itself, so that a pass can stop and go on anywhere.
        self._detector = ContentDetector(threshold=config.cut_threshold, min_scene_len=0)

    def see(self, number: int, frame: VideoFrame) -> bool:
        """Whether this picture, the next one, is a jump; the first never is."""
        return bool(self._detector.process_frame(self._timecode(number, fps=_FPS), self._small(frame)))

    def _small(self, frame: VideoFrame) -> UInt8[np.ndarray, "y x 3"]:
        """As PySceneDetect sees it: OpenCV's colours, and every n-th pixel until the longer side has 256."""
        import cv2
        from scenedetect.scene_manager import compute_downscale_factor

        whole = self._scaler.reformat(frame, format="bgr24", interpolation=Interpolation.BICUBIC, threads=1)
        width, height, line_bytes = whole.width, whole.height, whole.planes[0].line_size
        plane: Any = whole.planes[0]  # a buffer, which its type does not say
        rows = np.frombuffer(plane, np.uint8).reshape(-1, line_bytes)[:height, : 3 * width]
        pixels = rows.reshape(height, width, 3)  # not copied: 25 MB of 4K
        factor = compute_downscale_factor(max(width, height))
        size = max(1, round(width / factor)), max(1, round(height / factor))
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)) if factor > 1 else pixels


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
