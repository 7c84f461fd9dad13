"""How fast things move across the picture."""

import numpy as np
from jaxtyping import UInt8


def require() -> None:
    """Refuse to measure motion without OpenCV.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import cv2  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise ValueError(
            "motion is measured with OpenCV, which is not installed: pip install opencv-python-headless (the extra "
            "'statistics'), or leave it out with --no-motion."
        ) from None


def speed(first: UInt8[np.ndarray, "Y X 3"], second: UInt8[np.ndarray, "Y X 3"], seconds: float) -> float:
    """Mean length of the optical flow between two pictures, in picture widths a second (Farnebäck, SCIA 2003)."""
    import cv2

    grey, next_grey = (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in (first, second))
    flow = np.zeros((*grey.shape, 2), np.float32)
    # The values of OpenCV's example: 3 levels of halves, windows of 15 pixels.
    flow = cv2.calcOpticalFlowFarneback(
        grey, next_grey, flow, pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
    )
    return float(np.hypot(flow[..., 0], flow[..., 1]).mean()) / first.shape[1] / seconds
