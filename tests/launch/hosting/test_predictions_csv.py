"""The CSV file of predictions: foreign files stay unchanged, interrupted ones are resumed."""

import json
import re

import pytest

from dogbreed.errors import UserError
from launch.hosting.predictions_csv import COLUMNS, accuracy, open_csv

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
def test_open_csv_foreign_file_rejected_unchanged(tmp_path, content):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path} ") + r".*: remove it, or give output=OTHER\.csv"):
        open_csv(path, "dogs")
    assert path.read_bytes() == content


def test_open_csv_unwritable_path_rejected(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"output={tmp_path} cannot be written: Is a directory")):
        open_csv(tmp_path, "dogs")
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        open_csv(tmp_path / "no/such.csv", "dogs")


@pytest.mark.parametrize("remains", ["", "key,la", HEADER, f"{HEADER}\r", f"{HEADER}\r\n", f"{HEADER}\r\nb.jpg,1,b"])
def test_open_csv_truncated_file_resumed(tmp_path, remains):
    path = tmp_path / "predictions.csv"
    path.write_bytes(remains.encode())
    file, done = open_csv(path, "dogs")
    with file:
        file.write("a.jpg,1,a,,,,dogs\r\n")
    assert done == set()
    assert path.read_bytes().decode() == f"{HEADER}\r\na.jpg,1,a,,,,dogs\r\n"
    assert open_csv(path, "dogs")[1] == {"a.jpg"}


def predictions(*rows, top=("002", "003")):
    """Returns CSV rows from (true folder, predicted label, predicted class name)."""
    more = json.dumps([[label, 0.1] for label in top])
    return [
        {"key": f"x/{folder}/{number}.jpg", "label": label, "class_name": name, "top_k": more}
        for number, (folder, label, name) in enumerate(rows)
    ]


def test_accuracy_compares_labels_and_names():
    dogs = predictions(("001.Pug", "001", "Pug"), ("001.Pug", "002", "Collie"), ("002.Collie", "002", "Collie"))
    assert accuracy(dogs) == (2, 3)
    cats = predictions(("001.Persian", "001", "Pug"), ("002.Siamese", "002", "Collie"))
    assert accuracy(cats) is None
    mixed = predictions(("001.Pug", "001", "Pug"), ("002.Siamese", "002", "Collie"))
    assert accuracy(mixed) == (1, 2)
    bare = predictions(("001", "001", "Pug"), ("002", "001", "Pug"))
    assert accuracy(bare) == (1, 2)
    only_numbers = predictions(("001.Pug", "001", ""), ("003.Husky", "002", ""))
    assert accuracy(only_numbers) == (1, 2)
