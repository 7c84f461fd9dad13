"""Cross-entropy over many prototypes, a few thousand columns at a time: the student's logits are never all there.

With teacher logits t and student logits s of a token, z = (t - center) / teacher_temperature, q = softmax(z):

    H = logsumexp(s / τ) - Σ_k q[k] s[k] / τ

and as s[k] = point · prototype[k],

    Σ_k q[k] s[k] = point · Σ_k q[k] prototype[k]

so that all views of a token share one weighted sum of prototypes, and only the logsumexp needs their logits. It is
taken chunk by chunk with a running maximum (Milakov and Gimelshein, arXiv:1805.02867); the backward pass computes the
chunks again.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dora.method.head import Projected
from dora.method.products import product

# Of one chunk of logits: on a CPU what stays in its cache, on a GPU what keeps it busy.
CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**27}


class CrossEntropy(NamedTuple):
    """In nats."""

    terms: Float[Tensor, "V R"]
    entropy: Float[Tensor, "R"]  # the teacher's; without gradient


def cross_entropy(
    student: Projected, teacher: Projected, *, center: Float[Tensor, "K"], teacher_temperature: float,
    student_temperature: float,
) -> CrossEntropy:  # fmt: skip
    """H(teacher, student) of V views of R tokens: `student.points` is V R d, `teacher.points` R d.

    Gradients go to the student. Under autocast the student's logits and their gradients are products in its type; all
    sums, the softmax and the target are at least float32.
    """
    terms, entropy = _CrossEntropy.apply(
        student.points, student.prototypes, teacher.points.detach(), teacher.prototypes.detach(), center,
        teacher_temperature, student_temperature, _product_type(student.points),
    )  # fmt: skip
    return CrossEntropy(terms, entropy)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, points: Tensor, prototypes: Tensor, teacher_points: Tensor, teacher_prototypes: Tensor,
        center: Tensor, teacher_temperature: float, student_temperature: float, kind: torch.dtype,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        precise = torch.promote_types(prototypes.dtype, torch.float32)
        views = (points.flatten(0, 1).to(precise) / student_temperature).to(kind)
        tokens = teacher_points.to(precise)
        student_sum, teacher_sum = _Softmax(views, precise), _Softmax(tokens, precise)
        aim, height = torch.zeros_like(tokens[:, : prototypes.shape[1]]), tokens.new_zeros(len(tokens), 1)
        with torch.autocast(points.device.type, enabled=False):
            for columns in _chunks(len(prototypes), len(views) + len(tokens), points.device):
                student_sum.add_(product(views, prototypes[columns].to(kind)).to(precise))
                z = _target_logits(tokens, teacher_prototypes[columns], center[columns], teacher_temperature)
                share, shrink = teacher_sum.add_(z)
                aim = torch.addmm(aim * shrink, share, prototypes[columns].to(precise))
                height = height * shrink + (share * z).sum(1, keepdim=True)
            aim, height = aim / teacher_sum.total, height / teacher_sum.total
            pull = torch.einsum("vrd,rd->vr", points.to(precise), aim) / student_temperature
        log_total, teacher_log_total = student_sum.log(), teacher_sum.log()
        ctx.save_for_backward(
            points, prototypes, tokens, teacher_prototypes, center, aim, log_total, teacher_log_total
        )  # fmt: skip
        ctx.temperatures, ctx.kind = (teacher_temperature, student_temperature), kind
        entropy = (teacher_log_total - height).squeeze(1)
        ctx.mark_non_differentiable(entropy)
        return log_total.view(points.shape[:2]) - pull, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        points, prototypes, tokens, teacher_prototypes, center, aim, log_total, teacher_log_total = ctx.saved_tensors
        (teacher_temperature, student_temperature), kind = ctx.temperatures, ctx.kind
        precise = tokens.dtype
        weight = (gradients[0] / student_temperature).to(precise)
        rows = points.flatten(0, 1).to(precise)
        views, of_row = (rows / student_temperature).to(kind), weight.reshape(-1, 1)
        rounded = rows.to(kind)
        d_rows = torch.zeros_like(rows)
        d_prototypes = torch.empty_like(prototypes)
        with torch.autocast(points.device.type, enabled=False):
            # What the target pulls on: over the views of a token it is one sum.
            pulled = torch.einsum("vr,vrd->rd", weight, points.to(precise))
            for columns in _chunks(len(prototypes), len(views) + len(tokens), points.device):
                chunk = prototypes[columns].to(kind)
                guess = product(views, chunk).to(precise).sub_(log_total).exp_().mul_(of_row).to(kind)
                d_rows += product(guess, chunk.T).to(precise)
                z = _target_logits(tokens, teacher_prototypes[columns], center[columns], teacher_temperature)
                share = z.sub_(teacher_log_total).exp_()
                d_prototypes[columns] = (guess.T @ rounded).to(precise).addmm_(share.T, pulled, alpha=-1)
        d_points = d_rows.view(points.shape) - weight[..., None] * aim
        return d_points.to(points.dtype), d_prototypes, *[None] * 6


class _Softmax:
    """The sum of exponentials of rows whose columns come a chunk at a time."""

    def __init__(self, rows: Tensor, dtype: torch.dtype) -> None:
        self.total = torch.zeros(len(rows), 1, dtype=dtype, device=rows.device)
        self._highest = torch.full_like(self.total, -torch.inf)

    def add_(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Exponentials of this chunk, and by what all before it shrink: both below the highest logit so far."""
        highest = torch.maximum(self._highest, logits.amax(1, keepdim=True))
        shrink = (self._highest - highest).exp()
        share = (logits - highest).exp()
        self.total = self.total * shrink + share.sum(1, keepdim=True)
        self._highest = highest
        return share, shrink

    def log(self) -> Tensor:
        return self._highest + self.total.log()


def _target_logits(tokens: Tensor, prototypes: Tensor, center: Tensor, temperature: float) -> Tensor:
    return product(tokens, prototypes.to(tokens.dtype)).sub_(center).div_(temperature)


def _chunks(n_columns: int, n_rows: int, device: torch.device) -> Iterator[slice]:
    size = max(256, CHUNK_BYTES.get(device.type, CHUNK_BYTES["cuda"]) // (4 * n_rows))
    for start in range(0, n_columns, size):
        yield slice(start, start + size)


def _product_type(points: Tensor) -> torch.dtype:
    kind = points.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else points.dtype
