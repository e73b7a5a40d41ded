"""`launch.predict` on this machine, with a stand-in model server."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from dogbreed.errors import UserError
from launch import deploy, predict
from launch.backends.local import LocalBackend
from tests.launch.local_jobs import eventually
from tests.launch.served import images, interrupt_when, rows, train

pytestmark = pytest.mark.usefixtures("trained_dogs")


def test_predict_unreadable_images_reported_with_others(dogs, capsys):
    images(".", good="1.b", broken="bad bytes", crowded="busy 2.c")
    assert predict.main(["dogs", "good.jpg", "broken.jpg", "crowded.jpg", "--json"]) == 1
    good, broken, crowded = json.loads(capsys.readouterr().out)
    assert (good["class_name"], crowded["class_name"]) == ("b", "c")  # the busy server was retried
    assert "cannot be read as an image" in broken["error"]


def test_predict_folder_writes_csv_and_resumes(dogs, capsys):
    images("pets", **{"001.Pug__a": "001.Pug", "001.Pug__b": "002.Collie", "002.Collie__c": "002.Collie"})
    images("pets", **{"002.Collie__torn": "bad bytes", "002.Collie__d": "busy 002.Collie"})
    (Path("pets") / "notes.txt").write_text("no image")
    assert predict.main(["dogs", "pets/"]) == 0
    printed = capsys.readouterr().out
    assert "5 images, 1 unreadable" in printed and "accuracy, taking folders as classes: 0.7500 (3 of 4)" in printed
    found = rows()
    assert len(found) == 5
    assert found["pets/001.Pug/a.jpg"]["class_name"] == "Pug"
    assert json.loads(found["pets/001.Pug/b.jpg"]["top_k"]) == [["002", 0.75], ["999", 0.25]]
    assert "cannot be read as an image" in found["pets/002.Collie/torn.jpg"]["reason"]
    text = Path("predictions.csv").read_text()
    Path("predictions.csv").write_text(text[: text.rindex(",") - 20])  # as if killed while writing the last row
    images("pets", **{"001.Pug__new": "001.Pug"})
    assert predict.main(["dogs", "pets"]) == 0
    printed = capsys.readouterr().out
    assert "4 of 6 images are already in predictions.csv" in printed and "2 images" in printed
    assert "(4 of 5)" in printed and len(rows()) == 6
    train("other")
    deploy.main(["from_training=other", "name=dogs"])
    with pytest.raises(UserError, match=r"predictions\.csv is of model dogs-.*: remove it, or give output"):
        predict.main(["dogs", "pets"])
    Path("mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"mine\.csv is not a file of predictions"):
        predict.main(["dogs", "pets", "output=mine.csv"])


def test_predict_index_answers(capsys):
    assert deploy.main(["from_training=dogs", "answer=index"]) == 0
    images("pets", a="68", b="7")
    assert predict.main(["dogs", "pets/a.jpg", "--json"]) == 0
    assert '"predicted_label": "68"' in capsys.readouterr().out
    assert predict.main(["dogs", "pets"]) == 0
    assert {key: row["label"] for key, row in rows().items()} == {"pets/a.jpg": "68", "pets/b.jpg": "7"}


def test_predict_endpoint_faults_are_not_recorded(dogs, capsys):
    images("few", a="crash", b="1.a", c="bad bytes")
    assert predict.main(["dogs", "few", "in_flight=1"]) == 1
    printed = capsys.readouterr().out
    assert "3 images, 1 unreadable, 1 failed" in printed
    assert "the endpoint failed on 1 images; the same command sends them again" in printed
    assert set(rows()) == {"few/b.jpg", "few/c.jpg"}
    images("few", a="1.a")  # the endpoint has recovered
    assert predict.main(["dogs", "few"]) == 0
    assert rows()["few/a.jpg"]["class_name"] == "a" and len(rows()) == 3


def test_predict_endpoint_failing_on_every_image_ends(dogs):
    images("all", **{f"p{number:02d}": "crash" for number in range(20)})
    with pytest.raises(UserError, match=r"fails on every image; the last reason: .*\(500\): out of memory"):
        predict.main(["dogs", "all", "output=all.csv"])


def test_predict_image_needs_only_invoke_permission(dogs, monkeypatch):
    monkeypatch.setattr(LocalBackend, "client", lambda self: pytest.fail("a describe request was sent"))
    images(".", a="1.b")
    assert predict.main(["dogs", "a.jpg"]) == 0


def test_predict_folders_that_are_not_classes_no_accuracy(dogs, capsys):
    images("trip", monday__a="001.Pug", tuesday__b="002.Collie")
    assert predict.main(["dogs", "trip"]) == 0
    assert "accuracy" not in capsys.readouterr().out


def test_predict_ctrl_c_keeps_rows_and_resumes(dogs, capsys):
    images("many", **{f"p{number:02d}": "slow 1.a" for number in range(20)})
    thread = interrupt_when(lambda: Path("predictions.csv").exists() and len(rows()) >= 2)
    assert predict.main(["dogs", "many", "in_flight=2"]) == 130
    thread.join()
    kept = len(rows())
    printed = capsys.readouterr().out
    assert 2 <= kept < 20 and f"SIGINT: {20 - kept} remaining; the same command continues" in printed
    assert predict.main(["dogs", "many", "in_flight=20"]) == 0
    assert len(rows()) == 20


def test_predict_endpoint_dies_keeps_rows(dogs):
    images("many", **{f"p{number:02d}": "slow 1.a" for number in range(8)})
    pid = dogs["pid"]

    def kill():
        eventually(lambda: Path("predictions.csv").exists() and len(rows()) >= 2)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(UserError, match=r"endpoint dogs is Failed and does not answer.*the same command continues"):
        predict.main(["dogs", "many", "in_flight=2"])
    thread.join()
    assert 2 <= len(rows()) < 8


def test_predict_s3_prefix_and_deploy_s3_model(dogs, s3_server, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    images(s3_server.root / "bucket-of-dogs", **{"pets__001.Pug__a": "001.Pug", "pets__002.Collie__b": "001.Pug"})
    assert predict.main(["dogs", "s3://bucket-of-dogs/pets"]) == 0
    assert "(1 of 2)" in capsys.readouterr().out
    assert set(rows()) == {"s3://bucket-of-dogs/pets/001.Pug/a.jpg", "s3://bucket-of-dogs/pets/002.Collie/b.jpg"}
    assert predict.main(["dogs", "s3://bucket-of-dogs/pets/001.Pug/a.jpg"]) == 0
    assert "Pug" in capsys.readouterr().out
    archive = s3_server.root / "bucket-of-dogs/jobs/cats/output/model.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(Path("outputs/dogs/output/model.tar.gz").read_bytes())
    assert deploy.main(["from_training=s3://bucket-of-dogs/jobs/cats/output/model.tar.gz"]) == 0
    assert "cats is in service" in capsys.readouterr().out
    with pytest.raises(UserError, match="there is no such bucket"):
        predict.main(["dogs", "s3://no-such-bucket/pets"])


MISTAKES = [
    (predict, ["dgos", "photos/a.jpg"], "no endpoint is called 'dgos'; did you mean dogs?"),
    (predict, ["dogs"], "give an endpoint and images or a folder"),
    (predict, ["dogs", "none.jpg"], "none.jpg: there is no such image or folder"),
    (predict, ["dogs", "photos", "photos/a.jpg"], "photos is a folder, its predictions go to a CSV file"),
    (predict, ["dogs", "outputs"], "outputs has no images"),
    (predict, ["dogs", "photos", "in_flight=0"], "in_flight=0: must be a whole number"),
    (predict, ["dogs", "photos", "output=no/such/x.csv"], "output=no/such/x.csv cannot be written"),
]


@pytest.mark.parametrize(("command", "argv", "message"), MISTAKES, ids=[row[2][:40] for row in MISTAKES])
def test_predict_mistake_is_one_line_with_advice(dogs, command, argv, message):
    images("photos", a="1.a")
    with pytest.raises(UserError, match=message) as error:
        command.main(argv)
    assert "\n" not in str(error.value)
