"""How long `make demo` takes when everything is cached: server, worker, deployment and flow, nothing made."""

import os
import subprocess
import sys
from pathlib import Path

from bench import Measurement, seconds

ROOT = Path(__file__).parents[1]


def demo_cached_s() -> Measurement:
    """Whole command, wall time. The first call fills the cache if it is empty."""
    command = [sys.executable, "-m", "infra.local", "demo"]
    environment = {"DORA_ROOT": str(ROOT / "artifacts"), **os.environ}

    def demo() -> None:
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)

    demo()
    return seconds(demo)


BENCHES = {"demo_cached_s": demo_cached_s}
