"""Downloads of plain files: kills, limits, secrets. What servers can do to them is in test_faults.py."""

import hashlib
import logging
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import Fault, File, Site, noise, serving

from dora.artifacts import Network
from dora.data.download import OVERLAP_BYTES, download
from dora.data.web import public, retry_after_s

NETWORK = Network(first_wait_s=0.01, timeout_s=2, retries=2)
BODY = noise(200_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def test_a_file_arrives_whole_with_its_facts_and_nothing_beside_it(site: Site, tmp_path: Path):
    url = site.put("a.bin", BODY)
    found = download(url, tmp_path / "new" / "a.bin", NETWORK, size_bytes=len(BODY), sha256=SHA256.upper())
    assert found == (tmp_path / "new" / "a.bin", len(BODY), SHA256, url, '"1"')
    assert found.path.read_bytes() == BODY and list(found.path.parent.iterdir()) == [found.path]
    assert site.files["/a.bin"].asked[0]["accept-encoding"] == "identity"


def test_an_empty_file_is_a_file(site: Site, tmp_path: Path):
    assert download(site.put("a.bin", b""), tmp_path / "a.bin", NETWORK).size_bytes == 0


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"md5": hashlib.md5(BODY).hexdigest()}])
def test_a_file_that_is_there_with_the_right_checksum_is_not_asked_for(
    site: Site, tmp_path: Path, known: dict[str, str]
):
    url = site.put("a.bin", BODY)
    for _ in range(2):
        assert download(url, tmp_path / "a.bin", NETWORK, **known).sha256 == SHA256
    assert len(site.files["/a.bin"].asked) == 1
    (tmp_path / "a.bin").write_bytes(b"damaged")
    download(url, tmp_path / "a.bin", NETWORK, **known)
    assert (tmp_path / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({"sha256": "0" * 64}, f"sha256 {SHA256}, expected {'0' * 64}"),
        ({"md5": "0" * 32}, f"md5 {hashlib.md5(BODY).hexdigest()}, expected {'0' * 32}"),
        ({"size_bytes": 7}, "200000 bytes, expected 7"),
    ],
)
def test_another_file_than_expected_is_removed_and_told(site: Site, tmp_path: Path, known: dict[str, str], says: str):
    with pytest.raises(ValueError, match="another file than expected") as error:
        download(site.put("a.bin", BODY), tmp_path / "a.bin", NETWORK, **known)
    assert says in str(error.value)
    assert list(tmp_path.iterdir()) == []


class Cancelled(BaseException):
    """As a cancelled run."""


def test_a_cancelled_download_goes_on_from_there(site: Site, tmp_path: Path):
    url = site.put("a.bin", BODY)

    def cancel(done: float, total: float, unit: str, note: str = "") -> None:
        assert (total, unit) == (0.2, "MB")
        if done > 0.1:
            raise Cancelled

    with pytest.raises(Cancelled):
        download(url, tmp_path / "a.bin", NETWORK, progress=cancel)
    kept = (tmp_path / ".a.bin.part").stat().st_size
    assert 100_000 < kept and not (tmp_path / "a.bin").exists()
    download(url, tmp_path / "a.bin", NETWORK)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert site.files["/a.bin"].served[-1] == (206, len(BODY) - kept + OVERLAP_BYTES)


def test_a_cancelled_check_costs_no_second_download(site: Site, tmp_path: Path):
    url = site.put("a.bin", BODY)

    def cancel(done: float, total: float, unit: str, note: str = "") -> None:
        if note == "checking":
            raise Cancelled

    with pytest.raises(Cancelled):
        download(url, tmp_path / "a.bin", NETWORK, progress=cancel)
    download(url, tmp_path / "a.bin", NETWORK, sha256=SHA256)
    assert len(site.files["/a.bin"].asked) == 1


@pytest.mark.parametrize(("etag", "status"), [('"1"', 206), ('W/"1"', 200), (None, 200)])
def test_a_signed_address_that_changed_resumes_only_a_file_that_has_a_name(
    site: Site, tmp_path: Path, etag: str | None, status: int
):
    url = site.put("a.bin", BODY, etag=etag)
    site.files["/a.bin"].faults = [Fault(cut_after=50_000), Fault(status=404)]
    with pytest.raises(FileNotFoundError):
        download(url + "?signature=old", tmp_path / "a.bin", NETWORK)
    download(url + "?signature=new", tmp_path / "a.bin", NETWORK)
    assert (tmp_path / "a.bin").read_bytes() == BODY and site.files["/a.bin"].served[-1][0] == status


def test_a_file_with_an_identity_is_resumed_at_any_address(site: Site, tmp_path: Path):
    url = site.put("a.bin", BODY, etag=None)
    site.files["/a.bin"].faults = [Fault(cut_after=50_000), Fault(status=404)]
    with pytest.raises(FileNotFoundError):
        download(url + "?old", tmp_path / "a.bin", NETWORK, identity="video 1")
    download(url + "?new", tmp_path / "a.bin", NETWORK, identity="video 1")
    assert (tmp_path / "a.bin").read_bytes() == BODY and site.files["/a.bin"].served[-1][0] == 206


def test_a_record_of_a_crash_is_only_a_slower_download(site: Site, tmp_path: Path):
    (tmp_path / ".a.bin.part").write_bytes(b"?" * 1000)
    (tmp_path / ".a.bin.part.json").write_text('{"half')
    download(site.put("a.bin", BODY), tmp_path / "a.bin", NETWORK)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_zeros_that_a_crash_left_at_the_end_are_found(site: Site, tmp_path: Path):
    url = site.put("a.bin", BODY)
    site.files["/a.bin"].faults = [Fault(cut_after=50_000), Fault(status=404)]
    with pytest.raises(FileNotFoundError):
        download(url, tmp_path / "a.bin", NETWORK)
    with (tmp_path / ".a.bin.part").open("r+b") as part:
        part.seek(49_000)
        part.write(bytes(1000))
    download(url, tmp_path / "a.bin", NETWORK)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_chunks_are_asked_for_one_by_one_and_survive_cuts(site: Site, tmp_path: Path):
    url = site.put("a.bin", BODY, faults=[Fault(), Fault(cut_after=10_000), Fault(status=503)])
    download(url, tmp_path / "a.bin", NETWORK, chunk_bytes=30_000, headers={"Referer": "http://page"})
    assert (tmp_path / "a.bin").read_bytes() == BODY
    asked = site.files["/a.bin"].asked
    assert asked[0]["range"] == "bytes=0-29999" and {one["referer"] for one in asked} == {"http://page"}
    assert len(asked) == 2 + 1 + -(-(len(BODY) - 30_000 - 10_000 + OVERLAP_BYTES) // 30_000)


def test_the_rate_limit_holds(site: Site, tmp_path: Path):
    started = time.monotonic()
    download(site.put("a.bin", BODY), tmp_path / "a.bin", NETWORK.model_copy(update={"rate_limit": 400_000}))
    assert 0.45 < time.monotonic() - started < 3


def test_a_second_download_to_the_same_path_is_refused(site: Site, tmp_path: Path):
    url = site.put("a.bin", BODY)

    def again(done: float, total: float, unit: str, note: str = "") -> None:
        with pytest.raises(OSError, match="another process downloads to"):
            download(url, tmp_path / "a.bin", NETWORK)

    download(url, tmp_path / "a.bin", NETWORK, progress=again)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_proxy_is_asked_instead_of_the_host(site: Site, tmp_path: Path):
    site.files["http://nowhere.test/a.bin"] = File(BODY)
    proxied = Network.model_validate({"proxy": site.url("").replace("//", "//me:secret@"), "first_wait_s": 0.01})
    download("http://nowhere.test/a.bin", tmp_path / "a.bin", proxied)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert "proxy-authorization" in site.files["http://nowhere.test/a.bin"].asked[0]


def test_a_proxy_that_cannot_be_is_refused_without_its_password(tmp_path: Path):
    with pytest.raises(ValueError, match=r"network\.proxy cannot be used") as error:
        download("http://x.test/a", tmp_path / "a", Network.model_validate({"proxy": "gopher://me:secret@x"}))
    assert "secret" not in str(error.value)


def test_secrets_of_an_address_are_told_nowhere(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    url = site.put("a.bin", BODY, faults=[Fault(cut_after=50_000), Fault(status=403)])
    secret = url.replace("//", "//me:hidden@") + "?signature=hidden#hidden"
    with pytest.raises(PermissionError) as error:
        download(secret, tmp_path / "a.bin", NETWORK)
    kept = "".join(path.read_text() for path in tmp_path.glob("*.json"))
    assert download(secret, tmp_path / "a.bin", NETWORK).url == url
    assert kept and "hidden" not in str(error.value) + caplog.text + kept


def test_nobody_listening_is_one_sentence(tmp_path: Path):
    with pytest.raises(ConnectionError, match=r"gave nothing new in 3 tries in a row .*refused.* Run again"):
        download("http://127.0.0.1:1/a", tmp_path / "a", NETWORK)


@pytest.mark.parametrize("url", ["ftp://example.test/a", "file:///etc/passwd", "no address", "http://[half/a"])
def test_what_is_no_http_address_is_refused(url: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"is no http\(s\) address|is no valid address"):
        download(url, tmp_path / "a", NETWORK)


def test_an_address_is_said_without_what_may_be_secret():
    assert public("https://me:pw@Example.org:8080/a/b.mp4?key=1#x") == "https://example.org:8080/a/b.mp4"
    assert public("http://[::1]:80/a") == "http://[::1]:80/a"


def test_retry_after_is_seconds_or_a_date():
    assert retry_after_s({"retry-after": "7"}) == 7 and retry_after_s({}) == retry_after_s({"retry-after": "soon"}) == 0
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after_s({"retry-after": "Fri, 21 Oct 2095 07:28:00 GMT"}) > 1e9


CHILD = """
import sys
from pathlib import Path
from dora.artifacts import Network
from dora.data.download import download

download(sys.argv[1], Path(sys.argv[2]), Network(first_wait_s=0.01, rate_limit=1e6))
"""


def test_a_download_that_is_killed_again_and_again_has_the_same_bytes(site: Site, tmp_path: Path):
    body, rng = noise(1_500_000), random.Random(0)
    url, path = site.put("a.bin", body), tmp_path / "a.bin"
    part, kills = tmp_path / ".a.bin.part", 0
    for _ in range(5):
        before = part.stat().st_size if part.exists() else 0
        child = subprocess.Popen([sys.executable, "-c", CHILD, url, str(path)])
        while child.poll() is None and not (part.exists() and part.stat().st_size > before):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.2))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
    assert kills == 5 and part.exists() and not path.exists()
    assert download(url, path, NETWORK).sha256 == hashlib.sha256(body).hexdigest()
    assert sum(n_bytes for _, n_bytes in site.files["/a.bin"].served[:1]) == len(body)
    assert {status for status, _ in site.files["/a.bin"].served[1:]} == {206}


def test_without_the_extra_the_sentence_names_it(tmp_path: Path):
    code = f"import sys; sys.modules['httpx'] = None\n{CHILD}"
    command = [sys.executable, "-c", code, "http://x.test/a", "a"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.stderr.strip().endswith("downloading needs httpx, which is not installed: pip install -e '.[acquire]'")
