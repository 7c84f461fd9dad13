"""What tells one list of photos from another without reading them all."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

N_READ = 64


def identity(photos: Sequence[Path]) -> dict[str, Any]:
    """Number of photos and a hash of their order, names, sizes and of the content of some.

    Names count from the folder that all have in common, so that a data set may be moved. The content of 64 spread
    over the list is read: a million photos would take hours. A photo that is replaced by another of exactly as many
    bytes is therefore not noticed, unless it is one of these.

    Raises:
        FileNotFoundError: for a photo that is not there.
        ValueError: if there is none.
    """
    if not photos:
        raise ValueError("expected photos to compute features of, got none.")
    common = os.path.commonpath([photo.parent for photo in photos])
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(f"{os.path.relpath(photo, common)}\0{photo.stat().st_size}\n".encode())
    step = max(1, len(photos) // N_READ)
    for photo in photos[::step]:
        digest.update(hashlib.sha256(photo.read_bytes()).digest())
    return {"n_photos": len(photos), "photos_sha256": digest.hexdigest()}
