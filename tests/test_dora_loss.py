import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dora.config import BackboneConfig, HeadConfig, PretrainConfig, TrackingConfig
from dora.data.augment import Views
from dora.method.dora import Dora, draw_heads, object_weights
from dora.method.head import Projected
from dora.method.network import Network, build_network, embed, project
from dora.method.objective import Lesson, Moment, mean_direction, update_center_

BACKBONE = BackboneConfig(image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2)
HEAD = HeadConfig(n_prototypes=12, hidden_dim=16, bottleneck_dim=8)
CONFIG = PretrainConfig(backbone=BACKBONE, head=HEAD, tracking=TrackingConfig(n_objects=2))
NOW = Moment(step=3, epoch=50)


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


def changed(**groups: dict[str, Any]) -> PretrainConfig:
    return CONFIG.model_copy(
        update={name: getattr(CONFIG, name).model_copy(update=values) for name, values in groups.items()}
    )


def draw_views(
    n_clips: int = 2, n_frames: int = 3, n_crops: int = 2, size: int = 32, local_size: int = 16, n_global: int = 1
) -> Views:
    generator = torch.Generator().manual_seed(0)
    return Views(
        torch.randn(n_global, n_clips, n_frames, 3, size, size, generator=generator, dtype=torch.float64),
        torch.randn(n_crops, n_clips, n_frames, 3, local_size, local_size, generator=generator, dtype=torch.float64),
        tuple(range(7, 7 + n_clips)),
    )


def networks() -> tuple[Network, Network]:
    torch.manual_seed(0)
    student = build_network(CONFIG, drop_path=True).double()
    teacher = build_network(CONFIG, drop_path=False).requires_grad_(False).double()
    return student, teacher


class Recorder(nn.Module):
    """A student that remembers what it is shown and what it says; wraps a Network as DDP does."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = network
        self.shown: list[Tensor] = []
        self.kept: list[Tensor | None] = []
        self.said: list[Tensor] = []

    def forward(self, work: Any, images: Tensor, **options: Any) -> Any:
        made = self.module(work, images, **options)
        projected: Projected = made[1] if work is embed else made
        self.shown.append(images)
        self.kept.append(options.get("kept"))
        self.said.append(projected.logits().detach())
        return made


def teach(teacher: Network, views: Views, config: PretrainConfig = CONFIG, **options: Any) -> Lesson:
    center = torch.linspace(-0.1, 0.1, HEAD.n_prototypes, dtype=torch.float64)
    return Dora(config).teach(teacher, views, {"cls": center}, NOW, **options)


def run(student: nn.Module, teacher: Network, views: Views, config: PretrainConfig = CONFIG, **options: Any) -> Tensor:
    return sum(task(student).loss for task in teach(teacher, views, config, **options).tasks)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("n_objects", "n_crops", "n_frames", "n_clips"), [(3, 4, 4, 2), (1, 1, 1, 1), (2, 0, 3, 2), (3, 2, 1, 2)]
)
@pytest.mark.parametrize("skip_first", [False, True])
@pytest.mark.parametrize("average", ["mean", "authors"])
def test_loss_equals_naive_loops_over_frames_objects_and_crops(
    n_objects: int, n_crops: int, n_frames: int, n_clips: int, skip_first: bool, average: str
):
    config = changed(
        tracking={"n_objects": n_objects}, loss={"object_average": average, "skip_first_local_crop": skip_first}
    )
    network, teacher = networks()
    network.eval()  # no drop path
    views = draw_views(n_clips, n_frames, n_crops)
    lesson, student = teach(teacher, views, config), Recorder(network)
    got = sum(task(student).loss.detach().item() for task in lesson.tasks)

    targets = teacher(project, views.global_views[0].transpose(0, 1).flatten(0, 1)).logits()
    objects = student.said[0].view(n_objects, n_frames, n_clips, -1)
    crops = objects[:0]
    if n_crops:
        crops = network(project, views.local_views.transpose(1, 2).flatten(0, 2)).logits().detach()
        crops = crops.view(n_crops, n_frames, n_clips, -1)[skip_first:]
    center = torch.linspace(-0.1, 0.1, HEAD.n_prototypes, dtype=torch.float64)
    terms = naive_terms(objects, crops, targets.view(n_frames, n_clips, -1), center, 0.04)
    if average == "mean":
        want = sum(sum(row) for row in terms) / (n_objects * n_frames)
    else:  # f = (f + sum of object o's terms) / T, not set back between objects
        of_object, want = 0.0, 0.0
        for row in terms:
            for term in row:
                of_object += term
            of_object /= n_frames
            want += of_object / n_objects
    assert got == pytest.approx(want, rel=1e-9)


def test_the_authors_average_counts_earlier_objects_more():
    assert object_weights(3, 8, "authors") == pytest.approx([1.140625, 1.125, 1.0])
    assert object_weights(1, 8, "authors") == object_weights(1, 8, "mean") == [1.0]


def test_skipping_the_first_crop_ignores_it_and_only_it():
    student, teacher = networks()
    student.eval()
    views = draw_views(n_crops=3)
    other = views._replace(local_views=torch.cat([views.local_views[:1] + 1, views.local_views[1:]]))
    skipping = changed(loss={"skip_first_local_crop": True})

    def value(config: PretrainConfig, views: Views) -> float:
        return run(student, teacher, views, config).detach().item()

    assert value(skipping, views) == value(skipping, other)
    assert value(CONFIG, views) != pytest.approx(value(CONFIG, other))
    rest = views._replace(local_views=views.local_views[1:])
    assert value(skipping, views) == pytest.approx(value(CONFIG, rest))


@pytest.mark.parametrize("n_crops", [0, 3])
@pytest.mark.parametrize("average", ["mean", "authors"])
def test_a_second_global_view_counts_as_one_local_crop_more(n_crops: int, average: str):
    config = changed(loss={"object_average": average})
    network, teacher = networks()
    network.eval()
    views = draw_views(n_crops=n_crops, n_global=2)
    got = run(network, teacher, views, config).detach().item()

    def said(by: Network, views: Tensor) -> Tensor:
        return by(project, views.transpose(1, 2).flatten(0, 2)).logits().detach().view(len(views), 3, 2, -1)

    lesson, student = teach(teacher, views, config), Recorder(network)
    lesson.tasks[0](student)
    whole = said(network, views.global_views[1:])
    if n_crops:
        whole = torch.cat([whole, said(network, views.local_views)])
    center = torch.linspace(-0.1, 0.1, HEAD.n_prototypes, dtype=torch.float64)
    targets = said(teacher, views.global_views[:1])[0]
    terms = naive_terms(student.said[0].view(2, 3, 2, -1), whole, targets, center, 0.04)
    weights = object_weights(2, 3, average)
    want = sum(weight * term for weight, row in zip(weights, terms, strict=True) for term in row) / 6
    assert got == pytest.approx(want, rel=1e-9)


def test_the_second_global_view_is_seen_whole_by_the_student_alone():
    network, teacher = networks()
    views, student = draw_views(n_global=2), Recorder(network)
    for task in teach(teacher, views).tasks:
        task(student)
    masked, whole, _ = student.shown
    assert torch.equal(whole.view(3, 2, 3, 32, 32), views.global_views[1].transpose(0, 1))
    other = views._replace(global_views=torch.stack([views.global_views[0], -views.global_views[1]]))
    lesson, again = teach(teacher, other), Recorder(network)
    lesson.tasks[0](again)
    assert torch.equal(again.shown[0], masked)


def test_a_student_that_agrees_has_the_entropy_of_the_teacher_as_loss():
    """A head of zeros says the same of every prototype, and so does one that is compared with it."""
    student, teacher = networks()
    for network in (student, teacher):
        nn.init.zeros_(network.head.last_layer.weight_g)
    tasks = Dora(CONFIG).teach(teacher, draw_views(), {"cls": torch.zeros(12).double()}, NOW).tasks
    numbers = {name: value.item() for task in tasks for name, value in task(student).numbers.items()}
    assert list(numbers) == ["object_loss", "teacher_entropy", "local_loss"]
    assert [*numbers.values()] == pytest.approx([math.log(12)] * 3)


def test_the_center_is_a_running_mean():
    center = torch.tensor([1.0, 2.0])
    update_center_(center, torch.tensor([2.0, 4.0]), 0.9)
    assert center.tolist() == pytest.approx([1.1, 2.2])


def test_a_lesson_tells_the_teachers_mean_logits_and_direction():
    _, teacher = networks()
    views = draw_views()
    lesson = teach(teacher, views)
    logits = teacher(project, views.global_views[0].flatten(0, 1)).logits()
    torch.testing.assert_close(lesson.means["cls"], logits.mean(0))
    assert 0 < lesson.direction.norm() < 1
    alike = torch.ones(5, 3) * torch.arange(1, 6)[:, None]
    assert mean_direction(alike).norm().item() == pytest.approx(1)
    assert mean_direction(torch.tensor([[2.0, 0.0], [-3.0, 0.0]])).norm().item() == 0


def test_the_student_is_called_once_with_the_masked_frames_and_once_with_the_crops():
    network, teacher = networks()
    views, student = draw_views(), Recorder(network)
    lesson = teach(teacher, views)
    for task in lesson.tasks:
        task(student)
    masked, crops = student.shown
    shown = masked.view(2, 3, 2, 3, 32, 32)  # O T B 3 Y X
    assert lesson.masks is not None
    for o in range(2):
        for t in range(3):
            for b in range(2):
                pixels = lesson.masks[o, t, b].repeat_interleave(8, 0).repeat_interleave(8, 1)
                assert torch.equal(shown[o, t, b], views.global_views[0, b, t] * pixels)
    assert torch.equal(crops.view(2, 3, 2, 3, 16, 16), views.local_views.transpose(1, 2))


def test_soft_masks_keep_each_patch_as_much_as_its_share_of_the_largest():
    network, teacher = networks()
    views, student = draw_views(), Recorder(network)
    lesson = teach(teacher, views, changed(tracking={"soft": True}))
    lesson.tasks[0](student)
    shown = student.shown[0].view(2, 3, 2, 3, 32, 32)
    kept = (shown / views.global_views[0].transpose(0, 1)).mean(-3).unflatten(-1, (4, 8)).unflatten(-3, (4, 8))
    kept = kept.mean((-3, -1))  # of each patch; a patch has one factor
    assert lesson.masks is not None and ((0 < kept) & (kept <= 1 + 1e-9)).all()
    torch.testing.assert_close(kept.amax((-2, -1)), torch.ones(2, 3, 2).double())
    for shares, mask in zip(kept.flatten(0, 2), lesson.masks.flatten(0, 2), strict=True):
        assert shares[mask].min() > shares[~mask].max()


@pytest.mark.parametrize("mask", ["block", "patch"])
def test_random_masks_keep_their_share_and_belong_to_the_clip(mask: str):
    network, teacher = networks()
    views, student = draw_views(), Recorder(network)
    config = changed(tracking={"mask": mask, "kept_share": 0.5})
    masks = teach(teacher, views, config).masks
    assert masks is not None and masks.shape == (2, 3, 2, 4, 4)
    n_kept = masks.sum((-2, -1))
    assert (n_kept <= 8).all() and n_kept.float().mean() > (6 if mask == "block" else 7.9)
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[:, 0], masks[:, 1])
    alone = Views(views.global_views[:, 1:], views.local_views[:, 1:], views.positions[1:])
    of_second = teach(teacher, alone, config).masks
    assert of_second is not None and torch.equal(of_second[:, :, 0], masks[:, :, 1])
    assert run(student, teacher, views, config).isfinite()


def test_without_masks_the_student_sees_the_teachers_frames_once():
    network, teacher = networks()
    views, student = draw_views(), Recorder(network)
    lesson = teach(teacher, views, changed(tracking={"mask": "none"}))
    assert lesson.masks is None and "mask_share" not in lesson.numbers
    lesson.tasks[0](student)
    assert torch.equal(student.shown[0].view(3, 2, 3, 32, 32), views.global_views[0].transpose(0, 1))


def test_dropped_patches_are_no_tokens():
    """Equal to a ViT that is called with one image's kept tokens at a time."""
    network, teacher = networks()
    network.eval()
    views, student = draw_views(), Recorder(network)
    lesson = teach(teacher, views, changed(tracking={"dropped": True}))
    lesson.tasks[0](student)
    assert lesson.masks is not None and student.kept[0] is not None
    assert torch.equal(student.kept[0].view(2, 3, 2, 4, 4), lesson.masks)
    vit = network.backbone
    for number, (image, kept) in enumerate(zip(student.shown[0], student.kept[0], strict=True)):
        patches = vit.patch_embed.proj(image[None]).flatten(2).transpose(1, 2)
        assert vit.cls_token is not None and vit.pos_embed is not None
        x = torch.cat([vit.cls_token, patches], 1) + vit.pos_embed
        x = x[:, torch.cat([torch.tensor([True]), kept])]
        logits = network.head(vit.norm(vit.blocks(x))[:, 0])
        torch.testing.assert_close(student.said[0][number], logits[0])


def test_only_the_student_gets_gradients():
    student, teacher = networks()
    teacher.requires_grad_(True)
    run(student, teacher, draw_views()).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize(("n_clips", "n_frames", "n_crops"), [(1, 1, 0), (1, 3, 1), (3, 1, 2)])
def test_edges_of_clips_frames_and_crops(n_clips: int, n_frames: int, n_crops: int):
    student, teacher = networks()
    config = changed(tracking={"n_objects": 3})  # as many objects as heads
    lesson = teach(teacher, draw_views(n_clips, n_frames, n_crops), config)
    assert lesson.masks is not None and lesson.masks.shape == (3, n_frames, n_clips, 4, 4)
    assert len(lesson.tasks) == (2 if n_crops else 1)
    assert all(task(student).loss.isfinite() for task in lesson.tasks)


@pytest.mark.parametrize(("size", "local_size"), [(40, 24), (24, 32), (32, 8)])
def test_views_may_have_other_sizes_than_the_position_embedding(size: int, local_size: int):
    student, teacher = networks()
    views = draw_views(size=size, local_size=local_size)
    lesson = teach(teacher, views)
    assert lesson.masks is not None and lesson.masks.shape[-2:] == (size // 8, size // 8)
    assert run(student, teacher, views).isfinite()


def test_a_local_size_that_is_no_multiple_of_the_patch_is_refused():
    student, teacher = networks()
    with pytest.raises(ValueError, match="expected image sides in multiples of 8 x 8 pixels, got 20 x 20"):
        run(student, teacher, draw_views(local_size=20))


def test_under_autocast_the_loss_stays_float32_and_close():
    student, teacher = networks()
    student.eval().float(), teacher.float()
    views = Views(*(view.float() for view in draw_views()[:2]), (0, 1))
    exact = run(student, teacher, views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(student, teacher, views)
    assert mixed.dtype == torch.float32
    assert mixed.detach().item() == pytest.approx(exact.detach().item(), rel=0.1)
    mixed.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in student.parameters())


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
