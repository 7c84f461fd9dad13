"""The energy that GPUs have used, as their driver counts it (NVML); of others nothing is known.

Four calls of the driver's own library, which is there wherever the driver is: no package is needed for them. Its
functions: NVIDIA's NVML API reference, nvmlDeviceGetTotalEnergyConsumption (Volta and newer, in millijoules).
"""

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress

import torch

from dora.training.distributed import Ranks

LIBRARY = "libnvidia-ml.so.1"


class EnergyMeter:
    """Joules since it was made, of these GPUs together; hosts that are alike count as many times as there are."""

    def __init__(self, uuids: Sequence[str], *, n_hosts: int = 1) -> None:
        self._n_hosts = n_hosts
        self._library, self._devices = _opened(uuids)
        self._before = self._counted()

    def joules(self) -> float | None:
        """None if a GPU does not tell, and without a GPU."""
        now = self._counted()
        return None if now is None or self._before is None else self._n_hosts * (now - self._before) / 1000

    def _counted(self) -> int | None:
        """Millijoules since the driver was loaded."""
        if self._library is None:
            return None
        counted = [ctypes.c_ulonglong() for _ in self._devices]
        codes = [
            self._library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value))
            for device, value in zip(self._devices, counted, strict=True)
        ]
        return None if any(codes) else sum(value.value for value in counted)


def meter(ranks: Ranks) -> EnergyMeter:
    """Of the GPUs that the processes of this host use, for all hosts: as torchrun shares the ranks out."""
    if ranks.device.type != "cuda":
        return EnergyMeter([])
    n_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    uuids = [f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in range(n_here)]
    return EnergyMeter(uuids, n_hosts=ranks.world_size // n_here)


def _opened(uuids: Sequence[str]) -> tuple[ctypes.CDLL | None, list[ctypes.c_void_p]]:
    """The library and its names for these GPUs; none if one of them is not known to it, as a part of a GPU is not."""
    devices = [ctypes.c_void_p() for _ in uuids]
    with suppress(OSError, AttributeError):  # no driver, or one too old
        library = ctypes.CDLL(LIBRARY) if uuids else None
        if library is None or library.nvmlInit_v2():
            return None, []
        library.nvmlDeviceGetTotalEnergyConsumption  # noqa: B018, asks whether it is there
        if not any(
            library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device))
            for uuid, device in zip(uuids, devices, strict=True)
        ):
            return library, devices
    return None, []
