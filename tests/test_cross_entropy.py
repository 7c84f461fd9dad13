import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dora.method import cross_entropy as module
from dora.method.cross_entropy import cross_entropy
from dora.method.head import Projected

K = 700  # prototypes: two whole chunks of 256 columns and a part


def draw(
    *, n_views: int = 3, n_rows: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[Projected, Projected, Tensor]:
    """A student's and a teacher's tokens, and a centre."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    student = F.normalize(normal(n_views, n_rows, 8), dim=-1), normal(K, 8)
    teacher = F.normalize(normal(n_rows, 8), dim=-1), normal(K, 8)
    leaves = (value.to(dtype).requires_grad_() for value in student)
    return Projected(*leaves), Projected(*(value.to(dtype) for value in teacher)), normal(K).to(dtype)


def plain(student: Projected, teacher: Projected, center: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """With all logits at once."""
    target = ((teacher.logits() - center) / temperature).softmax(-1)
    terms = -(target * (student.logits() / 0.1).log_softmax(-1)).sum(-1)
    return terms, -torch.special.xlogy(target, target).sum(-1)


@pytest.mark.parametrize("temperature", [0.04, 1.0, 1e-4])
@pytest.mark.parametrize(("n_views", "n_rows"), [(3, 4), (1, 1)])
@pytest.mark.parametrize("in_chunks", [False, True])
def test_terms_entropy_and_gradients_equal_those_of_all_logits(
    temperature: float, n_views: int, n_rows: int, in_chunks: bool, monkeypatch: pytest.MonkeyPatch
):
    if in_chunks:
        monkeypatch.setitem(module.CHUNK_BYTES, "cpu", 1)
    student, teacher, center = draw(n_views=n_views, n_rows=n_rows)
    got = cross_entropy(student, teacher, center=center, teacher_temperature=temperature, student_temperature=0.1)
    terms, entropy = plain(student, teacher, center, temperature)
    torch.testing.assert_close(got.terms, terms, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(got.entropy, entropy, rtol=1e-9, atol=1e-9)
    weight = torch.linspace(-1, 2, n_views * n_rows, dtype=torch.float64).view(n_views, n_rows)
    ours = torch.autograd.grad((got.terms * weight).sum(), [*student])
    theirs = torch.autograd.grad((terms * weight).sum(), [*student])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_a_view_that_is_left_out_gets_no_gradient():
    student, teacher, center = draw()
    terms = cross_entropy(student, teacher, center=center, teacher_temperature=0.04, student_temperature=0.1).terms
    (gradient,) = torch.autograd.grad(terms[1:].sum(), [student.points])
    assert (gradient[0] == 0).all() and (gradient[1:] != 0).any()


def test_confident_teachers_and_far_logits_stay_finite():
    student, teacher, center = draw(dtype=torch.float32)
    far = Projected(student.points, (student.prototypes * 1e4).detach().requires_grad_())
    found = cross_entropy(far, teacher, center=center, teacher_temperature=1e-5, student_temperature=0.1)
    found.terms.sum().backward()
    assert found.terms.isfinite().all() and (found.entropy >= 0).all()
    assert far.prototypes.grad is not None and far.prototypes.grad.isfinite().all()


def test_the_teacher_gets_no_gradient():
    student, teacher, center = draw()
    teacher = Projected(*(value.requires_grad_() for value in teacher))
    cross_entropy(
        student, teacher, center=center, teacher_temperature=0.04, student_temperature=0.1
    ).terms.sum().backward()
    assert teacher.points.grad is None and teacher.prototypes.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_only_products(dtype: torch.dtype):
    student, teacher, center = draw(dtype=torch.float32)
    exact, entropy = plain(student, teacher, center, 0.04)
    with torch.autocast("cpu", dtype=dtype):
        found = cross_entropy(student, teacher, center=center, teacher_temperature=0.04, student_temperature=0.1)
    assert found.terms.dtype == torch.float32
    torch.testing.assert_close(found.terms, exact, rtol=0.01, atol=0.05)
    torch.testing.assert_close(found.entropy, entropy)  # the target is not rounded at all
    ours = torch.autograd.grad(found.terms.sum(), [*student])
    theirs = torch.autograd.grad(exact.sum(), [*student])
    for mine, other in zip(ours, theirs, strict=True):
        assert F.cosine_similarity(mine.flatten(), other.flatten(), dim=0) > 0.999


def test_the_students_logits_are_never_all_there(monkeypatch: pytest.MonkeyPatch):
    """By the largest tensor that the forward and backward passes allocate."""
    monkeypatch.setitem(module.CHUNK_BYTES, "cpu", 1)
    student, teacher, center = draw(n_views=64, n_rows=16, dtype=torch.float32)
    whole = 64 * 16 * K * 4
    with torch.profiler.profile(profile_memory=True) as profile:
        terms = cross_entropy(student, teacher, center=center, teacher_temperature=0.04, student_temperature=0.1).terms
        terms.sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 0 < largest < 0.6 * whole
