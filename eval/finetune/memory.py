"""What to do about a GPU whose memory is too small."""

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def memory_explained(samples_at_once: int) -> Generator[None]:
    """In this block, a GPU's memory that is too small is a ValueError that says what to lower.

    Raises:
        ValueError: in the place of torch.OutOfMemoryError.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        what = (
            f"{samples_at_once} samples at once. Set Machine.micro_batch (DORA_MICRO_BATCH) to fewer, which keeps the "
            "batch as it is"
            if samples_at_once > 1
            else "a single sample"
        )
        raise ValueError(
            f"the GPU's memory is too small for {what}; or lower the protocol's crop or image size, which is another "
            f"protocol. ({str(error).splitlines()[0]})"
        ) from None
