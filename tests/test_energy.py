"""Energy as a driver counts it: a small library stands in for NVML, with a counter that stands in a file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dora.training.energy import EnergyMeter

ROOT = Path(__file__).parents[1]
NVML = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    if (strncmp(uuid, "GPU-", 4)) return 6;
    *device = (void *)strdup(uuid);
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("COUNTERS"), (char *)device);
    FILE *file = fopen(path, "r");
    if (!file) return 3;
    int read = fscanf(file, "%llu", millijoules);
    fclose(file);
    return read != 1;
}
"""
READ = """
import json, os, sys
from pathlib import Path
from dora.training.energy import EnergyMeter
uuids, hosts, counters = json.loads(sys.argv[1]), int(sys.argv[2]), Path(os.environ["COUNTERS"])
meter = EnergyMeter(uuids, n_hosts=hosts)
for path in counters.iterdir():
    path.write_text(str(int(path.read_text()) + 5000))
print(json.dumps(meter.joules()))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler (cc)")
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "nvml.c")], check=True)
    counters = tmp_path / "counters"
    counters.mkdir()
    for name in ("GPU-a", "GPU-b"):
        (counters / name).write_text("18446744073709000000" if name == "GPU-a" else "7")  # large ones too
    return os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "COUNTERS": str(counters)}


@pytest.mark.parametrize(
    ("uuids", "n_hosts", "joules"),
    [
        (["GPU-a"], 1, 5.0),
        (["GPU-a", "GPU-b"], 1, 10.0),
        (["GPU-a", "GPU-b"], 3, 30.0),
        (["GPU-a", "GPU-without-a-counter"], 1, None),
        (["MIG-of-a"], 1, None),
        ([], 1, None),
    ],
)
def test_what_the_driver_has_counted_since_then_is_told_in_joules(
    environment: dict[str, str], uuids: list[str], n_hosts: int, joules: float | None
):
    command = [sys.executable, "-c", READ, json.dumps(uuids), str(n_hosts)]
    told = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    assert json.loads(told.stdout) == joules


def test_without_a_gpu_nothing_is_known():
    assert EnergyMeter([]).joules() is None
