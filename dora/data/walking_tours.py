"""The ten Walking Tours videos (arXiv:2310.08584): nine city walks and a safari, 4K, CC-BY, on YouTube.

Ids as in the authors' published list; 4K and 60 frames a second as the data set's card says, but for Wildlife's 30, as
somebody reports who has downloaded all ten (no file was read here). Durations are known for four of them, Venice's from
the frame counts in others' scripts.
"""

from dora.config import Frozen


class Tour(Frozen):
    """One video of the data set."""

    city: str
    youtube_id: str
    fps: float = 60
    width: int = 3840
    height: int = 2160
    duration_s: float | None = None

    @property
    def url(self) -> str:
        """Where a person watches it, and what yt-dlp takes."""
        return f"https://www.youtube.com/watch?v={self.youtube_id}"


TOURS = (
    Tour(city="amsterdam", youtube_id="E07rTPgIvn0"),
    Tour(city="bangkok", youtube_id="hUGcHvN4mME", duration_s=10500),
    Tour(city="chiang_mai", youtube_id="jyxIRzlkO_g"),
    Tour(city="istanbul", youtube_id="mA9lYWyXMYU"),
    Tour(city="kuala_lumpur", youtube_id="yLTycPjm0nk"),
    Tour(city="singapore", youtube_id="aUJl46bEWYo"),
    Tour(city="stockholm", youtube_id="Jr9x-RB4E1U"),
    Tour(city="wildlife", youtube_id="Q0ML5oAjX_w", fps=30, duration_s=3540),
    Tour(city="venice", youtube_id="fGX0Te6pFvk", duration_s=6600),
    Tour(city="zurich", youtube_id="_NmYvuEILw4", duration_s=3900),
)
MEAN_DURATION_S = 5880.0  # of all ten, by the data set's page
CITIES = tuple(tour.city for tour in TOURS)


def tour(city: str) -> Tour:
    """The tour of that city.

    Raises:
        ValueError: for an unknown city, listing the known ones.
    """
    for candidate in TOURS:
        if candidate.city == city:
            return candidate
    raise ValueError(f"unknown walking tour {city!r}. Known: {', '.join(CITIES)}.")
