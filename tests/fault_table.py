"""What a server can do to a download, and what comes of it: the table that the tests run and docs/acquire.md shows."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from fault_server import Fault
from footage import write

RETRIES = 2
CUT = 20_000

# Outcomes. Each is checked by test_faults.py under these very words.
WHOLE = "whole"
RESUMED = "whole, resumed"
RESTARTED = "whole, started over"
RETRIED = "whole, tried again"
WAITED = "whole, after the wait it asks for"
TRUNCATED = "found when the film is opened"
MIXED = "taken: a segment has no name"


def stops(sentence: str, *, requests: int | None = 1) -> tuple[str, int | None]:
    """It ends in an error with these words in it, after so many requests."""
    return f"stops: “{sentence}”", requests


FINE = Fault()
Outcome = str | tuple[str, int | None]
NOTHING_NEW = stops(f"gave nothing new in {RETRIES + 1} tries in a row", requests=None)


@dataclass(frozen=True)
class Row:
    """One fault. `film` says what File it stands on, `then` is the film that is there afterwards."""

    fault: str
    plain: Outcome
    page: Outcome
    segments: Outcome
    faults: tuple[Fault, ...] = ()
    always: Fault = FINE
    then: bytes | None = None
    film: dict[str, Any] = field(default_factory=dict)
    has_checksum: bool = False

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return {"plain": self.plain, "page": self.page, "segments": self.segments}


@lru_cache
def film(seed: int = 0, n_frames: int = 24) -> bytes:
    """A real film of noise, which does not compress: some 100 kB."""
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(n_frames)]
    with TemporaryDirectory() as folder:
        return write(Path(folder) / "film.mp4", frames).read_bytes()


def same_length(seed: int) -> bytes:
    """Another film that is as long as film(0) to the byte: its padding is in a box that players skip."""
    other, n_bytes = film(seed, n_frames=20), len(film())
    padding = n_bytes - len(other)
    assert padding >= 8
    return other + padding.to_bytes(4, "big") + b"free" + bytes(padding - 8)


def table() -> list[Row]:
    other, shorter = film(1, n_frames=30), film(2, n_frames=3)
    cut, no_names = Fault(cut_after=CUT), {"etag": None}
    return [
        Row("the connection is cut three times", RESUMED, RESUMED, RETRIED, faults=(cut, cut, cut)),
        Row("every connection is cut after 20 kB", RESUMED, RESUMED, NOTHING_NEW, always=cut),
        Row("the connection stalls", RESUMED, RESUMED, RETRIED, faults=(Fault(stall_after=CUT),)),
        Row("it knows no Range, and the connection is cut", RESTARTED, RESTARTED, RETRIED, faults=(cut,),
            always=Fault(ignores_range=True)),
        Row("it knows no Range, and every connection is cut", NOTHING_NEW, NOTHING_NEW, NOTHING_NEW,
            always=Fault(ignores_range=True, cut_after=CUT)),
        Row("it does not say how long the file is", WHOLE, WHOLE, WHOLE, always=Fault(is_chunked=True)),
        Row("the same, and the connection is cut", RESUMED, RESUMED, RETRIED,
            faults=(Fault(is_chunked=True, cut_after=CUT),)),
        Row("503 twice", RETRIED, RETRIED, RETRIED, faults=(Fault(status=503),) * 2),
        Row("429 with Retry-After: 1", WAITED, WAITED, RETRIED,
            faults=(Fault(status=429, headers={"Retry-After": "1"}),)),
        Row("500 for ever", NOTHING_NEW, NOTHING_NEW, NOTHING_NEW, always=Fault(status=500)),
        Row("401", stops("answers 401"), stops("answers 401", requests=2), stops("answers 401", requests=2),
            always=Fault(status=401)),
        Row("403", stops("answers 403"), stops("answers 403", requests=2), stops("answers 403", requests=2),
            always=Fault(status=403)),
        Row("403 once, on an address that has expired", stops("answers 403"), WHOLE, RETRIED,
            faults=(Fault(status=403),)),
        Row("404", stops("answers 404"), stops("answers 404"), stops("answers 404"), always=Fault(status=404)),
        Row("410", stops("answers 410"), stops("answers 410"), stops("answers 410"), always=Fault(status=410)),
        Row("it says once that the file is longer than it is", RESTARTED, RESTARTED, RETRIED,
            faults=(Fault(length_lie=1000),)),
        Row("it always says so", NOTHING_NEW, NOTHING_NEW, NOTHING_NEW, always=Fault(length_lie=1000)),
        Row("it says that the file is larger than the disk", stops("no space left to download"),
            stops("no space left to download"), NOTHING_NEW, always=Fault(length_lie=10**15)),
        Row("it says that the file is shorter than it is", TRUNCATED, TRUNCATED, TRUNCATED,
            always=Fault(length_lie=-3000)),
        Row("the same, and a checksum is known", stops("is another file than expected"), TRUNCATED, TRUNCATED,
            always=Fault(length_lie=-3000), has_checksum=True),
        Row("cut, then another file with another ETag", RESTARTED, RESTARTED, MIXED, faults=(cut,), then=other,
            always=Fault(body=other, etag='"2"')),
        Row("the same, and it does not know If-Range", RESTARTED, RESTARTED, MIXED,
            faults=(cut, Fault(body=other, etag='"2"', ignores_if_range=True)), then=other,
            always=Fault(body=other, etag='"2"')),
        Row("cut, then another file with the same weak ETag", RESTARTED, RESTARTED, MIXED, faults=(cut,), then=other,
            always=Fault(body=other), film={"etag": 'W/"1"'}),
        Row("cut, then another file of another length, nothing named", RESTARTED, RESTARTED, MIXED, faults=(cut,),
            then=other, always=Fault(body=other), film=no_names),
        Row("cut, then another file of the same length, nothing named", RESTARTED, RESTARTED, MIXED, faults=(cut,),
            then=same_length(3), always=Fault(body=same_length(3)), film=no_names),
        Row("cut, then another file with the same strong ETag", RESTARTED, RESTARTED, MIXED, faults=(cut,),
            then=same_length(3), always=Fault(body=same_length(3))),
        Row("cut, then a file that ends before that (416)", RESTARTED, RESTARTED, MIXED, faults=(cut,), then=shorter,
            always=Fault(body=shorter), film=no_names),
        Row("cut, then a Content-Range that begins elsewhere", RESTARTED, RESTARTED, RETRIED,
            faults=(cut, Fault(range_shift=7))),
        Row("it packs the file although asked not to", stops("packed as gzip"), stops("packed as gzip"), WHOLE,
            always=Fault(is_packed=True)),
        Row("a redirect to where the file is", WHOLE, WHOLE, WHOLE,
            faults=(Fault(status=302, headers={"Location": "{moved}"}),)),
        Row("a redirect to ftp", stops("only http(s) is followed"), stops("only http(s) is followed"),
            stops("could not be read", requests=None), always=Fault(status=302, headers={"Location": "ftp://127.0.0.1/a"})),
        Row("redirects in a circle", stops("redirects more than 10 times", requests=10),
            stops("redirects more than 10 times", requests=10), stops("could not be read", requests=None),
            always=Fault(status=302, headers={"Location": "{itself}"})),
    ]  # fmt: skip


def as_markdown() -> str:
    """The table for docs/acquire.md."""
    lines = [
        "| the server, or the way to it | a plain file | yt-dlp, one file | yt-dlp, segments |",
        "|---|---|---|---|",
    ]
    for row in table():
        cells = [one if isinstance(one, str) else one[0] for one in row.outcomes.values()]
        lines.append(f"| {row.fault} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
