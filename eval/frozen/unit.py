"""Features as vectors of unit length, chunk by chunk from an array that may be mapped from a file."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.frozen.exact import exact_sum

ROWS_AT_ONCE = 4096
SMALLEST_NORM = 1e-12  # of torch's `normalize`; features that are all zero stay so


class UnitFeatures:
    """N feature vectors divided by their length when they are read: no copy of all of them is made.

    Each element is multiplied by the float32 nearest to 1 / length, the length from a sum in a fixed order
    (eval/frozen/exact.py): the same bits whichever rows are read together, on every device.

    Raises:
        ValueError: if a vector has NaN or infinite elements.
    """

    def __init__(self, features: Float[np.ndarray, "N D"]) -> None:
        self._features = features
        self._scale = np.empty((len(features), 1), np.float32)
        for start in range(0, len(features), ROWS_AT_ONCE):
            rows = torch.from_numpy(np.array(features[start : start + ROWS_AT_ONCE], np.float64))
            length = exact_sum(rows.square_()).sqrt_()
            if not bool(length.isfinite().all()):
                first = start + int(length.isfinite().int().argmin())
                raise ValueError(
                    f"the features of image {first} are no finite numbers. Has the checkpoint NaN weights?"
                )
            self._scale[start : start + ROWS_AT_ONCE, 0] = 1 / length.clamp_(min=SMALLEST_NORM).numpy()

    def __len__(self) -> int:
        return len(self._features)

    @property
    def width(self) -> int:
        """Elements of a vector."""
        return self._features.shape[1]

    def chunk(self, start: int, stop: int, device: torch.device) -> Float[Tensor, "n D"]:
        """Rows `start` to `stop` (excluded), which may be more than there are."""
        return torch.from_numpy(self._features[start:stop] * self._scale[start:stop]).to(device)

    def take(self, index: Int[np.ndarray, " n"]) -> Float[Tensor, "n D"]:
        """Single rows, on the CPU."""
        rows = np.take(self._features, index, axis=0)
        return torch.from_numpy(np.multiply(rows, self._scale[index], out=rows))
