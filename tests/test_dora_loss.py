import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dora.config import BackboneConfig, HeadConfig, LossConfig, TrackingConfig
from dora.data.augment import Views
from dora.method.dora import Step, distillation_loss, dora_step, draw_heads, updated_center
from dora.method.network import Network, build_network

BACKBONE = BackboneConfig(image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2)
HEAD = HeadConfig(n_prototypes=12, hidden_dim=16, bottleneck_dim=8)


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def naive_terms(
    objects: Tensor, crops: Tensor, teacher: Tensor, center: Tensor, temperature: float
) -> list[list[float]]:
    """(object term + local term) / 2 of each object and frame, one logarithm at a time; student temperature 0.1."""

    def softmax(row: Tensor) -> list[float]:
        powers = [math.exp(float(value) - float(row.max())) for value in row]
        return [power / sum(powers) for power in powers]

    def mean_cross_entropy(t: int, view: Tensor) -> float:
        total = 0.0
        for b in range(teacher.shape[1]):
            target = softmax((teacher[t, b] - center) / temperature)
            guess = softmax(view[t, b] / 0.1)
            total -= sum(q * math.log(s) for q, s in zip(target, guess, strict=True))
        return total / teacher.shape[1]

    terms = []
    for view in objects:
        terms.append([])
        for t in range(teacher.shape[0]):
            local = [mean_cross_entropy(t, crop) for crop in crops]
            terms[-1].append((mean_cross_entropy(t, view) + (sum(local) / len(local) if local else 0.0)) / 2)
    return terms


@pytest.mark.parametrize(
    ("n_objects", "n_crops", "n_frames", "n_clips"), [(3, 4, 5, 2), (1, 1, 1, 1), (2, 0, 3, 2), (3, 2, 1, 2)]
)
@pytest.mark.parametrize("skip_first", [False, True])
@pytest.mark.parametrize("average", ["mean", "authors"])
def test_loss_equals_naive_loops_over_frames_objects_and_crops(
    n_objects: int, n_crops: int, n_frames: int, n_clips: int, skip_first: bool, average: str
):
    objects, crops = logits(n_objects, n_frames, n_clips, 7), logits(n_crops, n_frames, n_clips, 7, seed=1)
    teacher, center = logits(n_frames, n_clips, 7, seed=2), logits(7, seed=3)
    config = LossConfig.model_validate({"object_average": average, "skip_first_local_crop": skip_first})
    got, *_ = distillation_loss(objects, crops, teacher, center=center, teacher_temperature=0.05, config=config)

    terms = naive_terms(objects, crops[1:] if skip_first else crops, teacher, center, 0.05)
    if average == "mean":
        want = sum(sum(row) for row in terms) / (n_objects * n_frames)
    else:  # f = (f + sum of object o's terms) / T, not set back between objects
        of_object, want = 0.0, 0.0
        for row in terms:
            for term in row:
                of_object += term
            of_object /= n_frames
            want += of_object / n_objects
    assert got.item() == pytest.approx(want, rel=1e-9)


def test_the_two_averages_differ_only_for_several_objects():
    crops, teacher, center = logits(2, 3, 2, 7, seed=1), logits(3, 2, 7, seed=2), torch.zeros(7).double()

    def loss(n_objects: int, average: str) -> float:
        config = LossConfig.model_validate({"object_average": average})
        objects = logits(n_objects, 3, 2, 7)
        return distillation_loss(objects, crops, teacher, center=center, teacher_temperature=0.04, config=config)[
            0
        ].item()

    assert loss(1, "mean") == pytest.approx(loss(1, "authors"))
    assert loss(3, "authors") > 1.1 * loss(3, "mean")


def test_skipping_the_first_crop_ignores_it_and_only_it():
    objects, crops, teacher = logits(1, 2, 2, 7), logits(3, 2, 2, 7, seed=1), logits(2, 2, 7, seed=2)

    def loss(crops: Tensor, skip: bool) -> float:
        config = LossConfig(skip_first_local_crop=skip)
        center = torch.zeros(7).double()
        return distillation_loss(objects, crops, teacher, center=center, teacher_temperature=0.04, config=config)[
            0
        ].item()

    other_first = torch.cat([crops[:1] + logits(1, 2, 2, 7, seed=9), crops[1:]])
    assert loss(crops, True) == loss(other_first, True) == pytest.approx(loss(crops[1:], False))
    assert loss(crops, False) != pytest.approx(loss(other_first, False))


def test_a_student_that_agrees_has_the_entropy_of_the_teacher_as_loss():
    uniform = torch.zeros(2, 3, 8)
    config = LossConfig()
    parts = distillation_loss(
        uniform[None], uniform[None], uniform, center=torch.zeros(8), teacher_temperature=0.04, config=config
    )
    assert [part.item() for part in parts] == pytest.approx([math.log(8)] * 3)


def test_the_center_is_a_running_mean():
    assert updated_center(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]), 0.9).tolist() == pytest.approx([1.1, 2.2])


def draw_views(n_clips: int = 2, n_frames: int = 3, n_crops: int = 2, size: int = 32, local_size: int = 16) -> Views:
    generator = torch.Generator().manual_seed(0)
    return Views(
        torch.randn(n_clips, n_frames, 3, size, size, generator=generator),
        torch.randn(n_crops, n_clips, n_frames, 3, local_size, local_size, generator=generator),
    )


def networks() -> tuple[Network, Network]:
    torch.manual_seed(0)
    student = build_network(BACKBONE, HEAD, drop_path=True)
    teacher = build_network(BACKBONE, HEAD, drop_path=False).requires_grad_(False)
    return student, teacher


class Recorder(nn.Module):
    """A student that remembers its inputs; wraps a Network as DDP does."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = network
        self.calls: list[list[Tensor]] = []

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        self.calls.append(images)
        return self.module(images)


def run(student: nn.Module, teacher: Network, views: Views, **changes: Any) -> Step:
    arguments: dict[str, Any] = {
        "center": torch.zeros(HEAD.n_prototypes), "teacher_temperature": 0.04, "head_indices": [2, 0],
        "tracking": TrackingConfig(n_objects=2), "loss": LossConfig(),
    }  # fmt: skip
    return dora_step(student, teacher, views, **(arguments | changes))


def test_a_step_calls_the_student_once_with_the_masked_frames_and_the_crops():
    network, teacher = networks()
    views, student = draw_views(), Recorder(network)
    step = run(student, teacher, views)
    ((masked, crops),) = student.calls
    shown = masked.view(2, 3, 2, 3, 32, 32)  # O T B 3 Y X
    for o in range(2):
        for t in range(3):
            for b in range(2):
                pixels = step.masks[o, t, b].repeat_interleave(8, 0).repeat_interleave(8, 1)
                assert torch.equal(shown[o, t, b], views.global_views[b, t] * pixels)
    assert torch.equal(crops.view(2, 3, 2, 3, 16, 16), views.local_views.transpose(1, 2))


def test_the_loss_of_a_step_is_that_of_its_logits():
    student, teacher = networks()
    student.eval().requires_grad_(False)  # no drop path
    views = draw_views()
    step = run(student, teacher, views)
    frames = views.global_views.transpose(0, 1)
    pixels = step.masks.repeat_interleave(8, -2).repeat_interleave(8, -1)[:, :, :, None]
    (objects,) = student([(frames * pixels).flatten(0, 2)])
    (crops,) = student([views.local_views.transpose(1, 2).flatten(0, 2)])
    (teachers,) = teacher([frames.flatten(0, 1)])
    terms = naive_terms(
        objects.view(2, 3, 2, -1), crops.view(2, 3, 2, -1), teachers.view(3, 2, -1), torch.zeros(12), 0.04
    )
    assert step.loss.item() == pytest.approx(sum(map(sum, terms)) / 6, rel=1e-4)
    assert step.loss.item() == pytest.approx((step.object_loss.item() + step.local_loss.item()) / 2, rel=1e-5)
    torch.testing.assert_close(step.teacher_logits, teachers.view(3, 2, -1))


def test_only_the_student_gets_gradients():
    student, teacher = networks()
    teacher.requires_grad_(True)
    step = run(student, teacher, draw_views())
    step.loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert [part.requires_grad for part in step] == [True, *[False] * 5]


@pytest.mark.parametrize(("n_clips", "n_frames", "n_crops"), [(1, 1, 0), (1, 3, 1), (3, 1, 2)])
def test_edges_of_clips_frames_and_crops(n_clips: int, n_frames: int, n_crops: int):
    student, teacher = networks()
    views = draw_views(n_clips, n_frames, n_crops)
    step = run(
        student, teacher, views, head_indices=[0, 1, 2], tracking=TrackingConfig(n_objects=3)
    )  # as many objects as heads
    assert step.masks.shape == (3, n_frames, n_clips, 4, 4) and step.loss.isfinite()
    assert step.local_loss.isfinite() and (n_crops > 0) == (step.local_loss.item() > 0)


@pytest.mark.parametrize(("size", "local_size"), [(40, 24), (24, 32), (32, 8)])
def test_views_may_have_other_sizes_than_the_position_embedding(size: int, local_size: int):
    student, teacher = networks()
    step = run(student, teacher, draw_views(size=size, local_size=local_size))
    assert step.masks.shape[-2:] == (size // 8, size // 8) and step.loss.isfinite()


def test_a_local_size_that_is_no_multiple_of_the_patch_is_refused():
    student, teacher = networks()
    with pytest.raises(ValueError, match="expected image sides in multiples of 8 x 8 pixels, got 20 x 20"):
        run(student, teacher, draw_views(local_size=20))


def test_under_autocast_the_loss_stays_float32_and_close():
    student, teacher = networks()
    student.eval()
    views = draw_views()
    exact = run(student, teacher, views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(student, teacher, views)
    assert mixed.loss.dtype == mixed.object_loss.dtype == mixed.teacher_entropy.dtype == torch.float32
    assert mixed.loss.item() == pytest.approx(exact.loss.item(), rel=0.1)
    mixed.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in student.parameters())


def test_a_wrapped_student_trains_under_ddp(tmp_path: Path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        student, teacher = networks()
        wrapped = nn.parallel.DistributedDataParallel(student)
        run(wrapped, teacher, draw_views()).loss.backward()
        assert all(parameter.grad is not None for parameter in student.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_the_teachers_entropy_tells_collapse_from_confidence():
    student, teacher = networks()
    cold = run(student, teacher, draw_views(), teacher_temperature=1e-6).teacher_entropy.item()
    hot = run(student, teacher, draw_views(), teacher_temperature=1e6).teacher_entropy.item()
    assert cold == pytest.approx(0, abs=1e-3) and hot == pytest.approx(math.log(12), rel=1e-3)


def test_heads_are_drawn_without_replacement_and_repeatably():
    draws = [draw_heads(6, 3, seed=1, step=step) for step in range(200)]
    assert draws == [draw_heads(6, 3, seed=1, step=step) for step in range(200)]
    assert all(len(set(heads)) == 3 and set(heads) <= set(range(6)) for heads in draws)
    assert {heads[0] for heads in draws} == set(range(6))  # every head takes every place
    assert draws != [draw_heads(6, 3, seed=2, step=step) for step in range(200)]
    assert sorted(draw_heads(3, 3, seed=0, step=0)) == [0, 1, 2]


def test_more_objects_than_heads_are_refused():
    with pytest.raises(ValueError, match="n_objects is 4, but the ViT has 3 heads"):
        draw_heads(3, 4, seed=0, step=0)
