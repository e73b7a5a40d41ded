"""The CSV file of answers: what is not its own stays as it is, and its own goes on where it was cut off."""

import json
import re

import pytest

from dogbreed.errors import UserError
from launch.hosting.batch import COLUMNS, accuracy, open_csv

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
    with pytest.raises(UserError, match=re.escape(f"output={tmp_path} cannot be written: Is a directory")):
        open_csv(tmp_path, "dogs")
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
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


def answers(*rows, top=("002", "003")):
    """Rows of (folder, label, class name) that were answered."""
    more = json.dumps([[label, 0.1] for label in top])
    return [
        {"key": f"x/{folder}/{number}.jpg", "label": label, "class_name": name, "top_k": more}
        for number, (folder, label, name) in enumerate(rows)
    ]


def test_folders_are_classes_by_their_names_too():
    dogs = answers(("001.Pug", "001", "Pug"), ("001.Pug", "002", "Collie"), ("002.Collie", "002", "Collie"))
    assert accuracy(dogs) == (2, 3)
    cats = answers(("001.Persian", "001", "Pug"), ("002.Siamese", "002", "Collie"))
    assert accuracy(cats) is None
    mixed = answers(("001.Pug", "001", "Pug"), ("002.Siamese", "002", "Collie"))
    assert accuracy(mixed) == (1, 2)
    bare = answers(("001", "001", "Pug"), ("002", "001", "Pug"))
    assert accuracy(bare) == (1, 2)
    only_numbers = answers(("001.Pug", "001", ""), ("003.Husky", "002", ""))
    assert accuracy(only_numbers) == (1, 2)
