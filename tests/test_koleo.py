"""The term that keeps [CLS] tokens apart, against loops, alone and in each objective."""

import math
from collections.abc import Callable

import pytest
import torch
from lessons import CONFIG, check_micro_batches, draw_views, learn, networks, teach, tokens_by_hand
from torch import Tensor

from dora.config import AugmentConfig, LossConfig, PretrainConfig
from dora.data.augment import Views
from dora.method.dino import Dino
from dora.method.dora import Dora
from dora.method.ibot import Ibot
from dora.method.koleo import keep_apart, koleo
from dora.method.masks import black_out
from dora.method.network import Network
from dora.method.objective import Lesson, Objective

ONE_VIEW = AugmentConfig(global_blur_probability=(0.1,), solarize_probability=(0.0,))
DINO = CONFIG.model_copy(update={"loss": LossConfig()})
IBOT = DINO.model_copy(update={"objective": "ibot"})
DORA = DINO.model_copy(update={
    "objective": "dora", "augment": ONE_VIEW, "tracking": DINO.tracking.model_copy(update={"n_objects": 2}),
})  # fmt: skip
DORA_TWO = DORA.model_copy(update={"augment": DINO.augment})


def by_loops(groups: Tensor) -> float:
    """As Sablayrolles et al. write it down: minus the mean logarithm of the distance to the nearest other."""
    terms: list[float] = []
    for group in groups.reshape(-1, *groups.shape[-2:]):
        points = [token / token.norm() for token in group]
        for b, point in enumerate(points):
            nearest = min((point - other).norm().item() for c, other in enumerate(points) if c != b)
            terms.append(-math.log(nearest))
    return sum(terms) / len(terms)


def apart(config: PretrainConfig, n_clips: int | None = None, weight: float = 0.3) -> PretrainConfig:
    loss = config.loss.model_copy(update={"koleo_weight": weight, "koleo_clips": n_clips})
    return config.model_copy(update={"loss": loss})


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 2, 5, 8), (7, 4)])
def test_koleo_equals_loops_over_tokens_and_their_nearest(shape: tuple[int, ...]):
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert koleo(tokens).item() == pytest.approx(by_loops(tokens), abs=1e-7)  # 1e-8 is added to what differs


def test_two_opposite_tokens_are_each_others_nearest():
    assert koleo(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(-math.log(2))


def test_a_step_downhill_moves_the_nearest_apart():
    tokens = torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 1.0]], requires_grad=True)
    koleo(tokens).backward()
    assert tokens.grad is not None and tokens.grad[0, 1] < 0 < tokens.grad[1, 1]


def test_tokens_that_are_all_alike_have_a_finite_term_and_gradient():
    tokens = torch.ones(2, 4, 6, requires_grad=True)
    koleo(tokens).backward()
    assert tokens.grad is not None and tokens.grad.isfinite().all()


def test_under_autocast_distances_are_taken_in_float32():
    tokens = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got = koleo(tokens)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, koleo(tokens.float()))


def test_a_token_alone_is_refused():
    with pytest.raises(ValueError, match="at least 2 tokens, got 1"):
        koleo(torch.ones(3, 1, 4))


def test_at_weight_0_nothing_is_added_or_logged():
    loss, numbers = keep_apart(torch.ones(2, 3, 1, 4), LossConfig())
    assert loss == 0 and numbers == {}


def of_global_views(network: Network, views: Views, lesson: Lesson, masks: Tensor | None = None) -> Tensor:
    """The student's [CLS] tokens, V T B D."""
    images = views.global_views
    cls = tokens_by_hand(network, images.flatten(0, 2), masks)[:, 0]
    return cls.unflatten(0, images.shape[:3]).transpose(1, 2)


def of_masked_views(network: Network, views: Views, lesson: Lesson) -> Tensor:
    return of_global_views(network, views, lesson, Ibot(IBOT)._masks(network, views))


def of_second_view(network: Network, views: Views, lesson: Lesson) -> Tensor:
    """1 T B D."""
    return of_global_views(network, views._replace(global_views=views.global_views[1:]), lesson)


def of_objects(network: Network, views: Views, lesson: Lesson) -> Tensor:
    """O T B D."""
    assert lesson.masks is not None
    shown = black_out(views.global_views[0].transpose(0, 1), lesson.masks)
    return tokens_by_hand(network, shown.flatten(0, 2))[:, 0].unflatten(0, shown.shape[:3])


CASES = [
    pytest.param(DINO, Dino, of_global_views, id="dino"),
    pytest.param(IBOT, Ibot, of_masked_views, id="ibot"),
    pytest.param(DORA, Dora, of_objects, id="dora"),
    pytest.param(DORA_TWO, Dora, of_second_view, id="dora, a second view"),
]


def views_for(config: PretrainConfig, n_clips: int) -> Views:
    views = draw_views(n_clips=n_clips)
    return views._replace(global_views=views.global_views[: config.augment.n_global_views])


@pytest.mark.parametrize(("config", "build", "cls_of"), CASES)
@pytest.mark.parametrize("n_together", [None, 2])
def test_the_loss_of_each_objective_grows_by_the_term_of_the_students_global_views(
    config: PretrainConfig, build: Callable[[PretrainConfig], Objective], cls_of: Callable[..., Tensor],
    n_together: int | None,
):  # fmt: skip
    student, teacher = networks(config)
    views = views_for(config, n_clips=4)
    without = learn(teach(teacher, views, build(config)), student)
    lesson = teach(teacher, views, build(apart(config, n_together)))
    with_term = learn(lesson, student)
    groups = cls_of(student, views, lesson).detach().unflatten(-2, (-1, n_together or 4))
    assert with_term["koleo"] == pytest.approx(by_loops(groups), abs=1e-6)
    assert with_term["loss"] == pytest.approx(without["loss"] + 0.3 * with_term["koleo"], rel=1e-12)


@pytest.mark.parametrize(("config", "build", "cls_of"), CASES)
def test_micro_batches_of_whole_groups_give_the_loss_and_gradient_of_the_batch(
    config: PretrainConfig, build: Callable[[PretrainConfig], Objective], cls_of: Callable[..., Tensor]
):
    student, teacher = networks(config)
    objective = build(apart(config, 2))
    check_micro_batches(teacher, student, views_for(config, n_clips=6), objective, parts=(2, 4))


@pytest.mark.parametrize(
    ("threshold_clips", "koleo_clips", "together"), [(None, None, 48), (16, None, 48), (16, 8, 16), (16, 6, 48)]
)
def test_clips_that_share_a_threshold_and_keep_apart_are_all_together(
    threshold_clips: int | None, koleo_clips: int | None, together: int
):
    tracking = DORA.tracking.model_copy(update={"threshold": "batch", "threshold_clips": threshold_clips})
    config = apart(DORA, koleo_clips).model_copy(update={"tracking": tracking, "clips_per_batch": 48})
    assert config.clips_together == together
    assert apart(DINO, koleo_clips).model_copy(update={"clips_per_batch": 48}).clips_together == (koleo_clips or 48)
