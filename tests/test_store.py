"""Tars in a store: put there whole, read whole or by range, and every failure a sentence."""

import multiprocessing
import os
from collections.abc import Generator
from pathlib import Path

import fsspec
import pytest
from s3_server import SECRET, s3_server
from tiny import write_shards

from dora.data.index import open_index
from dora.data.store import (
    Range,
    check_store,
    damage,
    fetch,
    read_ranges,
    redacted,
    remove,
    remove_tars,
    stored_size,
    upload,
)

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def s3() -> Generator[str]:
    with s3_server("tours") as url:
        yield f"{url}/some/prefix"


@pytest.fixture(params=["memory", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/not/yet/there"


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "shard-000000.tar"
    path.write_bytes(CONTENT)
    return path


def test_what_is_put_into_a_store_is_read_from_it(store: str, tar: Path, tmp_path: Path):
    assert stored_size(store, "one.tar") is None
    upload(tar, store, "one.tar")
    assert stored_size(store, "one.tar") == len(CONTENT)
    fetch(store, "one.tar", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == CONTENT
    upload(tar, store, "two.tar")
    ranges = [Range("one.tar", 3, 5), Range("two.tar", 250, 20), Range("one.tar", len(CONTENT) - 1, 1)]
    assert read_ranges(store, ranges) == [CONTENT[3:8], CONTENT[250:270], CONTENT[-1:]]


def test_a_second_upload_takes_the_place_of_the_first(store: str, tar: Path):
    upload(tar, store, "same.tar")
    tar.write_bytes(b"new")
    upload(tar, store, "same.tar")
    assert stored_size(store, "same.tar") == 3 and read_ranges(store, [Range("same.tar", 0, 3)]) == [b"new"]


def test_what_is_removed_is_gone_and_may_have_been(store: str, tar: Path):
    for name in ("one.tar", "two.tar"):
        upload(tar, store, name)
    remove(store, ["one.tar", "never.tar"])
    assert [stored_size(store, name) for name in ("one.tar", "two.tar")] == [None, len(CONTENT)]
    remove(store, ["one.tar"])


def test_tars_that_a_store_has_lost_are_named_and_all_are_removed_by_the_index(store: str, tar: Path, tmp_path: Path):
    folder = write_shards(tmp_path / "walk", n_frames=16, store=store)
    names = [each.name for each in open_index(folder).facts.tars]
    for name in names:
        upload(folder / name, store, name)
        (folder / name).unlink()
    upload(tar, store, "another's.tar")
    assert damage(folder) is None
    upload(tar, store, names[1])
    assert damage(folder).endswith(f"/{names[1]} has {len(CONTENT)} bytes, the index says {size_of(folder, 1)}")
    remove(store, names[:1])
    assert damage(folder).endswith(f"/{names[0]} is gone")
    assert remove_tars(folder) is None
    assert [stored_size(store, name) for name in (*names, "another's.tar")] == [None, None, len(CONTENT)]


def size_of(folder: Path, number: int) -> int:
    return open_index(folder).facts.tars[number].size_bytes


def test_tars_that_no_index_names_stay_and_are_told(tmp_path: Path):
    assert damage(tmp_path) is None and remove_tars(tmp_path) is None
    (tmp_path / ".job.json").write_text('{"store": "s3://me:hunter2@bucket/shards/9ab3"}')
    said = "tars stay in s3://***@bucket/shards/9ab3: it is unfinished, and has no index that names them"
    assert remove_tars(tmp_path) == said


def test_a_folder_shows_a_file_when_it_is_whole(tmp_path: Path, tar: Path):
    """Written over an old one; a link to the old one still has all of it, so it was not written in place."""
    store = f"file://{tmp_path}/store"
    upload(tar, store, "a.tar")
    os.link(tmp_path / "store" / "a.tar", tmp_path / "old")
    tar.write_bytes(b"new")
    upload(tar, store, "a.tar")
    assert (tmp_path / "old").read_bytes() == CONTENT and (tmp_path / "store" / "a.tar").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["a.tar"]


def test_a_checked_store_is_left_as_it_was(store: str):
    check_store(store)
    file_system, folder = fsspec.url_to_fs(store, use_listings_cache=False, skip_instance_cache=True)
    left = file_system.ls(folder, detail=False) if file_system.exists(folder) else []
    assert not [name for name in left if "probe" in name]


def test_a_range_beyond_the_end_names_the_file(store: str, tar: Path):
    upload(tar, store, "short.tar")
    with pytest.raises(OSError, match=r"/short.tar ends before byte 10300, up to which the index wants"):
        read_ranges(store, [Range("short.tar", 10200, 100)])


def test_a_file_that_is_gone_is_named_with_what_to_do(store: str, tar: Path):
    upload(tar, store, "here.tar")
    with pytest.raises(FileNotFoundError, match=r"cannot read here.tar, gone.tar from .*make the shards again"):
        read_ranges(store, [Range("here.tar", 0, 1), Range("gone.tar", 0, 1)])


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        ("some/folder", r"Machine.store is 'some/folder', expected a URL such as s3://bucket/dora"),
        ("nowhere://bucket", r"to nowhere://bucket: Protocol not known: nowhere. Expected a URL such as s3"),
        ("gs://bucket/dora", r"a package for gs:// is missing. pip install gcsfs"),
        ("s3://me:hunter2@bucket", r"Machine.store s3://\*\*\*@bucket holds a name, password or key"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_with_what_to_do(store: str, reason: str):
    with pytest.raises(ValueError, match=reason) as error:
        check_store(store)
    assert "hunter2" not in str(error.value)


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=rf"cannot write .* to file://{tmp_path}/file/store: "):
        check_store(f"file://{tmp_path}/file/store")


def test_a_bucket_that_does_not_exist_is_refused(s3: str):
    with pytest.raises(FileNotFoundError, match=r"to s3://nobodys/dora: .*bucket does not exist.*Check that bucket"):
        check_store("s3://nobodys/dora")


def test_a_server_that_does_not_answer_is_named_and_its_password_is_not(
    s3: str, monkeypatch: pytest.MonkeyPatch, tar: Path
):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hunter2@127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(OSError, match=r"cannot write a.tar to s3://tours: .*Check the network") as error:
        upload(tar, "s3://tours", "a.tar")
    s3fs.S3FileSystem.clear_instance_cache()
    said = "".join(map(str, (error.value, error.value.__cause__, error.value.__suppress_context__)))
    assert "hunter2" not in said and SECRET not in said and "True" in said


def test_missing_credentials_say_where_they_are_looked_for(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(PermissionError, match=r"to s3://tours: Unable to locate credentials. .*AWS_PROFILE"):
        check_store("s3://tours")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("sftp://me:secret@host/x", "sftp://***@host/x"),
        ("https://host/x?sig=secret tried", "https://host/x?*** tried"),
        ("at http://a:b@c/d and s3://k@e", "at http://***@c/d and s3://***@e"),
    ],
)
def test_names_and_passwords_are_not_shown(url: str, shown: str):
    assert redacted(url) == shown


def first_bytes(store: str) -> bytes:
    return read_ranges(store, [Range("one.tar", 0, 3)])[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_process_that_has_read_may_start_others_that_read(s3: str, tar: Path, start: str):
    upload(tar, s3, "one.tar")
    assert first_bytes(s3) == CONTENT[:3]
    with multiprocessing.get_context(start).Pool(1) as pool:
        assert pool.apply_async(first_bytes, [s3]).get(timeout=60) == CONTENT[:3]
