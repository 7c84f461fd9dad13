import math
from typing import Any

import pytest
import torch
from lessons import CONFIG, TEMPERATURE, center, check_micro_batches, cls_logits, draw_views, learn, networks, teach
from torch import Tensor, nn

from dora.method.dino import Dino
from dora.method.objective import Moment

DINO = Dino(CONFIG)


def plain_dino_loss(student: list[Tensor], teacher: list[Tensor], *, center: Tensor, temperature: float) -> Tensor:
    """Logits of each view to DINO's loss, as its paper's algorithm 1 is extended to many crops."""
    pairs = [
        -(((q - center) / temperature).softmax(-1) * (s / 0.1).log_softmax(-1)).sum(-1).mean()
        for iq, q in enumerate(teacher)
        for v, s in enumerate(student)
        if v != iq
    ]
    assert len(pairs) == 2 * (len(student) - 1)
    return torch.stack(pairs).mean()


@pytest.mark.parametrize(("n_clips", "n_frames", "n_crops"), [(2, 3, 2), (1, 1, 1), (3, 1, 4), (1, 4, 0)])
def test_loss_and_gradient_equal_dinos_loop_over_pairs_of_views(n_clips: int, n_frames: int, n_crops: int):
    student, teacher = networks()
    views = draw_views(n_clips, n_frames, n_crops)
    got = learn(teach(teacher, views, DINO), student)
    gradients = [parameter.grad for parameter in student.parameters()]

    with torch.no_grad():
        target = cls_logits(teacher, views.global_views)
    guesses = cls_logits(student, views.global_views) + cls_logits(student, views.local_views)
    want = plain_dino_loss(guesses, target, center=center(), temperature=TEMPERATURE)
    assert got["loss"] == pytest.approx(want.item(), rel=1e-12)
    torch.testing.assert_close(
        gradients, list(torch.autograd.grad(want, list(student.parameters()))), rtol=1e-9, atol=1e-12
    )


def test_the_parts_are_means_over_global_and_local_pairs():
    student, teacher = networks()
    views = draw_views(n_crops=3)
    got = learn(teach(teacher, views, DINO), student)
    target = cls_logits(teacher, views.global_views)
    guesses = cls_logits(student, views.global_views)
    want = plain_dino_loss(guesses, target, center=center(), temperature=TEMPERATURE)  # of 2 pairs
    assert got["global_loss"] == pytest.approx(want.item(), rel=1e-12)
    assert got["loss"] == pytest.approx((2 * got["global_loss"] + 6 * got["local_loss"]) / 8, rel=1e-12)
    target = ((torch.stack(target) - center()) / TEMPERATURE).softmax(-1)
    assert got["teacher_entropy"] == pytest.approx(-(target * target.log()).sum(-1).mean().item(), rel=1e-12)


def test_the_center_is_given_the_mean_of_both_global_views():
    _, teacher = networks()
    views = draw_views()
    lesson = teach(teacher, views, DINO)
    want = torch.cat(cls_logits(teacher, views.global_views)).mean(0)
    torch.testing.assert_close(lesson.means["cls"], want)
    assert not lesson.means["cls"].requires_grad
    assert DINO.center_momentum == {"cls": 0.9}


def test_only_the_student_gets_gradients():
    student, teacher = networks()
    learn(teach(teacher, draw_views(), DINO), student)
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("parts", [(1, 2), (1, 1, 1)])
def test_micro_batches_give_the_loss_gradient_and_center_of_the_batch(parts: tuple[int, ...]):
    student, teacher = networks()
    check_micro_batches(teacher, student, draw_views(n_clips=3), DINO, parts=parts)


def test_the_teachers_temperature_warms_up():
    student, teacher = networks()
    views = draw_views()
    entropy = [learn(teach(teacher, views, DINO, epoch=epoch), student)["teacher_entropy"] for epoch in range(6)]
    assert entropy == sorted(entropy) and entropy[3:] == [entropy[3]] * 3 and len(set(entropy)) == 4


def test_under_autocast_the_loss_stays_float32_and_close():
    student, teacher = (network.float() for network in networks())
    views = draw_views()
    views = views._replace(global_views=views.global_views.float(), local_views=views.local_views.float())
    centers: dict[str, Any] = {"cls": center().float()}

    def losses() -> list[Tensor]:
        lesson = DINO.teach(teacher, views, centers, Moment(step=0, epoch=9))
        return [task(student).loss for task in lesson.tasks]

    exact = sum(losses())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = losses()
    assert all(loss.dtype == torch.float32 for loss in mixed)
    assert sum(mixed).item() == pytest.approx(exact.item(), rel=0.1)
    sum(mixed).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in student.parameters())


def test_a_teacher_that_says_the_same_of_all_teaches_its_entropy_at_least():
    student, teacher = networks()
    nn.init.zeros_(teacher.head.last_layer.weight_g)  # every logit is 0
    lesson = DINO.teach(teacher, draw_views(), {"cls": torch.zeros(12).double()}, Moment(step=0, epoch=0))
    got = learn(lesson, student)
    assert got["teacher_entropy"] == pytest.approx(math.log(12)) and got["loss"] >= math.log(12)
