"""Pages through the real yt-dlp: which format is taken, what is refused and how, kills, secrets."""

import gc
import json
import logging
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_server import Fault, File, Site, m3u8, m3u8_master, mpd, noise, serving
from fault_table import film
from yt_dlp.utils import DownloadError

from dora.artifacts import Network
from dora.data import remote, youtube
from dora.data.trouble import translated
from dora.data.web import Interrupted, redact, shareable

# yt-dlp leaves files and connections to the garbage collector when a request fails.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <(_io|socket):pytest.PytestUnraisableExceptionWarning"
)

NETWORK = Network(first_wait_s=0.01, timeout_s=2, retries=2)
DASH, HLS = "application/dash+xml", "application/vnd.apple.mpegurl"
SIZES = ((640, 360, 30), (1280, 720, 60), (1920, 1080, 30), (3840, 2160, 30), (3840, 2160, 60))


@pytest.fixture(autouse=True)
def nothing_is_left_to_the_next_test() -> Iterator[None]:
    """What yt-dlp leaves to the garbage collector is warned about here, where that is ignored."""
    yield
    gc.collect()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def ladder(site: Site, kind: str, sizes: tuple[tuple[int, int, int], ...] = SIZES) -> str:
    """A page that offers a film in many sizes; the film of each is another, so that one knows which was taken."""
    formats: list[dict[str, Any]] = []
    for seed, (width, height, fps) in enumerate(sizes):
        name = f"{height}p{fps}"
        site.put(f"{name}.mp4", film(seed))
        site.put(f"{name}.m3u8", m3u8([f"{name}.mp4"]), kind=HLS)
        url = f"{name}.{'m3u8' if kind == 'hls' else 'mp4'}"
        formats.append({"id": name, "url": url, "width": width, "height": height, "fps": fps})
    if kind == "hls":
        return site.put("film.m3u8", m3u8_master(*formats), kind=HLS)
    return site.put("film.mpd", mpd(*formats), kind=DASH)


@pytest.mark.parametrize("kind", ["dash", "hls"])
def test_the_most_rows_and_then_the_most_frames_are_taken(site: Site, tmp_path: Path, kind: str):
    found = remote.fetch(ladder(site, kind), tmp_path, NETWORK, min_height=2160, min_fps=60)
    assert found.path.read_bytes() == film(4)
    source = found.source
    assert (source.height, source.width, source.fps, source.size_bytes) == (2160, 3840, 60, len(film(4)))
    assert source.tool.startswith("yt-dlp 20") and source.url == site.url(f"film.{'m3u8' if kind == 'hls' else 'mpd'}")
    assert not site.files["/2160p30.mp4"].asked


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"min_height": 2160}, "is wanted with 2160 rows, but offers only:"),
        ({"min_fps": 50.0}, "is wanted with 1 rows and 50 frames a second, but offers only:"),
    ],
)
def test_too_little_is_refused_with_what_is_offered(site: Site, tmp_path: Path, wanted: dict[str, Any], says: str):
    url = ladder(site, "dash", ((640, 360, 30), (1920, 1080, 30)))
    with pytest.raises(ValueError, match="Lower min_height") as error:
        remote.fetch(url, tmp_path, NETWORK, **wanted)
    first, _, *rows = str(error.value).splitlines()
    assert says in first
    assert [row.split()[:4] for row in rows[:2]] == [
        ["360p30", "640x360", "30", "avc1.640028"], ["1080p30", "1920x1080", "30", "avc1.640028"],
    ]  # fmt: skip
    assert not list(tmp_path.rglob("*.mp4*"))


def offer(name: str, **more: Any) -> dict[str, Any]:
    return {"format_id": name, "protocol": "https", "vcodec": "vp9", "acodec": "none", "height": 2160, "fps": 60} | more


@pytest.mark.parametrize(
    ("formats", "taken"),
    [
        ([offer("315"), offer("401", vcodec="av01.0.13M.08"), offer("305", vcodec="avc1.640033")], "401"),
        ([offer("266", vcodec="avc1"), offer("hevc", vcodec="hvc1"), offer("315")], "315"),
        ([offer("315"), offer("337", vcodec="vp9.2", dynamic_range="HDR10")], "315"),
        ([offer("315"), offer("299", height=1080, vcodec="avc1")], "315"),
        ([offer("313", fps=30), offer("315")], "315"),
        ([offer("with sound", acodec="opus"), offer("without")], "without"),
        ([offer("segments", protocol="m3u8_native"), offer("file")], "file"),
        ([offer("big", filesize=9), offer("small", filesize=5), offer("unknown")], "small"),
        ([offer("sound", vcodec="none", height=None), offer("pictures")], "pictures"),
        ([offer("locked", has_drm=True), offer("open", height=720)], "open"),
        ([offer("59.94", fps=59.94)], "59.94"),
        ([offer("silent about it", height=None, fps=None)], "silent about it"),
        ([offer("flash", protocol="rtmp")], None),
    ],
)
def test_among_formats_the_better_one_is_taken(formats: list[dict[str, Any]], taken: str | None):
    for order in (formats, formats[::-1]):
        chosen = youtube.choose(order, min_height=720, min_fps=60)
        assert (chosen and chosen["format_id"]) == taken


def test_a_format_that_changed_between_runs_is_begun_anew(site: Site, tmp_path: Path):
    url = ladder(site, "dash", ((640, 360, 30),))
    site.files["/360p30.mp4"].faults = [Fault(cut_after=20_000), Fault(status=404)]
    with pytest.raises(FileNotFoundError):
        remote.fetch(url, tmp_path, NETWORK)
    assert list(tmp_path.glob(".video.mp4.part"))
    better = ladder(site, "dash", ((640, 360, 30), (1280, 720, 60)))
    assert better == url
    assert remote.fetch(url, tmp_path, NETWORK).path.read_bytes() == film(1)


def test_an_expired_address_is_replaced_by_a_new_one_and_the_rest_is_fetched_there(site: Site, tmp_path: Path):
    url = ladder(site, "dash", ((640, 360, 30),))
    site.files["/360p30.mp4"].faults = [Fault(cut_after=30_000), Fault(status=403)]
    assert remote.fetch(url, tmp_path, NETWORK).path.read_bytes() == film(0)
    assert [status for status, _ in site.files["/360p30.mp4"].served] == [200, 403, 206]


def test_an_address_may_expire_as_often_as_something_has_arrived_since(site: Site, tmp_path: Path):
    url, expired = ladder(site, "dash", ((640, 360, 30),)), Fault(status=403)
    site.files["/360p30.mp4"].faults = [Fault(cut_after=30_000), expired, Fault(cut_after=30_000), expired]
    assert remote.fetch(url, tmp_path, NETWORK).path.read_bytes() == film(0)
    assert [status for status, _ in site.files["/360p30.mp4"].served] == [200, 403, 206, 403, 206]


def test_a_page_that_is_busy_is_asked_again(site: Site, tmp_path: Path):
    url = ladder(site, "dash")
    site.files["/film.mpd"].faults = [Fault(status=503), Fault(status=429, headers={"Retry-After": "1"})]
    started = time.monotonic()
    assert remote.fetch(url, tmp_path, NETWORK).path.read_bytes() == film(4)
    assert time.monotonic() - started >= 1


def test_live_streams_lists_and_empty_pages_are_refused(site: Site, tmp_path: Path):
    site.put("a.mp4", film())
    live = site.put("live.m3u8", m3u8(["a.mp4"], is_live=True), kind=HLS)
    page = b"<html><body><video src='a.mp4'></video><video src='b.mp4'></video></body></html>"
    several = site.put("several", page, kind="text/html")
    empty = site.put("empty", b"<html><body>nothing</body></html>", kind="text/html")
    for url, says in ((live, "is a live stream"), (several, "is a list of 2 videos"), (empty, "finds no video there")):
        with pytest.raises(ValueError, match=says):
            remote.fetch(url, tmp_path, NETWORK)


@pytest.mark.parametrize(
    ("says", "kind", "hint"),
    [
        ("[youtube] x: Private video. Sign in if you've been granted access", PermissionError, "ask its owner"),
        ("[youtube] x: Video unavailable. This video has been removed by the uploader", FileNotFoundError, "a mirror"),
        ("[youtube] x: This video is no longer available because the account has been terminated", FileNotFoundError,
         "a mirror"),
        ("[youtube] x: The uploader has not made this video available in your country", PermissionError,
         "network.proxy"),
        ("[youtube] x: Sign in to confirm you’re not a bot. Use --cookies", PermissionError, "takes this machine"),
        ("[youtube] x: Sign in to confirm your age", PermissionError, "adults"),
        ("[youtube] x: Join this channel to get access to members-only content", PermissionError, "network.cookies"),
        ("[youtube] x: Premieres in 2 hours", ValueError, "has not been shown yet"),
        ("unable to download video data: HTTP Error 403: Forbidden", PermissionError, "answers 403"),
        ("unable to download webpage: HTTP Error 404: Not Found", FileNotFoundError, "answers 404"),
        ("[x] Unable to extract video data; please report this issue on https://x", ValueError, "pip install"),
        ("unable to download webpage: HTTP Error 429: Too Many Requests", Interrupted, "429"),
        ("unable to download webpage: HTTP Error 503: Service Unavailable", Interrupted, "503"),
        ("The read operation timed out", Interrupted, "timed out"),
    ],
)  # fmt: skip
def test_what_yt_dlp_says_becomes_a_sentence_that_says_what_to_do(says: str, kind: type[Exception], hint: str):
    problem = translated("https://youtube.com/watch?v=x&key=hidden", DownloadError(f"ERROR: {says}"))
    assert type(problem) is kind and hint in str(problem) and "\n" not in str(problem)
    assert "hidden" not in str(problem) and "please report" not in str(problem)


def test_addresses_in_messages_lose_their_secrets():
    said = redact("GET 'https://me:pw@host.test/videoplayback?sig=hidden' via http://user:hidden@proxy:3128: failed")
    assert said == "GET 'https://host.test/videoplayback' via http://proxy:3128: failed"
    listed = redact('videos=["https://me:pw@host.test/a.mp4?key=hidden", "https://youtu.be/fGX0Te6pFvk?si=hidden"]')
    assert listed == 'videos=["https://host.test/a.mp4", "https://www.youtube.com/watch?v=fGX0Te6pFvk"]'


def test_values_that_are_shown_to_others_lose_the_secrets_of_addresses_and_nothing_else():
    asked = {
        "videos": ("https://me:p'hidden@host.test/a.mp4?sig=x'hidden", "venice", "a=b.mp4"),
        "overrides": ['videos.0.url=https://me:pw@host.test/b"hidden.mp4?key=hidden', "pretrain.epochs=3"],
        "n": 3,
    }
    said = shareable(asked)
    assert said["videos"] == ["https://host.test/a.mp4", "venice", "a=b.mp4"] and said["n"] == 3
    assert said["overrides"][0].startswith("videos.0.url=https://host.test/b") and "key" not in said["overrides"][0]
    assert said["overrides"][1] == "pretrain.epochs=3"


COOKIE = "127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\thidden-crumb\n"


def test_cookies_are_sent_and_nothing_else_becomes_of_them(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG, "dora")
    file = tmp_path / "cookies.txt"
    file.write_text("# Netscape HTTP Cookie File\n" + COOKIE)
    file.chmod(0o400)
    before = file.stat().st_mtime_ns
    url = ladder(site, "dash")
    remote.fetch(url, tmp_path / "out", NETWORK.model_copy(update={"cookies": file}))
    for name in ("/film.mpd", "/2160p60.mp4"):
        assert site.files[name].asked[0]["cookie"] == "session=hidden-crumb"
    assert file.stat().st_mtime_ns == before and file.read_text().endswith(COOKIE)
    written = "".join(path.read_text(errors="replace") for path in (tmp_path / "out").iterdir())
    assert "hidden-crumb" not in caplog.text + written


@pytest.mark.parametrize(
    "bad", ["session=hidden-crumb\n", '[{"hidden-crumb": 1}]', COOKIE.replace("\t0\t", "\tsoon\t")]
)
def test_a_line_that_is_no_cookie_is_refused_unquoted(tmp_path: Path, bad: str, capfd: pytest.CaptureFixture[str]):
    file = tmp_path / "cookies.txt"
    file.write_text(COOKIE + bad)
    with pytest.raises(ValueError, match=r"line 2 of the cookies file .* is no cookie") as error:
        remote.check(NETWORK.model_copy(update={"cookies": file}))
    assert "crumb" not in str(error.value) + "".join(capfd.readouterr())


def test_yt_dlp_goes_through_the_proxy_too(site: Site, tmp_path: Path):
    manifest = mpd({"id": "1", "url": "a.mp4", "width": 64, "height": 48, "fps": 12})
    site.files["http://nowhere.test/film.mpd"] = File(manifest, kind=DASH)
    site.files["http://nowhere.test/a.mp4"] = File(film())
    proxied = Network.model_validate({"proxy": site.url("").replace("//", "//me:secret@"), "first_wait_s": 0.01})
    assert remote.fetch("http://nowhere.test/film.mpd", tmp_path, proxied).path.read_bytes() == film()


def test_the_users_configuration_of_yt_dlp_is_not_read(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "yt-dlp").mkdir()
    (tmp_path / "yt-dlp" / "config").write_text("--proxy http://127.0.0.1:1\n--format worst\n")
    assert remote.fetch(ladder(site, "dash"), tmp_path / "out", NETWORK).path.read_bytes() == film(4)


@pytest.mark.parametrize(
    ("path", "kind", "suffix"),
    [
        ("walk.mp4", "text/html", ".mp4"),
        ("wiki/File:Walk.webm", "text/html", ".webm"),
        ("walk.MKV", "", ".mkv"),
        ("ndownloader/files/1", "application/octet-stream", ".mp4"),
        ("ndownloader/files/2", "video/webm", ".webm"),
        ("watch", "text/html; charset=utf-8", None),
        ("list.m3u8", "application/octet-stream", None),
        ("film.mpd", "video/mp4", None),
    ],
)
def test_what_is_a_plain_file_is_decided_by_name_and_then_by_type(site: Site, path: str, kind: str, suffix: str | None):
    assert remote.file_suffix(site.put(path, b"x", kind=kind), NETWORK) == suffix


@pytest.mark.parametrize(
    "url",
    [
        "https://www.youtube.com/watch?v=fGX0Te6pFvk",
        "https://commons.wikimedia.org/wiki/File:Walk.webm",  # pages, although they end like files
        "https://archive.org/details/walk.mp4",
    ],
)
def test_a_known_site_is_not_asked_what_it_serves(url: str):
    assert remote.file_suffix(url, NETWORK) is None


def test_a_file_that_lies_at_a_known_site_is_a_file():
    for url in (
        "https://upload.wikimedia.org/wikipedia/commons/a/ab/Walk.webm",
        "https://archive.org/download/w/w.webm",
    ):
        assert remote.file_suffix(url, NETWORK) == ".webm"


def segmented(site: Site, body: bytes, n_segments: int) -> str:
    names = [f"s-{number}" for number in range(n_segments)]
    for number, name in enumerate(names):
        site.put(name, body[number * len(body) // n_segments : (number + 1) * len(body) // n_segments])
    return site.put("film.m3u8", m3u8(names), kind=HLS)


class Cancelled(Exception):
    """As a cancelled run."""


def test_segments_go_on_after_a_cancelled_run_whatever_state_it_left(site: Site, tmp_path: Path):
    body = noise(200_000)
    url, part, ytdl = segmented(site, body, 10), tmp_path / "video.mp4.part", tmp_path / "video.mp4.ytdl"

    def cancel(done: float, total: float, unit: str, note: str = "") -> None:
        if part.exists() and part.stat().st_size >= 100_000:
            raise Cancelled

    def broken_index() -> None:
        ytdl.write_text("")

    def one_too_many() -> None:
        part.write_bytes(part.read_bytes() + site.files["/s-5"].body)

    def half_a_segment() -> None:
        part.write_bytes(part.read_bytes() + site.files["/s-5"].body[:777])

    for spoil in (lambda: None, broken_index, one_too_many, half_a_segment):
        with pytest.raises(Cancelled):
            remote.fetch(url, tmp_path, NETWORK, progress=cancel)
        spoil()
        site.files["/s-2"].asked.clear()
        assert remote.fetch(url, tmp_path, NETWORK).path.read_bytes() == body
        assert not site.files["/s-2"].asked  # it was there
        for path in tmp_path.iterdir():
            path.unlink()


def test_segments_go_on_although_the_addresses_of_their_lists_change(site: Site, tmp_path: Path):
    """As YouTube's do, whose paths hold when they expire and a signature."""
    body, part = noise(200_000), tmp_path / "video.mp4.part"
    segmented(site, body, 10)

    def page(signature: str) -> str:
        site.put(f"{signature}/list.m3u8", m3u8([f"../../s-{number}" for number in range(10)]), kind=HLS)
        one = {"url": f"{signature}/list.m3u8", "width": 640, "height": 360, "fps": 30}
        return site.put("page.m3u8", m3u8_master(one), kind=HLS)

    def cancel(done: float, total: float, unit: str, note: str = "") -> None:
        if part.exists() and part.stat().st_size >= 100_000:
            raise Cancelled

    with pytest.raises(Cancelled):
        remote.fetch(page("expire/1"), tmp_path, NETWORK, progress=cancel)
    assert remote.fetch(page("expire/2"), tmp_path, NETWORK).path.read_bytes() == body
    assert len(site.files["/expire/2/list.m3u8"].asked) > 0 and len(site.files["/s-2"].asked) == 1


def test_finished_segments_are_not_fetched_again(site: Site, tmp_path: Path):
    url = segmented(site, film(), 3)
    for _ in range(2):
        assert remote.fetch(url, tmp_path, NETWORK).path.read_bytes() == film()
    assert len(site.files["/s-1"].asked) == 1


CHILD = """
import sys
from pathlib import Path
from dora.artifacts import Network
from dora.data import remote

remote.fetch(sys.argv[1], Path(sys.argv[2]), Network(first_wait_s=0.01, rate_limit=2e6))
"""


@pytest.mark.slow
def test_segments_that_are_killed_again_and_again_have_the_same_bytes(site: Site, tmp_path: Path):
    body, rng = noise(4_000_000), random.Random(0)
    url, part = segmented(site, body, 200), tmp_path / "video.mp4.part"
    for _ in range(6):
        before = part.stat().st_size if part.exists() else 0
        child = subprocess.Popen([sys.executable, "-c", CHILD, url, str(tmp_path)])
        while child.poll() is None and not (part.exists() and part.stat().st_size > before):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert json.loads((tmp_path / ".video.mp4.segments.json").read_text())["count"] > 6
    assert remote.fetch(url, tmp_path, NETWORK).path.read_bytes() == body
