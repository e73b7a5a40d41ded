"""The CSV file of answers: what is not its own stays as it is, and its own goes on where it was cut off."""

import re

import pytest

from dogbreed.errors import UserError
from launch.hosting.batch import COLUMNS, open_csv

HEADER = ",".join(COLUMNS)


@pytest.mark.parametrize(
    "content",
    [
        b"my notes\nwithout an end",
        b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\n\x00" + b"x" * 200_000,
        b'a,"' + b"x" * 200_000 + b"\nb\n",
        f"{HEADER}\r\na.jpg,1,a,,,,other\r\nb.jpg,1".encode(),
    ],
)
def test_a_file_that_is_not_its_own_is_refused_and_stays_as_it_is(tmp_path, content):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path} ") + r".*: remove it, or give output=OTHER\.csv"):
        open_csv(path, "dogs")
    assert path.read_bytes() == content


def test_a_folder_or_a_place_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"output={tmp_path} can not be written: Is a directory")):
        open_csv(tmp_path, "dogs")
    with pytest.raises(UserError, match="can not be written: No such file or directory"):
        open_csv(tmp_path / "no/such.csv", "dogs")


@pytest.mark.parametrize("left", ["", "key,la", HEADER, f"{HEADER}\r", f"{HEADER}\r\n", f"{HEADER}\r\nb.jpg,1,b"])
def test_what_a_crash_left_is_gone_on_with(tmp_path, left):
    path = tmp_path / "predictions.csv"
    path.write_bytes(left.encode())
    file, done = open_csv(path, "dogs")
    with file:
        file.write("a.jpg,1,a,,,,dogs\r\n")
    assert done == set()
    assert path.read_bytes().decode() == f"{HEADER}\r\na.jpg,1,a,,,,dogs\r\n"
    assert open_csv(path, "dogs")[1] == {"a.jpg"}
