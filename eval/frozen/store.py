"""[CLS] features of photos, computed once for all benchmarks: an artifact that several processes fill, mapped to read.

    root/features/<fingerprint, 16 digits>/features.npy     (N, blocks, width), float32

They belong to a checkpoint, a list of photos (eval/identity.py), a size of crop and a number of blocks. A job
that is killed goes on where it was, with any number of processes, to the same bytes on the same kind of machine: a
batch holds the same photos whoever computes it.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dora import cache
from dora.artifacts import Checkpoint, Machine
from dora.data.ahead import read_ahead
from dora.launch import Interrupted
from dora.lease import Lease
from dora.progress import Progress, silent
from eval.features import frozen_backbone, normalised, patch_size
from eval.finetune.memory import memory_explained
from eval.finetune.team import Team
from eval.frozen.rows import Rows
from eval.frozen.tokens import last_class_tokens, require_blocks
from eval.identity import identity
from eval.images import read_photo

STAGE, VERSION = "features", 1
FILE = "features.npy"
TURNS = ".turns"
# A batch is always of the same photos; a product of another shape may be rounded otherwise.
IMAGES_PER_BATCH = 64
# What a kill may cost, and what one fsync is for.
ROWS_PER_BLOCK = 8 * IMAGES_PER_BATCH
LOOK_EVERY_S = 0.2
PROGRESS_EVERY_S = 1.0


class _Order(NamedTuple):
    """What the first rank tells the others: the folder, and the blocks to compute, or that it is finished."""

    folder: Path
    left: list[int] | None


def class_tokens(
    checkpoint: Checkpoint, photos: Sequence[Path], *, crop: int, n_blocks: int, machine: Machine, team: Team,
    avgpool: bool = False, progress: Progress = silent,
) -> Float[np.memmap, "N L W"]:  # fmt: skip
    """[CLS] of the last `n_blocks` blocks after the final LayerNorm (the last block's last) of every photo's centre.

    With `avgpool` the mean of the last block's patch tokens too (eval/frozen/tokens.py). The short side is resized to
    256/224 of `crop` first (eval/images.py: read_photo). All ranks call it together and share the photos; each gets the
    same file, mapped read-only: memory holds the batches, never the N photos' features.

    Raises:
        Interrupted: if asked to stop; what was computed is kept.
        FileNotFoundError, ValueError: for a photo that is not there or cannot be read, or sizes that do not suit the
            backbone.
        OSError: if the features cannot be written.
    """
    vit = frozen_backbone(checkpoint, machine).to(team.ranks.device)
    patch_size(vit, crop)
    require_blocks(vit, n_blocks)
    preprocessing = {"crop": crop, "n_blocks": n_blocks} | ({"avgpool": True} if avgpool else {})
    asked = team.ranks.decided_by_first(lambda: preprocessing | identity(photos))
    width = vit.embed_dim * (2 if avgpool else 1)
    shape = (len(photos), n_blocks, width)

    def compute(pixels: Tensor) -> Float[np.ndarray, "B L W"]:
        return last_class_tokens(vit, pixels, n_blocks, avgpool=avgpool).float().cpu().numpy()

    def fill(order: _Order) -> None:
        rows = Rows(order.folder / FILE, shape, rows_per_block=ROWS_PER_BLOCK)
        _fill(rows, order.left or [], compute, photos, crop, machine, team, progress)

    def make(folder: Path) -> dict[str, Any]:
        rows = Rows(folder / FILE, shape, rows_per_block=ROWS_PER_BLOCK)
        rows.begin()
        fill(team.ranks.decided_by_first(lambda: _Order(folder, rows.left())))
        return {"n_photos": len(photos), "width": width}

    def build() -> _Order:
        built = cache.build(machine, STAGE, VERSION, asked, {"checkpoint": checkpoint}, make)
        return _Order(built.folder, None)

    with _turn(machine, cache.fingerprint(STAGE, VERSION, asked, {"checkpoint": checkpoint}), team):
        order = team.ranks.decided_by_first(build)  # on the first rank; the others hear what it decides in `make` too
        while order.left is not None:
            fill(order)
            order = team.ranks.decided_by_first(build)
    progress(len(photos), len(photos), "images", "features")
    return np.load(order.folder / FILE, mmap_mode="r")


def _fill(
    rows: Rows, left: Sequence[int], compute: Callable[[Tensor], np.ndarray], photos: Sequence[Path], crop: int,
    machine: Machine, team: Team, progress: Progress,
) -> None:  # fmt: skip
    """Compute this rank's share of the blocks, and wait until all are there."""
    ranks, told_at = team.ranks, 0.0
    shares = [left[rank :: ranks.world_size] for rank in range(ranks.world_size)]
    own = shares[ranks.rank]
    done = rows.shape[0] - sum(len(rows.span(block)) for block in left)

    def read(index: int) -> np.ndarray:
        return read_photo(photos[index], crop=crop)

    images = read_ahead(read, (i for block in own for i in rows.span(block)), n_threads=max(1, machine.n_workers))
    with memory_explained(IMAGES_PER_BATCH):
        for block in own:
            computed: list[np.ndarray] = []
            for batch in _batches(images, len(rows.span(block))):
                pixels = normalised(batch, device=ranks.device)
                computed.append(compute(pixels))
                team.tell(block)
                if team.should_stop():
                    raise Interrupted
                done += len(batch) * ranks.world_size  # the others are about as far
                if time.monotonic() - told_at > PROGRESS_EVERY_S:
                    progress(min(done, len(photos)), len(photos), "images", "features")
                    told_at = time.monotonic()
            rows.write(block, np.concatenate(computed))
    n_batches = [sum(-(-len(rows.span(block)) // IMAGES_PER_BATCH) for block in share) for share in shares]
    for _ in range(max(n_batches, default=0) - n_batches[ranks.rank]):  # who waits has told no less than another
        team.tell(rows.n_blocks)
    # Without an exchange, which would have to end in time: others may have much more left to do.
    while rows.left():
        if team.should_stop():
            raise Interrupted
        time.sleep(LOOK_EVERY_S)
    team.catch_up(rows.n_blocks)


def _batches(images: Iterator[np.ndarray], n: int) -> Iterator[np.ndarray]:
    for first in range(0, n, IMAGES_PER_BATCH):
        yield np.stack([next(images) for _ in range(min(IMAGES_PER_BATCH, n - first))])


@contextmanager
def _turn(machine: Machine, wanted: str, team: Team) -> Generator[None]:
    """One job at a time computes these features. All ranks wait together: in the cache's own queue one would alone."""
    folder = machine.root / TURNS / f"{STAGE}-{wanted[:16]}"

    def claim() -> tuple[bool, bool]:
        folder.mkdir(parents=True, exist_ok=True)
        return team.should_stop(), lease.claim() is None

    lease = Lease(folder, timeout_s=machine.lease_timeout_s)
    while True:
        stopped, is_ours = team.ranks.decided_by_first(claim)
        if is_ours:
            break
        team.tell(0)
        if stopped:
            raise Interrupted
        time.sleep(LOOK_EVERY_S)
    try:
        yield
    finally:
        if team.ranks.rank == 0:
            lease.release()
