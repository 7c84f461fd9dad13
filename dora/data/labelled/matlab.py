"""MATLAB's files, the same bytes each time."""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# The first 116 bytes are free text, in which scipy tells the date.
HEADER = b"MATLAB 5.0 MAT-file, by dora".ljust(116)


def write_matlab(path: Path, content: dict[str, Any]) -> None:
    """Variables by their names.

    Raises:
        ValueError: if scipy is not there.
    """
    require_scipy(path.name)
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, content)
    path.write_bytes(HEADER + file.getvalue()[len(HEADER) :])


def require_scipy(who: str) -> None:
    """Check that MATLAB's files can be read and written; `who` needs it.

    Raises:
        ValueError: if not, saying what to install.
    """
    if find_spec("scipy") is None:
        raise ValueError(f"{who}: this set's lists are MATLAB files, which scipy reads and writes: pip install scipy.")
