"""How signatures are checked while tests run: beartype, with ints welcome where floats are expected (PEP 484)."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import config

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    # A function within a function is decorated whenever the outer one is called, and beartype takes a millisecond. What
    # belongs to a module is decorated once and may be called again where signatures are checked.
    is_inner = "<locals>" in function.__qualname__
    return function if is_inner and config.jaxtyping_disable else _check(function)


@contextmanager
def unchecked() -> Generator[None]:
    """Check nothing inside: drawing a data set takes a million calls, whose checks take four times as long."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
