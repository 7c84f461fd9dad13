"""DoRA (arXiv:2310.08584): the teacher finds objects and follows them, the student predicts it from each of them alone.

    target[t, b]       = softmax((teacher[t, b] - center) / teacher_temperature)
    object_term[o, t]  = mean over b of H(target[t, b], softmax(student_objects[o, t, b] / student_temperature))
    local_term[t]      = mean over l, b of H(target[t, b], softmax(student_locals[l, t, b] / student_temperature))
    loss               = mean over o, t of (object_term[o, t] + local_term[t]) / 2             (eq. 8 and local crops)

A frame is compared with itself only. Without local crops their term is 0. Added may be KoLeo of the masked frames, over
the clips of each object and frame (dora/method/koleo.py).

A second global view is not the paper's: the student sees it whole, as one local crop more, and KoLeo is of it. Where
frames are masked it sees no other whole one, and that is what an encoder is used for.
"""

import random
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dora.config import PretrainConfig
from dora.data.augment import Views
from dora.method.cross_entropy import cross_entropy
from dora.method.head import Projected
from dora.method.koleo import keep_apart
from dora.method.masks import black_out, random_masks
from dora.method.network import Network, embed, project
from dora.method.objective import Lesson, Loss, Moment, Task, mean_direction, teacher_temperature
from dora.method.tracking import Tracks, object_masks
from dora.method.vit import ClipTokens, clip_tokens
from dora.seeds import derived_seed


class Dora:
    """The objective (dora/method/objective.py)."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.centers: Mapping[str, int] = {"cls": config.head.n_prototypes}
        self.center_momentum: Mapping[str, float] = {"cls": config.loss.center_momentum}

    def teach(
        self, teacher: Network, views: Views, centers: Mapping[str, Float[Tensor, "_K"]], moment: Moment, *,
        heads: Sequence[int] | None = None,
    ) -> Lesson:  # fmt: skip
        """Find the objects with these attention heads, or with those drawn for the step."""
        config = self.config.tracking
        frames = views.global_views[0].transpose(0, 1)  # T B 3 Y X
        with torch.no_grad():
            clip, target = teacher(look, frames)
            patch_size = teacher.backbone.patch_embed.patch_size
            grid = frames.shape[-2] // patch_size[0], frames.shape[-1] // patch_size[1]
            masks = soft = None
            if config.mask == "tracked":
                if heads is None:
                    n_heads = clip.first.attention.shape[1]
                    heads = draw_heads(n_heads, config.n_objects, seed=self.config.seed, step=moment.step)
                tracks = object_masks(clip.first, clip.keys, head_indices=heads, config=config)
                masks, soft = _on_grid(tracks, grid)
            elif config.mask != "none":
                masks = random_masks(config, views.positions, len(frames), grid, seed=self.config.seed).to(
                    frames.device
                )

        judge = partial(
            cross_entropy, teacher=target, center=centers["cls"],
            teacher_temperature=teacher_temperature(self.config.loss, moment.epoch),
            student_temperature=self.config.loss.student_temperature,
        )  # fmt: skip
        n_objects = 1 if masks is None else len(masks)  # unmasked frames are all alike: once is enough
        weights = object_weights(n_objects, len(frames), self.config.loss.object_average)
        second = views.global_views[1:]
        n_crops = max(0, len(views.local_views) - self.config.loss.skip_first_local_crop)
        n_whole = n_crops + len(second)  # views of a frame that are not masked

        def objects(student: nn.Module) -> Loss:
            shown, kept = frames[None], None
            if config.dropped and masks is not None:
                shown, kept = frames.expand(n_objects, *frames.shape), masks.flatten(0, 2).flatten(1)
            elif masks is not None:
                factors = soft / soft.amax((-2, -1), keepdim=True) if config.soft and soft is not None else masks
                shown = black_out(frames, factors)
            cls, guess = student(embed, shown.flatten(0, 2), kept=kept)
            points = guess.points.unflatten(0, (n_objects, -1))
            terms, entropy = judge(Projected(points, guess.prototypes))
            of_object = terms.mean(1)
            numbers = {"object_loss": of_object.detach().mean(), "teacher_entropy": entropy.mean()}
            loss = (of_object.new_tensor(weights) * of_object).mean() / 2
            if len(second):
                return Loss(loss, numbers)
            apart = keep_apart(cls.unflatten(0, (n_objects, *frames.shape[:2])), self.config.loss)
            return Loss(loss + apart.loss, {**numbers, **apart.numbers})

        def local_crops(student: nn.Module) -> Loss:
            crops = views.local_views.transpose(1, 2)[-n_crops:]  # L T B 3 y x
            guess: Projected = student(project, crops.flatten(0, 2))
            mean = judge(Projected(guess.points.unflatten(0, (n_crops, -1)), guess.prototypes)).terms.mean()
            return Loss(sum(weights) / n_objects * mean / 2 * (n_crops / n_whole), {"local_loss": mean.detach()})

        def second_view(student: nn.Module) -> Loss:
            cls, guess = student(embed, second[0].transpose(0, 1).flatten(0, 1))
            mean = judge(Projected(guess.points[None], guess.prototypes)).terms.mean()
            apart = keep_apart(cls.unflatten(0, frames.shape[:2]), self.config.loss)
            loss = sum(weights) / n_objects * mean / 2 / n_whole
            return Loss(loss + apart.loss, {"second_view_loss": mean.detach(), **apart.numbers})

        # What keeps most activations comes first: there are no gradients yet that take memory beside them.
        tasks: list[Task] = [objects, *([second_view] * len(second)), *([local_crops] * (n_crops > 0))]
        numbers = {} if masks is None else {"mask_share": masks.float().mean()}
        return Lesson(tasks, {"cls": target.mean_logits()}, mean_direction(clip.cls.flatten(0, 1)), numbers, masks)


def look(network: Network, frames: Float[Tensor, "T B 3 Y X"]) -> tuple[ClipTokens, Projected]:
    """What tracking needs, and the frames' [CLS] tokens where student and teacher are compared."""
    clip = clip_tokens(network.backbone, frames)
    return clip, network.head.project(clip.cls.flatten(0, 1))


def draw_heads(n_heads: int, n_objects: int, *, seed: int, step: int) -> list[int]:
    """Different heads for the objects of all clips of a step; the same on every rank and after a resume.

    Raises:
        ValueError: if there are more objects than heads.
    """
    if n_objects > n_heads:
        raise ValueError(f"each object needs its own head: n_objects is {n_objects}, but the ViT has {n_heads} heads")
    return random.Random(derived_seed(seed, "heads", step)).sample(range(n_heads), n_objects)


def object_weights(n_objects: int, n_frames: int, average: str) -> list[float]:
    """How much each object's terms count.

    "mean": 1. "authors": they keep one running sum over the objects, f = (f + sum over t of object o's terms) / T,
    which is never set back and is added up: object o comes again in each later one, divided by T each time.
    """
    if average == "mean":
        return [1.0] * n_objects
    return [sum(float(n_frames) ** -later for later in range(n_objects - o)) for o in range(n_objects)]


def _on_grid(tracks: Tracks, grid: tuple[int, int]) -> tuple[Bool[Tensor, "O T B h w"], Float[Tensor, "O T B h w"]]:
    return tracks.masks.unflatten(-1, grid), tracks.soft.unflatten(-1, grid)
