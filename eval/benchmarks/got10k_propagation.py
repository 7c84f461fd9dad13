"""GOT-10k without training: the box carried on by the nearest neighbours of frozen features; AO and SR, in percent.

Which encoder's features tell a thing from what is around it, in minutes: eval/trackers/nearest.py follows,
eval/trackers/one_pass.py measures and says which files it leaves. The protocol is ours. Its numbers belong beside one
another and beside `AO_still_box`, which is what the first box, unmoved, gets; `got10k` trains a tracker, as papers do.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.config import Finite
from dora.data.labelled import got10k as layout
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result
from eval.identity import sampled
from eval.trackers import sequences

VERSION = 2
PROTOCOL = "got10k-val-propagation"
DATASET, HOW_TO_GET = sequences.DATASET, sequences.HOW_TO_GET
HEADLINE = "AO"
COST = "estimated, not measured: the frames of 180 videos, an hour on a few CPU cores, minutes on a GPU. No training."
PARALLEL = True

TRACKER = "dora-propagation"  # the name of its folder of results
N_TOYS = 5


class Config(Finite):
    """Ours, chosen on rendered videos (docs/tracking.md)."""

    subset: Literal["train", "val", "test"] = Field(
        default="val", description="180 sequences; of test, 180 others, the server alone knows the truth"
    )
    grid: int = Field(default=24, ge=4, description="patches along a side of the square that is seen")
    area_factor: float = Field(default=3.0, gt=1, description="side of the square, in sqrt(w h) of the box")
    n_last_frames: int = Field(default=2, ge=0, description="context besides the first frame")
    top_k: int = Field(default=3, ge=1, description="patches that vote for a patch")
    radius: int = Field(default=12, ge=1, description="patches; how far away they may be: half the square")
    temperature: float = Field(default=0.1, gt=0, description="of the votes' weights, as for DAVIS")
    threshold: float = Field(default=0.5, ge=0, lt=1, description="share of a mask's peak above which it counts")
    most_growth: float = Field(default=1.05, ge=1, description="of a side of the box, from frame to frame")
    whole_pixels: bool = Field(default=False, description="boxes cut to integers in the test server's zip")
    max_broken_share: float = Field(default=0.0, ge=0, le=1, description="of sequences; more unreadable ones stop it")


def check(data: Path, config: Config) -> dict[str, Any]:
    """Numbers of sequences and frames, and the hash of the list."""
    names = sequences.listed(data, config.subset)
    frames = [frame for name in names for frame in sequences.read_sequence(data, config.subset, name).frames]
    truths = [data / config.subset / name / "groundtruth.txt" for name in names]
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    sample = sampled(frames) + sampled(truths)
    return {"n_sequences": len(names), "n_frames": len(frames), "list_sha256": digest, "sample_sha256": sample}


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """AO over all frames of all sequences. A sequence whose results are complete in `out` is not tracked again."""
    from dora.weights.load import load_encoder
    from eval.finetune.team import joined
    from eval.trackers.nearest import NearestNeighbourTracker
    from eval.trackers.one_pass import one_pass_evaluation

    with joined(machine, out) as team:
        vit = load_encoder(checkpoint.path).to(team.ranks.device).requires_grad_(False)
        tracker = NearestNeighbourTracker(
            vit, grid=config.grid, area_factor=config.area_factor, n_last_frames=config.n_last_frames,
            top_k=config.top_k, radius=config.radius, temperature=config.temperature, threshold=config.threshold,
            most_growth=config.most_growth,
        )  # fmt: skip
        return one_pass_evaluation(
            tracker, machine, out, team, progress, data=machine.datasets[DATASET], subset=config.subset, name=TRACKER,
            whole_pixels=config.whole_pixels, max_broken_share=config.max_broken_share,
        )  # fmt: skip


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Five videos of thirty frames, a tenth of a second apart, each with one thing to follow."""
    layout.write(folder, {"val": layout.walked(layout.tracks(world, "val", N_TOYS * times))})
    return Config(grid=18, radius=9)
