"""How signatures are checked while tests run: beartype, with ints welcome where floats are expected (PEP 484)."""

from collections.abc import Generator
from contextlib import contextmanager

from beartype import BeartypeConf, beartype
from jaxtyping import config

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


@contextmanager
def unchecked() -> Generator[None]:
    """Check nothing inside: drawing a data set takes a million calls, whose checks take four times as long."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
