"""One thread for tiny tensors: on busy cores OpenMP's barriers cost far more than they gain. No telemetry."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for child processes
os.environ |= {  # Prefect servers that tests start ask the network for nothing
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
