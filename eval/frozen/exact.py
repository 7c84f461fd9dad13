"""Sums in an order of their own: the same bits for any number of rows, threads or kind of device."""

from jaxtyping import Float
from torch import Tensor


def exact_sum(terms: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
    """Sum over D of float64 terms, by adding the second half to the first until one is left. Overwrites `terms`.

    A library's sum or product adds in an order that depends on shapes, threads and the processor. Single additions
    are rounded the same everywhere (IEEE 754), so what is added to what is written down here. "Exact" is what the
    products of float32 values are in float64; the sum is off by some 1e-16.
    """
    width = terms.shape[1]
    while width > 1:
        half = width // 2
        terms[:, :half] += terms[:, width - half : width]
        width -= half
    return terms[:, 0]
