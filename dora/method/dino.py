"""DINO (arXiv:2104.14294) on the frames of clips: the student predicts the teacher from every other view of a frame.

    target[g, r] = softmax((teacher[g, r] - center) / teacher_temperature)        g: both global views, r: images
    loss         = mean over g, v ≠ g, r of H(target[g, r], softmax(student[v, r] / student_temperature))

where v goes over the two global and L local views, so that each g has 1 global and L local partners
(github.com/facebookresearch/dino, main_dino.py). A frame is an image; nothing is known of time. Added may be KoLeo of
the student's global views, over the clips of each view and frame (dora/method/koleo.py).
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dora.config import PretrainConfig
from dora.data.augment import Views
from dora.method.cross_entropy import CrossEntropy, cross_entropy
from dora.method.head import Projected
from dora.method.koleo import keep_apart
from dora.method.network import Network, embed, project
from dora.method.objective import Lesson, Loss, Moment, Task, mean_direction, teacher_temperature

Judge = Callable[[Projected, Projected], CrossEntropy]  # `cross_entropy` of student and teacher, at given temperatures


class Dino:
    """The objective (dora/method/objective.py)."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.centers: Mapping[str, int] = {"cls": config.head.n_prototypes}
        self.center_momentum: Mapping[str, float] = {"cls": config.loss.center_momentum}

    def teach(
        self, teacher: Network, views: Views, centers: Mapping[str, Float[Tensor, "_K"]], moment: Moment
    ) -> Lesson:
        """Show the teacher both global views of each frame."""
        images = views.global_views.flatten(0, 2)  # view by view
        with torch.no_grad():
            cls, target = teacher(embed, images)
        judge = cls_judge(self.config, centers["cls"], moment)
        n_local = len(views.local_views)

        def global_views(student: nn.Module) -> Loss:
            cls, guess = student(embed, images)
            terms, entropy = between_global_views(guess, target, judge)
            mean, apart = terms.mean(), keep_apart(by_clip(cls, views), self.config.loss)
            numbers = {"global_loss": mean.detach(), "teacher_entropy": entropy.mean(), **apart.numbers}
            return Loss(mean / (1 + n_local) + apart.loss, numbers)

        def local_views(student: nn.Module) -> Loss:
            mean = from_local_views(student(project, views.local_views.flatten(0, 2)), target, judge)
            return Loss(mean * n_local / (1 + n_local), {"local_loss": mean.detach()})

        # What keeps most activations comes first: there are no gradients yet that take memory beside them.
        tasks: list[Task] = [global_views, local_views] if n_local else [global_views]
        return Lesson(tasks, {"cls": target.mean_logits()}, mean_direction(cls), {})


def by_clip(cls: Float[Tensor, "I D"], views: Views) -> Float[Tensor, "V T B D"]:
    """[CLS] tokens of all global views, which come view by view and clip by clip; the clips of each frame together."""
    return cls.unflatten(0, views.global_views.shape[:3]).transpose(1, 2)


def cls_judge(config: PretrainConfig, center: Float[Tensor, "K"], moment: Moment) -> Judge:
    """How [CLS] tokens are compared now."""
    return partial(
        cross_entropy, center=center, teacher_temperature=teacher_temperature(config.loss, moment.epoch),
        student_temperature=config.loss.student_temperature,
    )  # fmt: skip


def between_global_views(student: Projected, teacher: Projected, judge: Judge) -> CrossEntropy:
    """Each of the student's global views against the teacher's other one; both have 2R points, view by view."""
    first, second = teacher.points.chunk(2)
    other = Projected(torch.cat([second, first]), teacher.prototypes)
    return judge(Projected(student.points[None], student.prototypes), other)


def from_local_views(student: Projected, teacher: Projected, judge: Judge) -> Float[Tensor, ""]:
    """The mean over the student's L local views (LR points), the teacher's two global ones (2R points) and R images."""
    targets = [Projected(points, teacher.prototypes) for points in teacher.points.chunk(2)]
    points = student.points.unflatten(0, (-1, len(targets[0].points)))
    guesses = Projected(points, student.prototypes)
    return torch.stack([judge(guesses, target).terms.mean() for target in targets]).mean()
