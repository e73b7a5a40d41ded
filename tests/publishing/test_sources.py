"""Archives are read without unpacking; malicious ones are rejected."""

import stat
import zipfile

import pytest

from dogbreed.errors import UserError
from dogbreed.publishing import sources
from dogbreed.publishing.sources import open_source
from dogbreed.storage.base import ImageError


@pytest.fixture
def pack(tmp_path):
    def write(files, compression=zipfile.ZIP_DEFLATED):
        path = tmp_path / "pets.zip"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in files:
                archive.writestr(name, data)
        return path

    return write


def test_zip_source_reads_without_unpacking(pack, tmp_path):
    source = open_source(str(pack([("pets/", b""), ("pets/a/1.jpg", b"one"), ("pets/b/2.jpg", b"three")])))
    assert sorted((entry.key, entry.size) for entry in source.list_objects()) == [
        ("pets/a/1.jpg", 3),
        ("pets/b/2.jpg", 5),
    ]
    assert source.read("pets/b/2.jpg") == b"three"
    assert [path.name for path in tmp_path.iterdir()] == ["pets.zip"]


def test_zip_source_with_backslashes_lists_slashes(pack):
    source = open_source(str(pack([("pets\\", b""), ("pets\\a\\1.jpg", b"one"), ("pets/b/2.jpg", b"three")])))
    assert sorted(entry.key for entry in source.list_objects()) == ["pets/a/1.jpg", "pets/b/2.jpg"]
    assert source.read("pets/a/1.jpg") == b"one"
    with pytest.raises(UserError, match=r"it contains 'a/1.jpg' 2 times"):
        open_source(str(pack([("a/1.jpg", b"one"), ("a\\1.jpg", b"two")])))


def link(name):
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../etc/cron.d/x.jpg", "is outside the archive"),
        ("a/../../x.jpg", "is outside the archive"),
        ("a\\..\\..\\x.jpg", "is outside the archive"),
        ("/etc/x.jpg", "is not a relative path"),
        ("C:/x.jpg", "is not a relative path"),
        ("\\\\server\\x.jpg", "is not a relative path"),
        (link("a/link.jpg"), "is a link or a device, not a file"),
    ],
)
def test_zip_source_with_unsafe_path_is_rejected(pack, name, reason):
    path = pack([("a/1.jpg", b"one"), (name, b"/etc/passwd")])
    with pytest.raises(UserError, match=f"is rejected: .* {reason}; nothing was read") as error:
        open_source(str(path))
    assert "\n" not in str(error.value)


def test_zip_source_with_high_ratio_is_rejected(pack, monkeypatch):
    monkeypatch.setattr(sources, "BOMB_BYTES", 10 << 20)
    with pytest.raises(UserError, match=r"a zip bomb: 0.0 MB unpack to 21 MB"):
        open_source(str(pack([("a/1.bmp", b"\0" * (20 << 20))])))
    monkeypatch.setattr(sources, "BOMB_BYTES", 50 << 20)
    open_source(str(pack([("a/1.bmp", b"\0" * (20 << 20))])))


def test_zip_source_with_overlapping_files_is_rejected(pack):
    path = pack([("a/1.jpg", b"x" * 5000), ("a/2.jpg", b"x" * 5000)], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")  # the second central directory entry points to the first file
    data[second + 42 : second + 46] = (0).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a zip bomb: 'a/1.jpg' and 'a/2.jpg' overlap"):
        open_source(str(path))


def test_zip_source_encrypted_is_rejected(pack):
    path = pack([("a/1.jpg", b"one")], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="is encrypted"):
        open_source(str(path))


def test_zip_source_with_damaged_file_reads_the_others(pack):
    path = pack([("a/1.jpg", b"one" * 100), ("a/2.jpg", b"two")], zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"oneone", b"onetwo", 1))
    source = open_source(str(path))
    with pytest.raises(ImageError, match="damaged in the archive: Bad CRC-32"):
        source.read("a/1.jpg")
    assert source.read("a/2.jpg") == b"two"


@pytest.mark.parametrize("content", [b"", b"<html>no such file</html>"])
def test_open_source_of_other_file_reports_no_archive(tmp_path, content):
    (tmp_path / "pets.zip").write_bytes(content)
    with pytest.raises(UserError, match="is not a complete zip archive"):
        open_source(str(tmp_path / "pets.zip"))


def test_open_source_of_truncated_archive_is_rejected(pack):
    path = pack([("a/1.jpg", b"one" * 100)])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="is not a complete zip archive"):
        open_source(str(path))


def test_open_source_of_missing_file_names_choices(tmp_path):
    with pytest.raises(UserError, match=r"no such file or folder; give a folder, a .zip file, an https:// URL"):
        open_source(str(tmp_path / "pets.zip"))
