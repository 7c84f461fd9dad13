"""One DoRA training step without its optimiser: masks from the teacher, predictions from the student, the loss."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dora.config import LossConfig, TrackingConfig
from dora.data.augment import Views
from dora.method.network import Network
from dora.method.tracking import object_masks
from dora.method.vit import clip_tokens
from dora.seeds import derived_seed


class Step(NamedTuple):
    """What a step found. Only `loss` carries a gradient; h and w count patches."""

    loss: Float[Tensor, ""]
    teacher_logits: Float[Tensor, "T B K"]
    masks: Bool[Tensor, "O T B h w"]
    object_loss: Float[Tensor, ""]
    local_loss: Float[Tensor, ""]
    teacher_entropy: Float[Tensor, ""]  # nats; 0 or ln K for long means collapse


def draw_heads(n_heads: int, n_objects: int, *, seed: int, step: int) -> list[int]:
    """Different heads for the objects of all clips of a step; the same on every rank and after a resume.

    Raises:
        ValueError: if there are more objects than heads.
    """
    if n_objects > n_heads:
        raise ValueError(f"each object needs its own head: n_objects is {n_objects}, but the ViT has {n_heads} heads")
    return random.Random(derived_seed(seed, "heads", step)).sample(range(n_heads), n_objects)


def dora_step(
    student: nn.Module, teacher: Network, views: Views, *, center: Float[Tensor, "K"], teacher_temperature: float,
    head_indices: Sequence[int], tracking: TrackingConfig, loss: LossConfig,
) -> Step:  # fmt: skip
    """Follow the teacher's objects through each clip and let the student predict the teacher from them.

    `student` may be a Network or a wrapper of one (DDP): it is called once, with the masked frames and the local crops.
    """
    frames = views.global_views.transpose(0, 1)  # T B 3 Y X
    with torch.no_grad():
        clip = clip_tokens(teacher.backbone, frames)
        teacher_logits = teacher.head(clip.cls.flatten(0, 1)).unflatten(0, clip.cls.shape[:2])
        rows = frames.shape[-2] // teacher.backbone.patch_embed.patch_size[0]
        masks = object_masks(clip.first, clip.keys, head_indices=head_indices, config=tracking).masks
        masks = masks.unflatten(-1, (rows, -1))
        masked = _mask(frames, masks)
    crops = views.local_views.transpose(1, 2)  # L T B 3 y x
    object_logits, crop_logits = student([masked.flatten(0, 2), crops.flatten(0, 2)])
    total, object_loss, local_loss = distillation_loss(
        object_logits.unflatten(0, masked.shape[:3]),
        crop_logits.unflatten(0, crops.shape[:3]),
        teacher_logits,
        center=center,
        teacher_temperature=teacher_temperature,
        config=loss,
    )
    entropy = _entropy(teacher_logits, center=center, temperature=teacher_temperature)
    return Step(total, teacher_logits, masks, object_loss.detach(), local_loss.detach(), entropy)


def distillation_loss(
    student_objects: Float[Tensor, "O T B K"], student_locals: Float[Tensor, "L T B K"],
    teacher: Float[Tensor, "T B K"], *, center: Float[Tensor, "K"], teacher_temperature: float, config: LossConfig,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:  # fmt: skip
    """The loss, its object part and its local part (the paper's eq. 8 and the authors' local-crop loss).

        target[t, b]       = softmax((teacher[t, b] - center) / teacher_temperature)
        object_term[o, t]  = mean over b of H(target[t, b], softmax(student_objects[o, t, b] / student_temperature))
        local_term[t]      = mean over l, b of H(target[t, b], softmax(student_locals[l, t, b] / student_temperature))
        loss               = mean over o, t of (object_term[o, t] + local_term[t]) / 2

    A frame is compared with itself only. Without local crops their term is 0. `object_average="authors"`: they keep
    one running sum over the objects, f = (f + sum over t of object o's terms) / T, so earlier objects count again;
    `skip_first_local_crop`: they kept DINO's test for "same view", which here drops the first local crop.
    """
    with torch.autocast(teacher.device.type, enabled=False):
        target = _sharpen(teacher, center=center, temperature=teacher_temperature)
        crops = student_locals[1:] if config.skip_first_local_crop else student_locals
        object_terms = _cross_entropy(target, student_objects, temperature=config.student_temperature)
        local_terms = torch.zeros_like(object_terms[0])
        if len(crops):
            local_terms = _cross_entropy(target, crops, temperature=config.student_temperature).mean(0)
        terms = (object_terms + local_terms) / 2
        loss = terms.mean() if config.object_average == "mean" else _authors_average(terms)
    return loss, object_terms.mean(), local_terms.mean()


def updated_center(center: Float[Tensor, "K"], teacher_mean: Float[Tensor, "K"], momentum: float) -> Float[Tensor, "K"]:
    """The running mean of the teacher's logits; `teacher_mean` is over all frames, clips and ranks of a step."""
    return center * momentum + teacher_mean.to(center.dtype) * (1 - momentum)


def _mask(frames: Float[Tensor, "T B 3 Y X"], masks: Bool[Tensor, "O T B h w"]) -> Float[Tensor, "O T B 3 Y X"]:
    """Keep the object's patches; the rest becomes 0, the data set's mean colour."""
    height, width = frames.shape[-2:]
    rows, columns = masks.shape[-2:]
    patches = frames.unflatten(-1, (columns, width // columns)).unflatten(-3, (rows, height // rows))
    return (patches * masks[:, :, :, None, :, None, :, None]).flatten(-2).flatten(-3, -2)


def _sharpen(teacher: Tensor, *, center: Tensor, temperature: float) -> Float[Tensor, "T B K"]:
    precise = torch.promote_types(teacher.dtype, torch.float32)
    return ((teacher.to(precise) - center) / temperature).softmax(-1)


def _cross_entropy(
    target: Float[Tensor, "T B K"], logits: Float[Tensor, "V T B K"], *, temperature: float
) -> Float[Tensor, "V T"]:
    # As a target sums to 1, H = logsumexp(s) - target·s; log_softmax would hold one more V × T × B × K for backward.
    scaled = logits.to(target.dtype) / temperature
    return (scaled.logsumexp(-1) - torch.einsum("vtbk,tbk->vtb", scaled, target)).mean(-1)


def _authors_average(terms: Float[Tensor, "O T"]) -> Float[Tensor, ""]:
    n_objects, n_frames = terms.shape
    running = total = torch.zeros_like(terms[0, 0])
    for object_terms in terms:
        running = (running + object_terms.sum()) / n_frames
        total = total + running
    return total / n_objects


def _entropy(teacher: Tensor, *, center: Tensor, temperature: float) -> Float[Tensor, ""]:
    with torch.autocast(teacher.device.type, enabled=False):
        target = _sharpen(teacher, center=center, temperature=temperature)
        return -torch.special.xlogy(target, target).sum(-1).mean()
