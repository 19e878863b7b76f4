"""Is there a GPU? The driver itself is asked, so that no package needs to be importable."""

from __future__ import annotations

import ctypes
import functools

NO_GPU = "needs a CUDA GPU of compute capability 8.0 or newer"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_DRIVER = 13000


@functools.cache
def why_none() -> str:
    """Why a GPU test cannot run here; empty if it can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return f"{NO_GPU}; there is no CUDA driver"
    number = ctypes.c_int()

    def ask(function: str, *arguments: int) -> int:
        return number.value if not driver[function](ctypes.byref(number), *arguments) else 0

    if driver.cuInit(0) != 0 or not ask("cuDeviceGetCount"):
        return f"{NO_GPU}; the driver finds none"
    if (version := ask("cuDriverGetVersion")) < _DRIVER:
        return (
            f"needs a driver for CUDA 13; this one is for {version // 1000}.{version % 1000 // 10}"
        )
    major, minor = (ask("cuDeviceGetAttribute", which, 0) for which in (_MAJOR, _MINOR))
    return "" if major >= 8 else f"{NO_GPU}; this one has {major}.{minor}"
