"""How signatures are checked while tests run: beartype, with ints welcome where floats are expected (PEP 484)."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import config

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    # A function within a function is decorated whenever the outer one is called: beartype takes a millisecond.
    return function if config.jaxtyping_disable else _check(function)


@contextmanager
def unchecked() -> Generator[None]:
    """Check nothing inside: drawing a data set takes a million calls, whose checks take four times as long."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
