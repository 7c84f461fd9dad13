"""How signatures are checked while tests run: beartype, with ints welcome where floats are expected (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
