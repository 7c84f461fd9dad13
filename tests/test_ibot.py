import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from lessons import (
    CONFIG,
    TEMPERATURE,
    center,
    check_micro_batches,
    cls_logits,
    draw_views,
    learn,
    networks,
    teach,
    tokens_by_hand,
)
from torch import Tensor, nn

from dora.config import IbotConfig, PretrainConfig
from dora.data.augment import Views
from dora.method.block_masks import view_masks
from dora.method.ibot import Ibot
from dora.method.network import Network
from dora.method.objective import Moment
from dora.method.vit import tokens

IBOT = IbotConfig(
    mask_ratio=0.4, mask_ratio_spread=0.3, teacher_temperature=0.06, warmup_teacher_temperature_epochs=5,
    center_momentum=0.8,
)  # fmt: skip
PATCH_TEMPERATURE = 0.04 + 0.02 / 4  # of epoch 1: 0.04, 0.045, 0.05, 0.055, 0.06


def config(**changes: float | int | None) -> PretrainConfig:
    return CONFIG.model_copy(update={"objective": "ibot", "ibot": IBOT.model_copy(update=changes)})


SHARED, OWN = config(), config(n_patch_prototypes=9)


def masks_of(views: Views, config: PretrainConfig) -> Tensor:
    """G R N."""
    n_frames = views.global_views.shape[2]
    return view_masks(views.positions, 2, n_frames, (4, 4), config.ibot, seed=0).flatten(1, 2).flatten(2)


def logits(network: Network, views: Tensor, masks: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """[CLS] and all patches of each global view."""
    own = network.head.last_layer if network.head.last_layer2 is None else network.head.last_layer2
    cls: list[Tensor] = []
    patches: list[Tensor] = []
    for g, view in enumerate(views):
        seen = tokens_by_hand(network, view.flatten(0, 1), None if masks is None else masks[g])
        cls.append(network.head(seen[:, 0]))
        points = nn.functional.normalize(network.head.mlp(seen[:, 1:]), dim=-1)
        patches.append(points @ (own.weight_g * nn.functional.normalize(own.weight_v, dim=-1)).T)
    return cls, patches


def plain_ibot_loss(
    student: tuple[list[Tensor], list[Tensor]], teacher: tuple[list[Tensor], list[Tensor]], masks: Tensor,
    centers: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The [CLS] and the patch part, view by view and image by image, over all patches."""

    def cross_entropy(target: Tensor, guess: Tensor, center: Tensor, temperature: float) -> Tensor:
        return -(((target - center) / temperature).softmax(-1) * (guess / 0.1).log_softmax(-1)).sum(-1)

    of_cls: list[Tensor] = []
    of_patches: list[Tensor] = []
    for q in range(2):
        for v in range(len(student[0])):
            if v != q:
                of_cls.append(cross_entropy(teacher[0][q], student[0][v], centers[0], TEMPERATURE).mean())
                continue
            terms = cross_entropy(teacher[1][q], student[1][v], centers[1], PATCH_TEMPERATURE)
            for row, mask in zip(terms, masks[v], strict=True):
                of_patches.append(row[mask].sum() / max(1, int(mask.sum())))
    return torch.stack(of_cls).mean(), torch.stack(of_patches).mean()


@pytest.mark.parametrize(("n_clips", "n_frames", "n_crops"), [(2, 3, 2), (1, 1, 1), (1, 4, 0)])
@pytest.mark.parametrize(
    "config", [SHARED, OWN, config(cls_weight=0.5, patch_weight=3.0), config(masked_probability=1.0)]
)
def test_loss_and_gradient_equal_ibots_loop_over_pairs_of_views(
    config: PretrainConfig, n_clips: int, n_frames: int, n_crops: int
):
    student, teacher = networks(config)
    views, ibot = draw_views(n_clips, n_frames, n_crops), Ibot(config)
    got = learn(teach(teacher, views, ibot), student)
    gradients = [parameter.grad for parameter in student.parameters()]

    masks = masks_of(views, config)
    with torch.no_grad():
        target = logits(teacher, views.global_views)
    guess = logits(student, views.global_views, masks)
    guess[0].extend(cls_logits(student, views.local_views))
    cls, patch = plain_ibot_loss(guess, target, masks, (center(12, 7), center(ibot.centers["patch"], 8)))
    want = config.ibot.cls_weight * cls + config.ibot.patch_weight * patch
    assert got["loss"] == pytest.approx(want.item(), rel=1e-12)
    assert got["cls_loss"] == pytest.approx(cls.item(), rel=1e-12)
    assert got["patch_loss"] == pytest.approx(patch.item(), rel=1e-12)
    wanted = torch.autograd.grad(want, list(student.parameters()), materialize_grads=True)
    torch.testing.assert_close(gradients, list(wanted), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("config", [SHARED, OWN])
def test_the_centers_are_given_the_means_of_cls_tokens_and_of_all_patches(config: PretrainConfig):
    _, teacher = networks(config)
    views, ibot = draw_views(), Ibot(config)
    lesson = teach(teacher, views, ibot)
    cls, patches = logits(teacher, views.global_views)
    torch.testing.assert_close(lesson.means["cls"], torch.cat(cls).mean(0))
    torch.testing.assert_close(lesson.means["patch"], torch.cat(patches).mean((0, 1)))
    assert not any(mean.requires_grad for mean in lesson.means.values())
    assert ibot.centers == {name: len(mean) for name, mean in lesson.means.items()}
    assert ibot.center_momentum == {"cls": 0.9, "patch": 0.8}
    assert lesson.numbers["masked_share"].item() == pytest.approx(masks_of(views, config).double().mean().item())


@pytest.mark.parametrize("config", [SHARED, OWN])
@pytest.mark.parametrize("parts", [(1, 2), (1, 1, 1)])
def test_micro_batches_give_the_loss_gradient_and_centers_of_the_batch(parts: tuple[int, ...], config: PretrainConfig):
    student, teacher = networks(config)
    check_micro_batches(teacher, student, draw_views(n_clips=3), Ibot(config), parts=parts)


@pytest.mark.parametrize("masked_probability", [0.0, 1.0])
def test_the_last_task_gives_every_parameter_of_the_student_a_gradient_and_none_of_the_teacher(
    masked_probability: float,
):
    all_or_none = config(masked_probability=masked_probability, n_patch_prototypes=9)
    student, teacher = networks(all_or_none)
    lesson = teach(teacher, draw_views(), Ibot(all_or_none))
    loss, numbers = lesson.tasks[-1](student)
    loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert (numbers["patch_loss"].item() > 0) == (masked_probability > 0)
    assert student.mask_token is not None and student.mask_token.grad is not None
    assert student.mask_token.grad.any() == (masked_probability > 0)


def test_the_student_sees_nothing_of_masked_patches_but_where_they_are():
    student, _ = networks(SHARED)
    vit, images = student.backbone, torch.randn(2, 3, 32, 32, dtype=torch.float64)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, [1, 6]] = True  # rows 0 and 1, columns 1 and 2
    seen = tokens(vit, images, mask=mask, mask_token=student.mask_token)
    other = images.clone()
    other[0, :, 0:8, 8:16] += 1
    other[0, :, 8:16, 16:24] += 1
    torch.testing.assert_close(tokens(vit, other, mask=mask, mask_token=student.mask_token), seen)
    other[0, :, 0:8, 0:8] += 1  # not masked
    assert not torch.allclose(tokens(vit, other, mask=mask, mask_token=student.mask_token)[0], seen[0])
    assert not torch.allclose(seen[0, 2], seen[0, 7])  # the same token at two places
    torch.testing.assert_close(seen[1], tokens(vit, images)[1])  # the other image has no mask


def test_patches_have_a_temperature_and_a_warm_up_of_their_own():
    student, teacher = networks(SHARED)
    views, ibot = draw_views(), Ibot(SHARED)
    entropies = [learn(teach(teacher, views, ibot, epoch=epoch), student) for epoch in range(6)]
    assert len({numbers["teacher_entropy"] for numbers in entropies}) == 4
    of_patches = [numbers["patch_entropy"] for numbers in entropies]
    assert of_patches == sorted(of_patches) and len(set(of_patches)) == 5


@pytest.mark.parametrize("masked_probability", [0.0, 0.5, 1.0])
def test_a_collapse_of_the_patches_shows_in_their_entropy_however_few_are_masked(masked_probability: float):
    some = config(masked_probability=masked_probability, n_patch_prototypes=9)
    student, teacher = networks(some)
    nn.init.zeros_(teacher.head.last_layer2.weight_g)  # every logit is 0
    ibot = Ibot(some)
    centers = {name: torch.zeros(n).double() for name, n in ibot.centers.items()}
    lesson = ibot.teach(teacher, draw_views(), centers, Moment(step=0, epoch=0))
    assert learn(lesson, student)["patch_entropy"] == pytest.approx(math.log(9))


def test_a_wrapped_student_learns_under_ddp_and_autocast(tmp_path: Path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        unmasked = config(masked_probability=0.0, n_patch_prototypes=9)
        student, teacher = (network.float() for network in networks(unmasked))
        wrapped, ibot = nn.parallel.DistributedDataParallel(student), Ibot(unmasked)
        views = draw_views()
        views = views._replace(global_views=views.global_views.float(), local_views=views.local_views.float())
        centers = {name: torch.zeros(n) for name, n in ibot.centers.items()}
        for _ in range(2):  # DDP complains of a parameter without gradient in the next forward pass
            with torch.autocast("cpu", dtype=torch.bfloat16):
                tasks = ibot.teach(teacher, views, centers, Moment(step=0, epoch=9)).tasks
            for task, context in zip(tasks, (wrapped.no_sync(), nullcontext()), strict=True):
                with context:
                    with torch.autocast("cpu", dtype=torch.bfloat16):
                        loss = task(wrapped).loss
                    loss.backward()
                assert loss.dtype == torch.float32 and loss.isfinite()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in student.parameters())
    finally:
        torch.distributed.destroy_process_group()
