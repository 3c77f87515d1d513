"""Published files arrive whole and checked, or are refused in one line; files that are there are not fetched again."""

import gzip
import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from rich.console import Console

from pipeline import datasets
from pipeline.config.experiment import Experiment
from pipeline.config.sources import DataConfig
from pipeline.core.data_kinds import IMAGES
from pipeline.core.errors import UserError
from pipeline.datasets import DATASETS, Dataset, download
from pipeline.datasets.base import MARK_NAME, RemoteFile
from pipeline.datasets.downloads import fetch_files, unpack
from pipeline.stages.fetch import fetch

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8).tobytes()


class Server(ThreadingHTTPServer):
    """Serves bytes; it can break off once, forget about ranges, or be wrong."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.break_off_at: list[int] = []
        self.knows_ranges = True
        self.requests: list[tuple[str, str]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        requested_range = self.headers.get("Range", "")
        self.server.requests.append((self.path, requested_range))
        content = self.server.files.get(self.path.strip("/"))
        if content is None:
            self.send_error(404)
            return
        start = (
            int(requested_range.removeprefix("bytes=").rstrip("-"))
            if requested_range and self.server.knows_ranges
            else 0
        )
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + self.server.break_off_at.pop(0) if self.server.break_off_at else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


def run(folder, *files) -> str:
    console = Console(file=io.StringIO(), width=300)
    fetch_files(folder, files, console)
    return console.file.getvalue()


def test_a_file_arrives_with_its_checksum_and_is_not_asked_for_twice(server, tmp_path):
    server.files["a.bin"] = CONTENT
    remote = RemoteFile("a.bin", (server.url("a.bin"),), md5(CONTENT))
    run(tmp_path, remote)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert "all 1 published files are there" in run(tmp_path, remote)
    assert server.requests == [("/a.bin", "")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", MARK_NAME]


def test_a_transfer_that_breaks_off_is_resumed(server, tmp_path):
    server.files["a.bin"] = CONTENT
    server.break_off_at = [25 * 4096, 10 * 4096]
    text = run(tmp_path, RemoteFile("a.bin", (server.url("a.bin"),), md5(CONTENT)))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [place for _, place in server.requests] == ["", "bytes=102400-", "bytes=143360-"]
    assert "broken off after 102,400 bytes" in text


def test_an_earlier_start_is_completed_and_another_mirror_may_do_it(server, tmp_path):
    (tmp_path / ".a.bin.part").write_bytes(CONTENT[:1234])
    server.files["b"] = CONTENT
    run(tmp_path, RemoteFile("a.bin", (server.url("gone"), server.url("b")), md5(CONTENT)))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests == [("/gone", "bytes=1234-"), ("/b", "bytes=1234-")]


def test_a_server_without_ranges_gives_the_whole_again(server, tmp_path):
    server.files["a.bin"], server.knows_ranges = CONTENT, False
    (tmp_path / ".a.bin.part").write_bytes(CONTENT[:1234])
    run(tmp_path, RemoteFile("a.bin", (server.url("a.bin"),), md5(CONTENT)))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, b"x" * 1000, CONTENT + b"x"])
def test_a_part_that_is_whole_wrong_or_too_long_ends_well(part, server, tmp_path):
    server.files["a.bin"] = CONTENT
    (tmp_path / ".a.bin.part").write_bytes(part)
    run(tmp_path, RemoteFile("a.bin", (server.url("a.bin"),), md5(CONTENT)))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_the_next_mirror_is_tried(server, tmp_path):
    server.files |= {"wrong": CONTENT[::-1], "right": CONTENT}
    wrong = RemoteFile("a.bin", (server.url("wrong"),), md5(CONTENT))
    with pytest.raises(UserError, match=r"a.bin: no mirror gave it \(.*/wrong: what it gave has not the checksum md5:"):
        run(tmp_path, wrong)
    assert not (tmp_path / "a.bin").exists()
    text = run(tmp_path, RemoteFile("a.bin", (server.url("wrong"), server.url("right")), md5(CONTENT)))
    assert "warning:" in text
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_dead_mirror_is_named_and_the_next_one_tried(server, tmp_path):
    server.files["a.bin"] = CONTENT
    dead = "http://127.0.0.1:9/a.bin"  # the discard port: nobody listens
    text = run(tmp_path, RemoteFile("a.bin", (dead, server.url("a.bin")), md5(CONTENT)))
    assert f"warning: {dead}: " in text
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"no mirror gave it .*127.0.0.1.*404.*--data.raw_folder"):
        run(tmp_path, RemoteFile("b.bin", (dead, server.url("gone")), md5(CONTENT)))


def test_a_damaged_file_is_brought_again_and_a_users_spelling_is_kept(server, tmp_path):
    server.files |= {"a.gz": CONTENT}
    remote = RemoteFile("a.gz", (server.url("a.gz"),), md5(CONTENT), gives=("a",))
    (tmp_path / "a.gz").write_bytes(CONTENT[:-1])
    run(tmp_path, remote)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    (tmp_path / "a.gz").rename(tmp_path / "a")
    run(tmp_path, remote)
    assert len(server.requests) == 1


def pack_tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pack_zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(("suffix", "pack"), [(".tar.gz", pack_tar), (".zip", pack_zip)])
def test_an_archive_is_unpacked_and_goes_and_a_lost_member_is_brought_back(suffix, pack, server, tmp_path):
    content = pack({"set/a.bin": b"a", "set/b.bin": b"b", "set/readme.html": b"no"})
    server.files["set"] = content
    remote = RemoteFile(f"set{suffix}", (server.url("set"),), md5(content), gives=("a.bin", "b.bin"))
    run(tmp_path, remote)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.bin", "b.bin", MARK_NAME, "set"]
    run(tmp_path, remote)
    assert len(server.requests) == 1
    (tmp_path / "set" / "b.bin").unlink()
    run(tmp_path, remote)
    assert (tmp_path / "set" / "b.bin").read_bytes() == b"b"


@pytest.mark.parametrize(("suffix", "pack"), [(".tar.gz", pack_tar), (".zip", pack_zip)])
def test_an_archive_without_a_list_is_unpacked_whole_and_once(suffix, pack, server, tmp_path):
    """Files of one name in several folders are all kept, as the meshes of a data set are."""
    members = {"set/chair/train/1.off": b"a", "set/chair/test/1.off": b"b", "set/sofa/train/1.off": b"c"}
    server.files["set"] = pack(members)
    remote = RemoteFile(f"set{suffix}", (server.url("set"),), md5(server.files["set"]))
    run(tmp_path, remote)
    found = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.off")}
    assert found == members
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARK_NAME, "set", f"set{suffix}.unpacked"]
    run(tmp_path, remote)
    assert len(server.requests) == 1
    (tmp_path / f"set{suffix}.unpacked").unlink()  # as after an unpacking that was interrupted
    run(tmp_path, remote)
    assert len(server.requests) == 2


@pytest.mark.parametrize(("suffix", "pack"), [(".tar.gz", pack_tar), (".zip", pack_zip)])
@pytest.mark.parametrize("name", ["../outside.bin", "set/../../outside.bin"])
def test_a_member_outside_the_folder_is_refused(suffix, pack, name, tmp_path):
    archive = tmp_path / "folder" / f"set{suffix}"
    archive.parent.mkdir()
    archive.write_bytes(pack({"set/a.bin": b"a", name: b"x"}))
    with pytest.raises(UserError, match=rf"set{suffix}: cannot be unpacked \(.*outside"):
        unpack(archive, archive.parent, ["a.bin"])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [archive.name]


def test_links_of_an_archive_are_left_where_they_are(tmp_path):
    archive, outside = tmp_path / "set.tar.gz", tmp_path / "outside.bin"
    outside.write_bytes(b"private")
    with tarfile.open(archive, "w:gz") as file:
        for name, kind in (("a.bin", tarfile.SYMTYPE), ("b.bin", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(f"set/{name}")
            link.type, link.linkname = kind, str(outside)
            file.addfile(link)
    with pytest.raises(UserError, match=r"no a\.bin, b\.bin in it"):
        unpack(archive, tmp_path, ["a.bin", "b.bin"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside.bin", "set.tar.gz"]


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_an_archive_that_is_broken_or_lacks_a_member_is_refused(suffix, tmp_path):
    archive = tmp_path / f"set{suffix}"
    whole = (pack_tar if suffix == ".tar.gz" else pack_zip)({"a.bin": CONTENT})
    archive.write_bytes(whole[:2000])
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(archive, tmp_path, ["a.bin"])
    archive.write_bytes(whole)
    with pytest.raises(UserError, match=r"no b.bin in it. It is not the published file"):
        unpack(archive, tmp_path, ["a.bin", "b.bin"])
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def fetch_stage(tmp_path, raw, dataset="small") -> str:
    console = Console(file=io.StringIO(), width=300)
    fetch(Experiment("small", workspace=tmp_path / "work", data=DataConfig(dataset=dataset, raw_folder=raw)), console)
    return console.file.getvalue()


@pytest.fixture
def small_set(server, monkeypatch):
    server.files |= {"a": CONTENT, "b": CONTENT[::-1]}
    files = [RemoteFile(name, (server.url(name),), md5(server.files[name])) for name in ("a", "b")]
    small = Dataset(download(*files), IMAGES, read=DATASETS["mnist"].read, marks=(MARK_NAME,))
    monkeypatch.setitem(datasets.DATASETS, "small", small)


@pytest.mark.usefixtures("small_set")
def test_a_users_folder_is_taken_as_it_is_but_one_that_was_begun_is_completed(tmp_path):
    raw = tmp_path / "mine"
    raw.mkdir()
    (raw / "own.bin").write_bytes(b"x")
    assert "taken as it is" in fetch_stage(tmp_path, raw)
    assert [path.name for path in raw.iterdir()] == ["own.bin"]
    begun = tmp_path / "begun"
    fetch_stage(tmp_path, begun)
    (begun / "b").unlink()
    fetch_stage(tmp_path, begun)
    assert (begun / "b").read_bytes() == CONTENT[::-1]
    empty = tmp_path / "empty"
    empty.mkdir()
    fetch_stage(tmp_path, empty)
    assert (empty / "a").read_bytes() == CONTENT
    fetch_stage(tmp_path, None)
    assert (tmp_path / "work" / "data" / "small" / "raw" / "a").read_bytes() == CONTENT


@pytest.mark.usefixtures("small_set")
def test_synthetic_knees_that_were_interrupted_in_a_named_folder_are_completed(tmp_path):
    raw = tmp_path / "knees"
    raw.mkdir()
    (raw / "phantom.started.json").write_text("{}")
    with pytest.raises(UserError, match="not a record of synthetic knees"):
        fetch_stage(tmp_path, raw, "phantom")


@pytest.mark.real_data
def test_the_checksums_are_those_of_the_real_files(real_data, tmp_path):
    from pipeline.datasets.mnist import REMOTE_FILES

    for remote in REMOTE_FILES:
        content = (real_data / "mnist" / remote.name).read_bytes()
        assert md5(content) == remote.checksum
        assert gzip.decompress(content)


def test_experiments_on_a_published_set_have_one_raw_folder(tmp_path):
    first, second, own = (
        datasets.find_raw_folder(Experiment(name, workspace=tmp_path, data=DataConfig(dataset=dataset)))
        for name, dataset in (("one", "cifar10"), ("two", "cifar10"), ("one", "akoa"))
    )
    assert first == second == tmp_path / "data" / "cifar10" / "raw"
    assert own == tmp_path / "data" / "one" / "raw"
