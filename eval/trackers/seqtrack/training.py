"""What SeqTrack learns, for the loop that all benchmarks share (eval/finetune/loop.py)."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from eval.finetune.rates import steps
from eval.finetune.task import Task
from eval.images import read_video_frame
from eval.trackers.seqtrack import tokens
from eval.trackers.seqtrack.augmentation import Frame, Sample, augmented
from eval.trackers.seqtrack.model import SeqTrack, normalised
from eval.trackers.seqtrack.sampling import choose, eligible, generator
from eval.trackers.seqtrack.settings import Settings
from eval.trackers.seqtrack.tracks import Tracks

WARMUP_RATIO = 0.01


def task(model: SeqTrack, tracks: Tracks, settings: Settings) -> Task:
    """SeqTrack's training: sample number i of the endless stream is a pure function of the seed and i.

    Raises:
        ValueError: if no sequence is long enough.
    """
    milestone = max(1, round(settings.decay_at * settings.iterations))
    return Task(
        model=model,
        loss=lambda network, samples: losses(cast(SeqTrack, network), samples, settings),
        read=reader(tracks, settings, search_size=model.search_size, template_size=model.template_size),
        n_samples=settings.iterations * settings.batch_size,
        groups=groups(model, settings),
        lr_factor=steps([milestone], warmup_iterations=settings.warmup_iterations, warmup_ratio=WARMUP_RATIO),
        order=lambda position: position,
    )


def reader(
    tracks: Tracks, settings: Settings, *, search_size: int, template_size: int
) -> Callable[[int], Sample]:  # fmt: skip
    """Reads the sample of a number."""
    among = eligible(tracks, settings)

    def read(number: int) -> Sample:
        draw = generator(settings.seed, number)
        chosen = choose(tracks, among, settings, draw)
        pixels = {frame: read_video_frame(tracks.path(chosen.sequence, frame)) for frame in {*chosen[1], chosen[2]}}

        def frame(number: int) -> Frame:
            return Frame(pixels[number], tracks.box(chosen.sequence, number).astype(np.float64))

        templates = [frame(each) for each in chosen.templates]
        return augmented(
            frame(chosen.search), templates, settings, draw, search_size=search_size, template_size=template_size
        )

    return read


def groups(model: SeqTrack, settings: Settings) -> list[dict[str, Any]]:
    """AdamW's groups: the encoder, which learns slowly, and the rest."""
    encoder = {id(parameter): parameter for parameter in model.encoder if parameter.requires_grad}
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in encoder]
    both = [
        {"params": rest, "lr": settings.lr, "weight_decay": settings.weight_decay},
        {
            "params": [*encoder.values()], "lr": settings.lr * settings.encoder_lr_share,
            "weight_decay": settings.weight_decay,
        },
    ]  # fmt: skip
    return [group for group in both if group["params"]]


def losses(model: SeqTrack, samples: list[Sample], settings: Settings) -> dict[str, Tensor]:
    """The cross entropy, and how far the likeliest words are from the true ones, in shares of the crop's side."""
    device = next(model.parameters()).device

    def sent(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(device, non_blocking=True)

    said = sent([sample.words for sample in samples])
    brightness = sent([sample.brightness for sample in samples])
    search = normalised(sent([sample.search for sample in samples]), brightness[:, 0])
    templates = normalised(sent([sample.templates for sample in samples]), brightness[:, 1:])
    start = said.new_full((len(said), 1), tokens.start(model.n_bins))
    logits = model(search, templates, torch.cat([start, said], dim=1))
    target = torch.cat([said, said.new_full((len(said), 1), tokens.end(model.n_bins))], dim=1)
    likeliest = logits[:, :-1, : model.n_bins].detach().argmax(2)
    off = (likeliest - said).abs().float().mean() / (model.n_bins - 1)
    return {"loss": cross_entropy(logits, target, special_weight=settings.special_weight), "off": off}


def cross_entropy(
    logits: Float[Tensor, "B L V"], target: Int64[Tensor, "B L"], *, special_weight: float
) -> Float[Tensor, ""]:
    """The mean over words of -log softmax(logits)[target], END and START of another weight than coordinates.

    Every sentence has four coordinates and one END, so the mean over samples is the whole batch's:
        sum(weight[t] * -log_softmax(l)[t] for l, t in zip(logits, target)) / sum(weight[t] for t in target)
    """
    n_words = logits.shape[2]
    weight = torch.ones(n_words, device=logits.device)
    weight[n_words - 2 :] = special_weight
    return F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), weight=weight)
