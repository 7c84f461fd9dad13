"""GOT-10k: SeqTrack trained on the encoder, boxes followed through videos; AO and success rates in percent.

SeqTrack's protocol for GOT-10k alone (arXiv:2304.14394), its ViT replaced by the checkpoint's (eval/trackers/seqtrack).
Measured in one pass over `subset` (eval/trackers/one_pass.py says which files that leaves in the benchmark's folder):
of val here, of test by GOT-10k's server, which takes the zip that is written. Also there are model.safetensors, the
trained tracker, and log.jsonl, its training.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.data.labelled import got10k as layout
from dora.data.labelled.films import films
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result
from eval.identity import sampled
from eval.trackers import sequences
from eval.trackers.seqtrack.settings import Settings

VERSION = 3
PROTOCOL = "got10k-val-seqtrack-500ep"
DATASET, HOW_TO_GET = sequences.DATASET, sequences.HOW_TO_GET
HEADLINE = "AO"
COST = "estimated, not measured: 15 million samples of three crops, forward and back, 21 hours at 200 a second."
PARALLEL = True

TRACKER = "SeqTrack"
# Of the miniature: films of each of 16 classes, pictures of each and in a second, and the pictures' side.
N_TOY, N_TOY_FRAMES, TOY_FPS, TOY_SIDE = {"train": 8, "val": 1}, {"train": 4, "val": 30}, {"train": 2, "val": 10}, 96


class Config(Settings):
    """SeqTrack's numbers (eval/trackers/seqtrack/settings.py), and what is measured."""

    subset: Literal["val", "test"] = Field(
        default="val", description="180 sequences each; the truth of test is with the server, so nothing but a zip"
    )
    whole_pixels: bool = Field(
        default=True, description="boxes of the server's zip lose what is behind the point, as [SeqT]'s do"
    )


# A tenth of the training: 50 epochs.
PRESETS = {"short": Config(iterations=23_438)}


def check(data: Path, config: Config) -> dict[str, Any]:
    """Numbers of listed sequences and the hash of the lists; looks into the first and the last of each subset.

    Raises:
        FileNotFoundError: for a subset, a sequence or a file of one that is not there.
        ValueError: for an empty list, or a sequence that contradicts itself.
    """
    facts: dict[str, Any] = {}
    digest = hashlib.sha256()
    for subset in ("train", config.subset):
        names = sequences.listed(data, subset)
        for name in dict.fromkeys((names[0], names[-1])):
            sequences.read_sequence(data, subset, name)
        facts[f"n_{subset}"] = len(names)
        files = ([data / subset / name / file for name in names] for file in ("groundtruth.txt", "00000001.jpg"))
        facts[f"sample_{subset}_sha256"] = "".join(map(sampled, files))
        digest.update("".join(f"{name}\n" for name in names).encode())
    return facts | {"list_sha256": digest.hexdigest()}


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """AO, SR_0.50 and SR_0.75 after training; goes on from what is in `out`."""
    from eval.finetune.loop import finetune
    from eval.finetune.team import joined
    from eval.trackers.one_pass import one_pass_evaluation
    from eval.trackers.seqtrack.inference import SeqTracker
    from eval.trackers.seqtrack.model import seqtrack
    from eval.trackers.seqtrack.tracks import read_tracks
    from eval.trackers.seqtrack.training import task

    data = machine.datasets[DATASET]
    with joined(machine, out) as team:
        model = seqtrack(checkpoint, config, recompute=machine.recompute).to(team.ranks.device)
        tracks, said = team.ranks.decided_by_first(
            lambda: read_tracks(data, "train", max_broken_share=config.max_broken_share)
        )
        spent = finetune(task(model, tracks, config), config, machine, out, team, progress)
        return one_pass_evaluation(
            SeqTracker(model, config), machine, out, team, progress, data=data, subset=config.subset, name=TRACKER,
            whole_pixels=config.whole_pixels, max_broken_share=config.max_broken_share, notes=(*said, *spent.notes),
        )  # fmt: skip


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Films of single things in rendered streets; those of val are of other streets and last three seconds."""
    small = world.model_copy(update={"width": TOY_SIDE, "height": TOY_SIDE})
    made = {s: films(small, s, n * times, n_frames=N_TOY_FRAMES[s], fps=TOY_FPS[s]) for s, n in N_TOY.items()}
    layout.write(folder, made)
    # Crops of 6 x 6 patches close around the thing, a template of nothing else but finer, few words, marks where the
    # encoder's own positions are faint. After 1,200 iterations the tracker follows what it has never seen
    # (docs/seqtrack.md); 150 show that all of it runs.
    return Config(
        search_size=48, template_size=48, area_factor=2.0, template_area_factor=1.2, n_templates=1, update_every=0,
        place_marks=0.5, n_bins=24, read_as_learnt=True, chosen_word="median",
        decoder_width=96, decoder_hidden=256, decoder_heads=4,
        dropout=0.0, iterations=150 * times, batch_size=16, lr=1e-3, encoder_lr_share=0.3, warmup_iterations=20,
        clip_grad_norm=1.0, least_frames=3, least_visible=1, center_jitter=1.0, scale_jitter=0.45, margin=2,
        max_broken_share=0,
    )  # fmt: skip
