"""Foreign archives: what is sound comes out whole, what is not leaves nothing."""

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dora.data.datasets.unpack import unpack

FILES = {"SET/a/1.txt": b"one", "SET/a/2.txt": b"two" * 1000, "SET/b.txt": b"", "README": b"outside of the set"}


def make_zip(path: Path, files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(info)
            archive.writestr(info, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if change:
                change(info)
            archive.addfile(info, io.BytesIO(content))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(archive: Path, folder: Path, why: str, **more: object) -> None:
    """It is refused for this reason, and nothing was written anywhere."""
    before = contents(folder.parent)
    with pytest.raises(ValueError, match=why):
        unpack(archive, folder, **{"max_bytes": 1e6, **more})  # pyright: ignore[reportArgumentType]
    assert contents(folder.parent) == before and not folder.exists()


@pytest.mark.parametrize(("make", "name"), [(make_zip, "set.zip"), (make_tar, "set.tar"), (make_tar, "set.tgz")])
def test_what_is_below_the_top_folder_comes_out_whole(tmp_path: Path, make: Callable[..., Path], name: str):
    told: list[tuple[float, float, str]] = []
    archive = make(tmp_path / name, FILES)
    came = unpack(
        archive, tmp_path / "out", top="SET", max_bytes=1e6,
        progress=lambda done, total, unit, note="": told.append((done, total, unit)),
    )  # fmt: skip
    assert contents(tmp_path / "out") == {"a/1.txt": b"one", "a/2.txt": b"two" * 1000, "b.txt": b""}
    assert came == (3, 3003) and told[0] == (0, 3, "files") and told[-1] == (3, 3, "files")
    unpack(archive, tmp_path / "all", max_bytes=1e6)
    assert contents(tmp_path / "all") == FILES


def test_a_second_archive_adds_to_the_folder_but_replaces_nothing(tmp_path: Path):
    unpack(make_zip(tmp_path / "1.zip", {"a/1": b"1"}), tmp_path / "out", max_bytes=9)
    unpack(make_zip(tmp_path / "2.zip", {"a/2": b"2"}), tmp_path / "out", max_bytes=9)
    assert contents(tmp_path / "out") == {"a/1": b"1", "a/2": b"2"}
    with pytest.raises(ValueError, match=r"holds a/1, which is in .* already"):
        unpack(make_zip(tmp_path / "3.zip", {"a/1": b"x"}), tmp_path / "out", max_bytes=9)
    assert contents(tmp_path / "out")["a/1"] == b"1"


@pytest.mark.parametrize(
    "name", ["../evil", "SET/../../evil", "/evil", "C:\\evil", "..\\evil", "C:evil", "SET/a\\..\\b"]
)
@pytest.mark.parametrize(("make", "archive"), [(make_zip, "set.zip"), (make_tar, "set.tar")])
def test_a_way_out_of_the_folder_is_refused(tmp_path: Path, make: Callable[..., Path], archive: str, name: str):
    made = make(tmp_path / archive, {"SET/fine": b"fine", name: b"evil"})
    refused(made, tmp_path / "out", "leads out of the folder.*nothing was unpacked")
    refused(made, tmp_path / "out", "leads out of the folder", top="SET")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_of_a_zip_are_refused(tmp_path: Path, kind: int):
    def change(info: zipfile.ZipInfo) -> None:
        info.external_attr = (kind | 0o777) << 16

    refused(
        make_zip(tmp_path / "set.zip", {"SET/x": b"/etc/passwd"}, change), tmp_path / "out", "is a link or a device"
    )


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_tar_are_refused(tmp_path: Path, kind: bytes):
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    refused(
        make_tar(tmp_path / "set.tar", {"SET/x": b""}, change), tmp_path / "out", "is a link, a device or has holes"
    )


def test_an_encrypted_zip_is_refused(tmp_path: Path):
    archive = make_zip(tmp_path / "set.zip", {"SET/x": b"x"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    refused(archive, tmp_path / "out", "is encrypted")


@pytest.mark.parametrize(("make", "name"), [(make_zip, "bomb.zip"), (make_tar, "bomb.tgz")])
def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, make: Callable[..., Path], name: str):
    archive = make(tmp_path / name, {"SET/zeros": bytes(5_000_000)})
    assert archive.stat().st_size < 20_000
    refused(archive, tmp_path / "out", r"would unpack to 1 files of 0\.005 GB, expected at most .* of 0\.001 GB")


def test_a_bomb_that_lies_about_its_size_stops_at_what_it_said(tmp_path: Path):
    archive = make_zip(tmp_path / "bomb.zip", {"SET/zeros": bytes(5_000_000)})
    content = archive.read_bytes().replace((5_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged at SET/zeros"):
        unpack(archive, tmp_path / "out", max_bytes=1e6)
    assert sum(map(len, contents(tmp_path / "out").values())) <= 1000


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path):
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("SET/x", b"1")
        archive.writestr("SET/x", b"2")
    refused(tmp_path / "set.zip", tmp_path / "out", "holds a file twice")
    refused(make_tar(tmp_path / "set.tar", {"SET/x": b"", "SET/x/y": b""}), tmp_path / "out", "a file as a folder too")


def test_an_archive_without_the_set_is_refused(tmp_path: Path):
    refused(make_zip(tmp_path / "set.zip", FILES), tmp_path / "out", r"holds no file below DAVIS/", top="DAVIS")


@pytest.mark.parametrize(
    ("name", "content"), [("set.zip", b"<html>Sorry</html>"), ("set.tar", b""), ("set.tar", b"x" * 600)]
)
def test_what_is_no_archive_is_told(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, tmp_path / "out", r"is no whole zip or tar \(.*\)\. Remove it and get it again")


@pytest.mark.parametrize(("make", "name"), [(make_zip, "set.zip"), (make_tar, "set.tar"), (make_tar, "set.tgz")])
def test_an_archive_that_was_cut_short_is_told(tmp_path: Path, make: Callable[..., Path], name: str):
    archive = make(tmp_path / name, {"SET/x": os.urandom(50_000)})
    archive.write_bytes(archive.read_bytes()[:30_000])
    refused(archive, tmp_path / "out", r"is no whole zip or tar")


def test_a_wrong_byte_in_a_zip_is_told_with_the_files_name(tmp_path: Path):
    archive = make_zip(tmp_path / "set.zip", {"SET/x": os.urandom(50_000)})
    content = bytearray(archive.read_bytes())
    content[25_000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.zip is damaged at SET/x \(Bad CRC-32.*Remove it and get it again"):
        unpack(archive, tmp_path / "out", max_bytes=1e6)
