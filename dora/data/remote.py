"""A video from any address: a plain file is downloaded as it is, a page is yt-dlp's to read.

In this order: an address that ends like a manifest is yt-dlp's, so is one of a site that yt-dlp knows (a wiki's page
about a file ends like the file); one that ends like a video file is a file; of any other the server's Content-Type
decides.
"""

import mimetypes
import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dora.artifacts import Network
from dora.data import youtube
from dora.data.cookies import cookies
from dora.data.download import Patience, check_status, download, pause
from dora.data.source import Source
from dora.data.web import Interrupted, Web, public, require_extra
from dora.data.youtube import Fetched
from dora.progress import Progress, silent

FILES = {".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".ts", ".mpg", ".mpeg"}
MANIFESTS = {".m3u8", ".mpd"}


def fetch(
    url: str, folder: Path, network: Network, *, min_height: int = 1, min_fps: float = 0, sha256: str | None = None,
    progress: Progress = silent,
) -> Fetched:  # fmt: skip
    """The video behind an address as one whole file in `folder`, resumed if it was begun there before.

    Raises:
        ValueError, OSError: as dora.data.download.download and dora.data.youtube.fetch do, in a sentence.
    """
    suffix = file_suffix(url, network, progress=progress)
    if suffix is None:
        return youtube.fetch(url, folder, network, min_height=min_height, min_fps=min_fps, progress=progress)
    import httpx

    found = download(url, folder / f"video{suffix}", network, sha256=sha256, progress=progress)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    source = Source(
        kind="file", url=public(url), tool=f"httpx {httpx.__version__}", downloaded_at=now, size_bytes=found.size_bytes,
        etag=found.etag,
    )  # fmt: skip
    return Fetched(found.path, source, found.sha256)


def check(network: Network) -> None:
    """Refuse, before anything starts, what no download could work with.

    Raises:
        ValueError, FileNotFoundError, PermissionError: for a missing library, or a cookies file that is of no use.
    """
    require_extra()
    cookies(network)


def file_suffix(url: str, network: Network, *, progress: Progress = silent) -> str | None:
    """How the name of the plain file at this address ends, None if it is yt-dlp's."""
    suffix = Path(unquote(urlsplit(url).path)).suffix.lower()
    if suffix in MANIFESTS or youtube.is_known_site(url):
        return None
    if suffix in FILES:
        return suffix
    try:
        kind, name = _announced(url, network, progress)
    except PermissionError:  # some pages want a browser, which yt-dlp can pretend to be
        return None
    if not (
        kind.startswith("video/") or kind in ("application/octet-stream", "binary/octet-stream", "application/mp4")
    ):
        return None
    for ending in (Path(name).suffix.lower(), mimetypes.guess_extension(kind)):
        if ending in FILES:
            return ending
    return ".mp4"  # the content says what it is


def _announced(url: str, network: Network, progress: Progress) -> tuple[str, str]:
    """The Content-Type and the file name in the server's answer, of which only the beginning is read."""
    patience = Patience(network, url)
    with Web(network) as web:
        while True:
            try:
                with web.get(url) as answer:
                    check_status(answer, public(url), known=(200,))
                    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
                    named = re.search(r'filename="?([^";]+)', answer.headers.get("content-disposition", ""))
                    return kind, named[1] if named else ""
            except Interrupted as trouble:
                reason = str(trouble)
                wait_s = patience.wait_s(trouble, has_grown=False)
                pause(wait_s, lambda reason=reason: progress(0, float("inf"), "MB", reason))
