"""Signatures are checked while tests run, except where a test asks not to."""

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation
from typecheck import check, unchecked

from dora.data.street.polygons import paint


def twice(number: int) -> int:
    return 2 * number


def test_what_the_project_defines_is_checked():
    flat = np.zeros((2, 4), np.float32)
    with pytest.raises(TypeError, match="paint"):
        paint(flat, width=4, height=4)
    with unchecked(), pytest.raises(ValueError, match="unpack"):
        paint(flat[:1], width=4, height=4)


def test_a_function_within_another_is_left_as_it_is_where_nothing_is_checked():
    def half(number: int) -> float:
        return number / 2

    with unchecked():
        assert check(half) is half
        checked = check(twice)  # a module's functions outlive what is not checked
    for function in (check(half), checked):
        with pytest.raises(BeartypeCallHintParamViolation):
            function("four")
