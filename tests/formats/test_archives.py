"""Archives: what is in them, and what hostile ones get."""

import io
import struct
import tarfile
import zipfile
import zlib

import pytest

from pipeline.core.errors import VolumeError
from pipeline.formats.archives import MAX_MEMBERS, read_files

FILES = {"series/001": b"first" * 1000, "series/deeper/002": b"", "003": bytes(1000)}
MEBIBYTE = 1 << 20


def write_tar(path, files=FILES, mode="w:gz", **changes):
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_member("series", type=tarfile.DIRTYPE))
        for name, content in files.items():
            archive.addfile(_member(name, size=len(content), **changes), io.BytesIO(content))
    return path


def _member(name, **changes):
    member = tarfile.TarInfo(name)
    for field, value in changes.items():
        setattr(member, field, value)
    return member


def write_zip(path, files=FILES, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("series/", b"")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def read(path, max_bytes=MEBIBYTE):
    return list(read_files(path, max_bytes))


def test_the_files_of_an_archive_come_in_their_order(tmp_path):
    expected = list(FILES.values())
    assert read(write_tar(tmp_path / "a.tar.gz")) == expected
    assert read(write_tar(tmp_path / "A.TGZ")) == expected
    assert read(write_tar(tmp_path / "a.tar", mode="w")) == expected
    assert read(write_zip(tmp_path / "a.zip")) == expected
    assert read(write_zip(tmp_path / "b.zip", method=zipfile.ZIP_STORED)) == expected
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [], "nothing is unpacked to disk"


@pytest.mark.parametrize("name", ["/etc/passwd", "a/../../b", "..", "C:\\windows", "\\\\server\\a", "..\\a"])
def test_names_that_lead_out_are_refused(name, tmp_path):
    for path in (write_tar(tmp_path / "a.tar.gz", {name: b"x"}), write_zip(tmp_path / "a.zip", {name: b"x"})):
        with pytest.raises(VolumeError, match="a name that leads out of its folder"):
            read(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind, tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", {"a": b""}, type=kind, linkname="/etc/passwd")
    with pytest.raises(VolumeError, match="a link or a device"):
        read(path)


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("a")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(VolumeError, match="a link or a device"):
        read(tmp_path / "a.zip")


def test_files_that_unpack_to_more_than_is_allowed_are_refused(tmp_path):
    bomb = {"a": bytes(3 * MEBIBYTE)}
    for path in (write_tar(tmp_path / "a.tar.gz", bomb), write_zip(tmp_path / "a.zip", bomb)):
        assert path.stat().st_size < 30_000
        with pytest.raises(VolumeError, match=r"more than 0.0 GiB of files.*max_volume_gib"):
            read(path)
        assert len(read(path, 3 * MEBIBYTE)) == 1
    many = {str(number): bytes(MEBIBYTE // 2) for number in range(3)}
    for path in (write_tar(tmp_path / "b.tar.gz", many), write_zip(tmp_path / "b.zip", many)):
        with pytest.raises(VolumeError, match=r"more than 0\.0 GiB of files"):
            read(path)


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    content = write_zip(tmp_path / "a.zip", {"a": bytes(3 * MEBIBYTE)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(struct.pack("<I", 3 * MEBIBYTE), struct.pack("<I", 100)))
    with pytest.raises(VolumeError, match="a damaged archive"):
        read(tmp_path / "a.zip")


def test_a_header_that_claims_more_than_a_header_has_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", {"a": b""}, pax_headers={"comment": "x" * (2 * MEBIBYTE)})
    with pytest.raises(VolumeError, match=r"a header of 2,\d+,\d+ bytes"):
        read(path, 1 << 30)


@pytest.mark.slow
def test_an_absurd_number_of_files_is_refused(tmp_path):
    one = _member("a").tobuf()
    (tmp_path / "a.tar.gz").write_bytes(zlib.compress(one * (MAX_MEMBERS + 1) + bytes(1024), wbits=31))
    with pytest.raises(VolumeError, match="more than 20,000 files"):
        read(tmp_path / "a.tar.gz")
    content = write_zip(tmp_path / "a.zip").read_bytes()
    place = content.rfind(b"PK\x05\x06")
    (tmp_path / "a.zip").write_bytes(content[: place + 10] + b"\xff\xff" + content[place + 12 :])
    with pytest.raises(VolumeError, match="more than 20,000 files"):
        read(tmp_path / "a.zip")


def test_a_damaged_archive_is_refused(tmp_path):
    for path in (
        write_tar(tmp_path / "a.tar.gz"),
        write_zip(tmp_path / "a.zip"),
        write_tar(tmp_path / "a.tar", mode="w"),
    ):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 3])
        with pytest.raises(VolumeError, match="a damaged archive"):
            read(path)
    with pytest.raises(VolumeError, match="no such file"):
        read(tmp_path / "none.zip")
