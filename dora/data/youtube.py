"""A video from a page, through yt-dlp: it finds the formats, we choose one and see that it arrives whole.

A format that is one file is downloaded by dora/data/download.py, because yt-dlp resumes without asking whether the
file is still the same; one in segments (HLS, DASH) by yt-dlp, after its unfinished work was brought into order.
"""

import contextlib
import gc
import io
import json
import logging
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import parse_qs, urlsplit

from dora.artifacts import Network
from dora.cache import human_size
from dora.data.cookies import cookies
from dora.data.disk import require_space
from dora.data.download import MAX_WAIT_S, Patience, download, pause
from dora.data.segments import Journal
from dora.data.source import Source
from dora.data.trouble import Log, translated
from dora.data.web import Interrupted, public, redact, require_extra
from dora.progress import Progress, silent

log = logging.getLogger("dora.youtube")

# Among equals in size and rate: what decodes fastest, then what decodes everywhere. One thread of the ffmpeg we ship
# took 12 ms for a frame of a noisy 4K film as AV1 (dav1d), 21 as VP9, 23 as H.264, 20 as HEVC, all asked for 25 Mbit/s.
CODECS = ("av01", "vp9", "vp09", "avc", "h264", "hev", "hvc", "vp8")
_SEGMENTED = ("m3u8", "m3u8_native", "http_dash_segments")
_PLAIN = ("http", "https")
_HEADERS = ("User-Agent", "Accept", "Accept-Language", "Referer", "Origin")  # what it sends besides is our affair

T = TypeVar("T")
Info = dict[str, Any]  # yt-dlp's, of a video or a format


class Fetched(NamedTuple):
    """A whole file, and where it came from."""

    path: Path
    source: Source
    sha256: str | None = None  # if it was met on the way


def fetch(
    url: str, folder: Path, network: Network, *, min_height: int = 1, min_fps: float = 0, progress: Progress = silent
) -> Fetched:
    """The best pictures of the page's video as one file in `folder`, resumed if it was begun there before.

    Best is: most rows, then most frames a second, then without sound, then the codec that decodes fastest, then the
    smaller file; never HDR if there is another.

    Raises:
        ValueError: if the page is a list or a live stream, or offers nothing good enough (listing what it does).
        FileNotFoundError, PermissionError: if the video is gone, or not for us.
        ConnectionError: after `network.retries` tries in a row without anything new.
    """
    require_extra()
    folder.mkdir(parents=True, exist_ok=True)
    page, most = _Page(url, network, progress), -1
    with contextlib.closing(page):
        while True:
            info = page.ask(min_height=min_height, min_fps=min_fps)
            path = folder / f"video.{info['ext']}"
            try:
                page.receive(info, path)
            except PermissionError as error:  # addresses of formats are valid for some hours only
                if (have := _arrived_bytes(path)) <= most:
                    raise
                most = have
                log.info("%s; asking the page for a new address", error)
                continue
            return Fetched(path, _source(url, info, path))


def is_known_site(url: str) -> bool:
    """Whether yt-dlp has more than a guess about this address.

    Raises:
        ValueError: if it is not installed.
    """
    require_extra()
    from yt_dlp.extractor import gen_extractor_classes

    return any(one.suitable(url) for one in gen_extractor_classes() if one.ie_key() != "Generic")


def choose(formats: Sequence[Info], *, min_height: int, min_fps: float) -> Info | None:
    """The best format with pictures that is good enough, or may be: some pages do not say."""
    fit = [
        one
        for one in formats
        if one.get("vcodec") != "none"
        and (one.get("protocol") in _PLAIN + _SEGMENTED)
        and (one.get("height") or min_height) >= min_height
        and (one.get("fps") or min_fps) >= 0.99 * min_fps  # 59.94 is called 60
        and not one.get("has_drm")
    ]
    return max(fit, key=_goodness, default=None)


def _goodness(one: Info) -> tuple[float, ...]:
    codec = (one.get("vcodec") or "").lower()
    rank = next((place for place, name in enumerate(CODECS) if codec.startswith(name)), len(CODECS))
    return (
        "HDR" not in (one.get("dynamic_range") or "SDR"),
        one.get("height") or 0,
        round(one.get("fps") or 0),
        one.get("acodec") == "none",
        one.get("protocol") in _PLAIN,
        -rank,
        -(_size(one) or sys.maxsize),
    )


def _size(one: Info) -> int | None:
    return one.get("filesize") or one.get("filesize_approx")


class _Page:
    """One address as yt-dlp sees it, with nothing of the user's but what Network says."""

    def __init__(self, url: str, network: Network, progress: Progress):
        from yt_dlp import YoutubeDL

        self.url, self.network, self.progress = url, network, progress
        self.patience = Patience(network, url)
        self.offered: list[Info] = []
        self.good_enough: Callable[[Sequence[Info]], Info | None] = lambda formats: None
        self.on_segment: Callable[[], None] = lambda: None
        self.interruption: BaseException | None = None
        self.tool: Any = self._run(lambda: YoutubeDL(cast(Any, self._options())))

    def close(self) -> None:
        """End its connections."""
        self.tool.close()

    def ask(self, *, min_height: int, min_fps: float) -> Info:
        """What the page says about its video, with the chosen format's facts among it."""
        self.good_enough = partial(choose, min_height=min_height, min_fps=min_fps)
        while True:
            try:
                info = self._run(lambda: self.tool.extract_info(self.url, download=False))
                _check_one_video(self.url, info)
                info["cookie_header"] = self.tool.cookiejar.get_cookie_header(info["url"])
                return info
            except _NotGoodEnough:
                raise ValueError(_refusal(self.url, self.offered, min_height=min_height, min_fps=min_fps)) from None
            except Interrupted as trouble:
                self._wait(trouble)

    def receive(self, info: Info, path: Path) -> None:
        """The chosen format at `path`, whole."""
        if info.get("protocol") not in _PLAIN:
            self._receive_segments(info, path)
            return
        headers = {name: value for name, value in (info.get("http_headers") or {}).items() if name in _HEADERS}
        if info["cookie_header"]:
            headers["Cookie"] = info["cookie_header"]
        download(
            info["url"], path, self.network, size_bytes=info.get("filesize"), progress=self.progress,
            identity=_identity(info), headers=headers,
            chunk_bytes=(info.get("downloader_options") or {}).get("http_chunk_size"),
        )  # fmt: skip

    def _receive_segments(self, info: Info, path: Path) -> None:
        """The segments one after the other; a run that was killed goes on after the last one that is whole."""
        journal = Journal(path, _identity(info))
        if journal.is_finished():
            return
        self.on_segment = journal.note
        while True:
            before = journal.recover()
            have = journal.part.stat().st_size if journal.part.exists() else 0
            require_space(path.parent, max(0, (_size(info) or 0) - have), f"download {path.name}")
            try:
                succeeded, _ = self._run(lambda: self.tool.dl(str(path), info))
                if not succeeded:
                    raise Interrupted("yt-dlp gave up without a reason")
                journal.finish()
                return
            except Interrupted as trouble:
                now = journal.recover()
                self._wait(trouble, has_grown=now > before, kept=f"{now} segments")

    def _run(self, call: Callable[[], T]) -> T:
        """What a call of yt-dlp's returns; what it raises becomes one sentence, or Interrupted if a retry may help."""
        self.interruption = None
        try:
            return call()
        except (_NotGoodEnough, Interrupted):
            raise
        except Exception as error:
            if self.interruption is None and isinstance(error, ValueError | OSError):
                raise
            problem = self.interruption or translated(self.url, error)
        # Here, so that none of yt-dlp's frames and secrets hang on it, nor its files, which it leaves open and locked.
        gc.collect()
        raise problem

    def _wait(self, trouble: Interrupted, *, has_grown: bool = False, kept: str = "") -> None:
        wait_s = self.patience.wait_s(trouble, has_grown=has_grown, kept=kept)
        pause(wait_s, lambda: self.progress(0, float("inf"), "MB", str(trouble)))

    def _select(self, context: Mapping[str, Any]) -> list[Info]:
        self.offered = context["formats"]
        chosen = self.good_enough(self.offered)
        if chosen is None:
            raise _NotGoodEnough
        return [chosen]

    def _told(self, status: Info) -> None:
        try:
            if status["status"] == "downloading":
                self.on_segment()
            done = status.get("downloaded_bytes") or 0
            total = status.get("total_bytes") or status.get("total_bytes_estimate") or float("inf")
            self.progress(done / 1e6, max(total, done, 1) / 1e6, "MB")
        except BaseException as error:  # of whoever listens, and not yt-dlp's to explain
            self.interruption = error
            raise

    def _options(self) -> dict[str, Any]:
        network = self.network
        text = cookies(network)
        return {
            "format": self._select, "noplaylist": True, "extract_flat": "in_playlist",
            "skip_unavailable_fragments": False,
            # Retries are ours, so that only those in a row count; yt-dlp has its own while it reads a page.
            "retries": 0, "fragment_retries": 0, "extractor_retries": 1,
            "retry_sleep_functions": {"extractor": self._extractor_wait_s},
            "socket_timeout": network.timeout_s, "ratelimit": network.rate_limit, "hls_prefer_native": True,
            "proxy": network.proxy.get_secret_value() if network.proxy else None,
            # In memory: yt-dlp writes back what it was given.
            "cookiefile": io.StringIO(text) if text else None,
            "logger": Log(), "quiet": True, "noprogress": True, "color": "never", "progress_hooks": [self._told],
            "cachedir": False, "updatetime": False, "fixup": "never",
        }  # fmt: skip

    def _extractor_wait_s(self, n: int) -> float:
        return min(self.network.first_wait_s * 2**n, MAX_WAIT_S)


def _check_one_video(url: str, info: Info | None) -> None:
    said = public(url)
    if not info:
        raise ValueError(f"{said} has no video that yt-dlp can find. Give the address of one video.")
    if info.get("_type") in ("playlist", "multi_video"):
        entries = list(info.get("entries") or [])
        some = ", ".join(str(one.get("url") or one.get("id")) for one in entries[:3] if one)
        raise ValueError(
            f"{said} is a list of {len(entries)} videos. Give the addresses of single videos, or a text file with one "
            f"a line{f' (the first: {redact(some)})' if some else ''}."
        )
    if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming", "post_live"):
        raise ValueError(f"{said} is a live stream, which has no end yet. Wait until its recording is there.")
    if info.get("has_drm") or not info.get("url"):
        raise ValueError(f"{said} offers nothing that can be downloaded (protected?). Find another source.")


def _arrived_bytes(path: Path) -> int:
    """How much of a file is there, be it our downloader's or yt-dlp's."""
    parts = path.with_name(f".{path.name}.part"), path.with_name(f"{path.name}.part")
    return sum(part.stat().st_size for part in parts if part.exists())


def _identity(info: Info) -> str:
    """Which file a format is, however its address changes: YouTube's carries the time of its making.

    So does the path of its HLS lists, with a signature: what is in segments is known without its address.
    """
    parts = [info.get("extractor_key"), info.get("id"), info.get("format_id"), info.get("ext"), info.get("filesize")]
    if info.get("protocol") in _SEGMENTED:
        fragments = info.get("fragments")
        return json.dumps([*parts, len(fragments) if isinstance(fragments, list) else _size(info)])
    query = parse_qs(urlsplit(info["url"]).query)
    return json.dumps([*parts, query.get("lmt"), query.get("clen"), urlsplit(info["url"]).path])


def _source(url: str, info: Info, path: Path) -> Source:
    from yt_dlp.version import __version__

    licence = info.get("license")
    return Source(
        kind=(info.get("extractor") or "page").lower(),
        url=_page(url, info),
        tool=f"yt-dlp {__version__}",
        downloaded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        size_bytes=path.stat().st_size,
        id=info.get("id"),
        format_id=info.get("format_id"),
        duration_s=info.get("duration"),
        fps=info.get("fps"),
        width=info.get("width"),
        height=info.get("height"),
        codec=info.get("vcodec"),
        licence="CC BY" if "Creative Commons Attribution" in (licence or "") else licence,
        title=info.get("title"),
        uploader=info.get("uploader"),
        upload_date=info.get("upload_date"),
    )


def _page(url: str, info: Info) -> str:
    """The page's address; YouTube's says which video only in its query, where nothing is secret."""
    if info.get("extractor_key") == "Youtube":
        return f"https://www.youtube.com/watch?v={info['id']}"
    return public(info.get("webpage_url") or url)


class _NotGoodEnough(Exception):
    """No format passes."""


def _refusal(url: str, offered: Sequence[Info], *, min_height: int, min_fps: float) -> str:
    wanted = f"{min_height} rows" + (f" and {min_fps:g} frames a second" if min_fps else "")
    rows = [f"  {'id':<12} {'size':<10} {'fps':<5} {'codec':<14} bytes"]
    for one in offered:
        if one.get("vcodec") != "none":
            size = f"{one.get('width') or '?'}x{one.get('height') or '?'}"
            n_bytes = human_size(_size(one) or 0) if _size(one) else "?"
            codec, fps = one.get("vcodec") or "?", one.get("fps")
            rows.append(f"  {one['format_id']:<12} {size:<10} {f'{fps:g}' if fps else '?':<5} {codec:<14} {n_bytes}")
    lines = [f"{public(url)} is wanted with {wanted}, but offers only:", *rows]
    lines.append(f"Lower min_height{' or min_fps' if min_fps else ''} in the recipe, or find another source.")
    if not has_javascript():
        lines.append(f"{NO_JAVASCRIPT} Install it first: pip install -e '.[acquire]'.")
    return "\n".join(lines)


NO_JAVASCRIPT = "No deno was found, and without this JavaScript runtime YouTube hides most formats."


def has_javascript() -> bool:
    """Whether yt-dlp will find deno: beside this Python, or on PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "deno"
    return os.access(beside, os.X_OK) or shutil.which("deno") is not None
