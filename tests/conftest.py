"""One thread for tiny tensors: on busy cores OpenMP's barriers cost far more than they gain."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for child processes


@pytest.fixture
def both_cores() -> Iterator[None]:
    """For minutes of learning in this process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
