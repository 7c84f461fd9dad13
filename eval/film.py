"""Films of results; how they are written stands in dora/film.py."""

from dora.film import OPTIONS, write_film

__all__ = ["OPTIONS", "write_film"]
