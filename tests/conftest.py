"""One thread for tiny tensors: on busy cores OpenMP's barriers cost far more than they gain."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for child processes
