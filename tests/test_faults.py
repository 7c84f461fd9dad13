"""Every fault of fault_table.py against downloads of all three kinds, and the page that shows what came of it."""

import gc
import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from fault_server import Fault, File, Site, m3u8, mpd, serving
from fault_table import (
    MIXED,
    RESTARTED,
    RESUMED,
    RETRIED,
    RETRIES,
    TRUNCATED,
    WAITED,
    WHOLE,
    Row,
    as_markdown,
    film,
    table,
)

from dora.artifacts import Network
from dora.data import remote
from dora.data.video import probe

# yt-dlp leaves files and connections to the garbage collector when a request fails.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <(_io|socket):pytest.PytestUnraisableExceptionWarning"
)

NETWORK = Network(first_wait_s=0.01, timeout_s=0.4, retries=RETRIES)
CASES = [(row, kind) for row in table() for kind in ("plain", "page", "segments")]


@pytest.fixture(autouse=True)
def nothing_is_left_to_the_next_test() -> Iterator[None]:
    """What yt-dlp leaves to the garbage collector is warned about here, where that is ignored."""
    yield
    gc.collect()


def put(site: Site, row: Row, kind: str) -> tuple[str, list[File], bytes]:
    """The film behind an address, with its faults; the files that have them, and what is right in the end."""
    whole, then = film(), row.then or film()
    names = {"{moved}": site.url("moved.mp4"), "{itself}": site.url("s-2" if kind == "segments" else "film.mp4")}

    def told(fault: Fault) -> Fault:
        headers = {name: names.get(value, value) for name, value in fault.headers.items()}
        return replace(fault, headers=headers)

    if kind != "segments":
        site.put("moved.mp4", whole)
        url = site.put("film.mp4", whole, faults=[told(one) for one in row.faults], always=told(row.always), **row.film)
        if kind == "page":
            one = {"id": "401", "url": "film.mp4", "width": 64, "height": 48, "fps": 12}
            url = site.put("page.mpd", mpd(one), kind="application/dash+xml")
        return url, [site.files["/film.mp4"]], then

    # Three segments, of which the one in the middle misbehaves.
    ends = [0, len(whole) // 3, 2 * len(whole) // 3, len(whole)]
    first, middle, last = (whole[a:b] for a, b in pairwise(ends))
    site.put("moved.mp4", middle)
    site.put("s-1", first)
    site.put("s-2", middle, faults=[told(one) for one in row.faults], always=told(row.always), **row.film)
    site.put("s-3", last)
    url = site.put("page.m3u8", m3u8(["s-1", "s-2", "s-3"]), kind="application/vnd.apple.mpegurl")
    return url, [site.files["/s-2"]], first + (row.then or middle) + last


@pytest.mark.parametrize(("row", "kind"), CASES, ids=[f"{row.fault} ({kind})" for row, kind in CASES])
def test_a_fault_has_the_outcome_that_the_table_says(row: Row, kind: str, tmp_path: Path):
    expected = row.outcomes[kind]
    with serving() as site:
        url, files, right = put(site, row, kind)
        checksum = hashlib.sha256(right).hexdigest() if row.has_checksum and kind == "plain" else None
        started = time.monotonic()
        if isinstance(expected, tuple):
            words, n_requests = expected
            with pytest.raises((ValueError, OSError)) as error:
                remote.fetch(url, tmp_path, NETWORK, sha256=checksum)
            assert words.split("“")[1].rstrip("”") in str(error.value)
            assert n_requests is None or len(files[0].asked) == n_requests
            assert not list(tmp_path.glob("video.mp4"))  # nothing that looks finished
            return
        path = remote.fetch(url, tmp_path, NETWORK, sha256=checksum).path
        took_s = time.monotonic() - started
    served = files[0].served
    if expected == TRUNCATED:
        with pytest.raises(ValueError, match="cut"):
            probe(path)
        return
    assert path.read_bytes() == right
    if expected != MIXED:
        assert probe(path).n_frames > 0
    if expected == WHOLE:
        assert served[-1][0] in (200, 302)
    elif expected == RESUMED:
        assert len(served) > 1 and served[-1][0] == 206
    elif expected == RESTARTED:
        assert served[-1] == (200, len(right)) and len(served) > 1
    elif expected == WAITED:
        assert took_s >= 1
    else:
        assert expected in (RETRIED, MIXED)
        assert len(files[0].asked) > 1


def test_the_page_shows_the_table_that_is_tested():
    page = (Path(__file__).parents[1] / "docs" / "acquire.md").read_text()
    assert as_markdown() in page, f"write this into docs/acquire.md:\n{as_markdown()}"
