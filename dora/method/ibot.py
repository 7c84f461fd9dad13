"""iBOT (arXiv:2111.07832) on the frames of clips: DINO, and the student guesses the patches of which it sees nothing.

    cls_loss   = DINO's, but the student's global views are masked
    patch_loss = mean over both global views g and images r of
                     sum over masked n of H(target[g, r, n], guess[g, r, n]) / max(1, number of masked n)
    loss       = cls_weight cls_loss + patch_weight patch_loss            (+ KoLeo as DINO's, of the masked views)

with patch n's target from the teacher, who sees the whole view, at a centre and temperature of their own
(github.com/bytedance/ibot, main_ibot.py). Only the masked patches are compared, so only they get that far.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from dora.config import PretrainConfig
from dora.data.augment import Views
from dora.data.pixels import sent
from dora.method.block_masks import view_masks
from dora.method.cross_entropy import cross_entropy
from dora.method.dino import Judge, between_global_views, by_clip, cls_judge, from_local_views
from dora.method.head import Projected
from dora.method.koleo import keep_apart
from dora.method.network import Network, project
from dora.method.objective import Lesson, Loss, Moment, Task, mean_direction, teacher_temperature
from dora.method.vit import tokens


class Chosen(NamedTuple):
    """Patches that are compared: the masked ones, and one of each view that has none.

    That one has no part in the loss. But so every view has a share in the entropy, and no micro-batch leaves a
    parameter without gradient, for which DDP would wait.
    """

    place: Int64[Tensor, "P"]  # among all patches of all images
    is_masked: Bool[Tensor, "P"]
    n_beside: Int64[Tensor, "P"]  # how many of its image are compared
    n_images: int


class Ibot:
    """The objective (dora/method/objective.py)."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.centers: Mapping[str, int] = {
            "cls": config.head.n_prototypes,
            "patch": config.ibot.n_patch_prototypes or config.head.n_prototypes,
        }
        self.center_momentum: Mapping[str, float] = {
            "cls": config.loss.center_momentum,
            "patch": config.ibot.center_momentum,
        }

    def teach(
        self, teacher: Network, views: Views, centers: Mapping[str, Float[Tensor, "_K"]], moment: Moment
    ) -> Lesson:
        """Show the teacher both whole global views of each frame."""
        config = self.config.ibot
        images = views.global_views.flatten(0, 2)  # view by view
        masks = self._masks(teacher, views)  # drawn on the CPU, so that what depends on their number needs no waiting
        chosen, masks = choose_patches(masks, images.device), sent(masks, images.device)
        with torch.no_grad():
            cls, cls_target, patches = teacher(look, images)
        patch_target = Projected(patches.points[chosen.place], patches.prototypes)
        judge = cls_judge(self.config, centers["cls"], moment)
        judge_patches = partial(
            cross_entropy, center=centers["patch"], teacher_temperature=teacher_temperature(config, moment.epoch),
            student_temperature=self.config.loss.student_temperature,
        )  # fmt: skip
        n_local = len(views.local_views)

        def masked_views(student: nn.Module) -> Loss:
            seen, cls_guess, patch_guess = student(guess, images, masks, chosen.place)
            terms, cls_entropy = between_global_views(cls_guess, cls_target, judge)
            cls_loss = terms.mean() / (1 + n_local)
            patch_loss, patch_entropy = of_patches(patch_guess, patch_target, chosen, judge_patches)
            apart = keep_apart(by_clip(seen, views), self.config.loss)
            numbers = {
                "cls_loss": cls_loss.detach(), "patch_loss": patch_loss.detach(),
                "teacher_entropy": cls_entropy.mean(), "patch_entropy": patch_entropy, **apart.numbers,
            }  # fmt: skip
            return Loss(config.cls_weight * cls_loss + config.patch_weight * patch_loss + apart.loss, numbers)

        def local_views(student: nn.Module) -> Loss:
            mean = from_local_views(student(project, views.local_views.flatten(0, 2)), cls_target, judge)
            cls_loss = mean * n_local / (1 + n_local)
            return Loss(config.cls_weight * cls_loss, {"cls_loss": cls_loss.detach()})

        # The last task uses every parameter: DDP exchanges the gradients in its backward pass.
        tasks: list[Task] = [local_views, masked_views] if n_local else [masked_views]
        means = {"cls": cls_target.mean_logits(), "patch": patches.mean_logits()}
        return Lesson(tasks, means, mean_direction(cls), {"masked_share": masks.float().mean()})

    def _masks(self, teacher: Network, views: Views) -> Bool[Tensor, "I N"]:
        n_views, _, n_frames, _, height, width = views.global_views.shape
        patch_height, patch_width = teacher.backbone.patch_embed.patch_size
        grid = height // patch_height, width // patch_width
        masks = view_masks(views.positions, n_views, n_frames, grid, self.config.ibot, seed=self.config.seed)
        return masks.flatten(0, 2).flatten(1)


def look(network: Network, images: Float[Tensor, "I 3 Y X"]) -> tuple[Float[Tensor, "I D"], Projected, Projected]:
    """[CLS] tokens; these, and the patches of all images one after the other, where they are compared."""
    seen = tokens(network.backbone, images)
    cls, patches = seen[:, 0], seen[:, 1:].flatten(0, 1)
    return cls, network.head.project(cls), network.head.project(patches, patches=True)


def guess(
    network: Network, images: Float[Tensor, "I 3 Y X"], masks: Bool[Tensor, "I N"], place: Int64[Tensor, "P"]
) -> tuple[Float[Tensor, "I D"], Projected, Projected]:
    """[CLS] tokens of the masked images; these, and some of their patches, where they are compared."""
    seen = tokens(network.backbone, images, mask=masks, mask_token=network.mask_token)
    cls, patches = seen[:, 0], seen[:, 1:].flatten(0, 1)[place]
    return cls, network.head.project(cls), network.head.project(patches, patches=True)


def choose_patches(masks: Bool[Tensor, "I N"], device: torch.device) -> Chosen:
    """What of these images is compared; the masks lie on the CPU, what comes out on the device."""
    chosen = masks.clone()
    chosen[~masks.any(1), masks.shape[1] // 2] = True
    n_chosen = chosen.sum(1)
    place = chosen.flatten().nonzero().squeeze(1)
    n_beside = n_chosen.repeat_interleave(n_chosen)
    return Chosen(sent(place, device), sent(masks.flatten()[place], device), sent(n_beside, device), len(masks))


def of_patches(
    student: Projected, teacher: Projected, chosen: Chosen, judge: Judge
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The patches' loss and the teacher's entropy: means over the patches of an image, then over images."""
    (terms,), entropy = judge(Projected(student.points[None], student.prototypes), teacher)
    loss = (terms * chosen.is_masked / chosen.n_beside).sum() / chosen.n_images
    return loss, (entropy / chosen.n_beside).sum() / chosen.n_images
