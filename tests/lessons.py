"""A lesson of an objective, at the smallest sizes in float64: views, networks, and a student that takes it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dora.config import AugmentConfig, BackboneConfig, HeadConfig, LossConfig, PretrainConfig
from dora.data.augment import Views
from dora.method.network import Network, build_network
from dora.method.objective import Lesson, Moment, Objective

CONFIG = PretrainConfig(
    objective="dino",
    backbone=BackboneConfig(image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2),
    head=HeadConfig(n_prototypes=12, hidden_dim=16, bottleneck_dim=8),
    augment=AugmentConfig(global_blur_probability=(1.0, 0.1), solarize_probability=(0.0, 0.2)),
    loss=LossConfig(teacher_temperature=0.07, warmup_teacher_temperature_epochs=4),
)  # fmt: skip
EPOCH = 1
TEMPERATURE = 0.04 + 0.03 / 3  # of epoch 1: 0.04, 0.05, 0.06, 0.07


def draw_views(n_clips: int = 2, n_frames: int = 3, n_crops: int = 2) -> Views:
    """Local views are smaller than the position embedding."""
    generator = torch.Generator().manual_seed(0)
    return Views(
        torch.randn(2, n_clips, n_frames, 3, 32, 32, generator=generator, dtype=torch.float64),
        torch.randn(n_crops, n_clips, n_frames, 3, 16, 16, generator=generator, dtype=torch.float64),
        tuple(range(70, 70 + n_clips)),
    )


def networks(config: PretrainConfig = CONFIG) -> tuple[Network, Network]:
    """Student and teacher that see things differently, in float64; nobody drops a path."""
    torch.manual_seed(0)
    student, teacher = build_network(config, drop_path=True).eval(), build_network(config, drop_path=False)
    for network in (student, teacher):
        for parameter in network.double().parameters():
            nn.init.normal_(parameter, std=0.3)
    return student, teacher


def center(n: int = 12, seed: int = 7) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 10


def teach(teacher: Network, views: Views, objective: Objective, *, epoch: int = EPOCH) -> Lesson:
    centers = {name: center(n, seed) for seed, (name, n) in enumerate(objective.centers.items(), start=7)}
    return objective.teach(teacher, views, centers, Moment(step=5, epoch=epoch))


def learn(lesson: Lesson, student: nn.Module, *, share: float = 1.0) -> dict[str, float]:
    """Take the lesson as a training step does: task by task, loss and numbers added up."""
    total: dict[str, float] = {}
    for task in lesson.tasks:
        loss, numbers = task(student)
        (share * loss).backward()
        assert loss.shape == () and not any(number.requires_grad for number in numbers.values())
        for name, number in {"loss": loss, **numbers}.items():
            total[name] = total.get(name, 0.0) + share * number.item()
    return total


def check_micro_batches(
    teacher: Network, student: Network, views: Views, objective: Objective, *, parts: tuple[int, ...]
) -> None:
    """Loss, numbers, gradient and centres of the batch are those of its parts, each by its share of the clips."""
    whole = teach(teacher, views, objective)
    want = learn(whole, student)
    gradients = [parameter.grad for parameter in student.parameters()]
    student.zero_grad()
    got: dict[str, float] = {}
    means = {name: torch.zeros_like(mean) for name, mean in whole.means.items()}
    first = 0
    for n_clips in parts:
        clips = slice(first, first + n_clips)
        part = Views(views.global_views[:, clips], views.local_views[:, clips], views.positions[clips])
        share = n_clips / len(views.positions)
        lesson = teach(teacher, part, objective)
        for name, number in learn(lesson, student, share=share).items():
            got[name] = got.get(name, 0.0) + number
        means = {name: mean + share * lesson.means[name] for name, mean in means.items()}
        first += n_clips
    assert got == pytest.approx(want, rel=1e-12)
    torch.testing.assert_close([parameter.grad for parameter in student.parameters()], gradients)
    torch.testing.assert_close(means, dict(whole.means))


def tokens_by_hand(network: Network, images: Tensor, mask: Tensor | None = None) -> Tensor:
    """[CLS] and patch tokens, written down from the architecture: positions are added to tokens and mask tokens."""
    vit, n = network.backbone, images.shape[-1] // 8
    patches = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
    if mask is not None:
        patches[mask] = network.mask_token
    positions = vit.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    if n != 4:
        positions = F.interpolate(positions, scale_factor=(n + 0.1) / 4, mode="bicubic")
    x = torch.cat([vit.cls_token.expand(len(images), -1, -1), patches], dim=1)
    x = x + torch.cat([vit.pos_embed[:, :1], positions.flatten(2).transpose(1, 2)], dim=1)
    return vit.norm(vit.blocks(x))


def cls_logits(network: Network, views: Tensor) -> list[Tensor]:
    """Of each view, image by image."""
    return [network.head(tokens_by_hand(network, view.flatten(0, 1))[:, 0]) for view in views]
