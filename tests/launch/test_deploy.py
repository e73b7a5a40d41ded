"""From the best model to an answer, on this machine: the commands as people type them, around a tiny server."""

import csv
import functools
import json
import os
import re
import signal
import threading
import urllib.request
from pathlib import Path

import pytest

from dogbreed.errors import UserError
from launch import deploy, endpoints, predict, undeploy
from launch.backends.local import LocalBackend
from launch.local import local_client
from launch.runs import polling as follow
from tests.launch.cloud import interrupt_create
from tests.launch.local_jobs import (
    SERVE,
    end_endpoints,
    eventually,
    is_running,
    pack_model,
    put_training,
    put_tuning,
    state_of,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty folder to work in, with a training called dogs whose model can be served."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("launch.local.local_client", functools.partial(local_client, serve=SERVE), raising=False)
    monkeypatch.setattr(LocalBackend, "poll_s", 0.05)
    train("dogs")
    yield tmp_path
    end_endpoints("outputs")


def train(name, status="Completed", **card):
    folder = Path("outputs") / name
    put_training(folder, status)
    pack_model(folder, says=name, **card)


@pytest.fixture
def dogs(capsys):
    """The endpoint dogs, in service."""
    assert deploy.main(["from_training=dogs"]) == 0
    capsys.readouterr()
    return state_of("outputs/endpoints/dogs")


def images(folder, **texts):
    """Writes files that the stand-in server reads: name to what they show, `__` for folders."""
    for name, text in texts.items():
        path = Path(folder) / f"{name.replace('__', '/')}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def rows(path="predictions.csv"):
    with Path(path).open() as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def test_from_a_training_to_an_answer_and_back_to_nothing(capsys):
    assert deploy.main(["from_training=dogs", "top_k=1", "instance.price_per_hour=0.5"]) == 0
    printed = capsys.readouterr().out
    assert "of training dogs" in printed and "[Creating]" in printed and "[InService]" in printed
    assert "python -m launch.predict dogs photo.jpg" in printed
    page = re.search(r"its page:  (http://127.0.0.1:\d+/)", printed)[1]
    assert urllib.request.urlopen(f"{page}ping").status == 200
    images(".", a="069.French_bulldog")
    assert predict.main(["dogs", "a.jpg"]) == 0
    assert re.search(r"a\.jpg +│ French_bulldog +│ 069 +│ +0\.7500", capsys.readouterr().out)
    assert predict.main(["dogs", "a.jpg", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert (answer["image"], answer["predicted_label"], len(answer["top_k"])) == ("a.jpg", "069", 1)
    assert endpoints.main([]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"dogs +│ InService +│ dogs +│ http://127", printed) and "1 running on this machine" in printed
    assert endpoints.main(["dogs"]) == 0
    assert "serving dogs" in capsys.readouterr().out
    pid = state_of("outputs/endpoints/dogs")["pid"]
    assert undeploy.main(["dogs"]) == 0
    assert "endpoint dogs is removed" in capsys.readouterr().out
    assert not is_running(pid)
    assert not list(Path("outputs/endpoints").rglob("*.*"))  # its model and configuration are forgotten too
    assert endpoints.main([]) == 0
    assert "none is running" in capsys.readouterr().out


def test_of_a_sweep_the_best_trial_is_taken_and_said(capsys):
    put_tuning(Path("outputs/sweep"), objectives=[0.5, 0.75, None])
    pack_model(Path("outputs/sweep/sweep-002-00000002"), says="second")
    assert deploy.main(["from_training=sweep"]) == 0
    printed = capsys.readouterr().out
    assert "the best trial of sweep sweep: sweep-002-00000002  val/accuracy=0.7500  lr=2" in printed
    images(".", a="1.b")
    assert predict.main(["sweep", "a.jpg"]) == 0
    assert "second" in capsys.readouterr().out
    assert deploy.main(["from_training=sweep-002-00000002", "name=same"]) == 0


def test_a_training_without_the_launcher_is_served_from_its_folder(capsys):
    model = Path("outputs/plain/model")
    model.mkdir(parents=True)
    (model / "model.json").write_text('{"says": "plain"}')
    assert deploy.main(["from_training=plain"]) == 0
    assert "s3://local/plain/model/" in capsys.readouterr().out


def test_dry_run_prints_every_request_and_starts_nothing(capsys):
    assert deploy.main(["from_training=dogs", "dry_run=true", "answer=index", "+environment.A=b"]) == 0
    requests = json.loads(capsys.readouterr().out)
    assert list(requests) == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    environment = requests["CreateModel"]["PrimaryContainer"]["Environment"]
    assert (environment["DOGBREED_ANSWER"], environment["A"]) == ("index", "b")
    assert not Path("outputs/endpoints").exists()


def test_the_same_name_again_changes_nothing_or_the_model(dogs, capsys):
    assert deploy.main(["from_training=dogs"]) == 0
    assert "has this very model and these settings already" in capsys.readouterr().out
    assert state_of("outputs/endpoints/dogs")["pid"] == dogs["pid"]
    train("better")
    assert deploy.main(["from_training=better", "name=dogs"]) == 0
    assert "[Updating]" in capsys.readouterr().out
    images(".", a="1.b")
    assert predict.main(["dogs", "a.jpg"]) == 0
    assert "better" in capsys.readouterr().out
    train("worse", broken=True)
    assert deploy.main(["from_training=worse", "name=dogs"]) == 1
    printed = capsys.readouterr().out
    assert "endpoint dogs is InService: the update failed, what was in service goes on" in printed
    assert deploy.main(["from_training=better", "name=dogs", "instance.count=2"]) == 0
    for kind in ("_models", "_configs"):  # what no endpoint uses any more is forgotten
        assert len(list(Path("outputs/endpoints", kind).glob("dogs-*"))) == 1
    assert predict.main(["dogs", "a.jpg"]) == 0


def test_a_model_that_can_not_be_served_shows_the_log_and_the_name_can_be_used_again(capsys):
    train("worse", broken=True)
    assert deploy.main(["from_training=worse", "name=pets"]) == 1
    printed = capsys.readouterr().out
    assert "  model.safetensors: the header is no JSON\n" in printed
    assert "endpoint pets is Failed: the server ended before it could answer: exit code 1" in printed
    with pytest.raises(UserError, match=r"endpoint pets does not answer, it is Failed \(the server ended before"):
        predict.main(["pets", "outputs"])
    assert endpoints.main([]) == 0
    assert "0 running on this machine" in capsys.readouterr().out
    assert deploy.main(["from_training=dogs", "name=pets"]) == 0
    assert "had failed; it is removed and made anew" in capsys.readouterr().out


def is_listening(number):
    """Whether a command waits for the signal; at any other time it would end all the tests."""
    return isinstance(getattr(signal.getsignal(number), "__self__", None), follow.Interrupted)


def interrupt_when(condition, number=signal.SIGINT):
    def wait():
        eventually(lambda: condition() and is_listening(number))
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_ctrl_c_while_it_is_made_leaves_nothing(capsys):
    train("late", startup_s=30)
    thread = interrupt_when(lambda: state_of("outputs/endpoints/late").get("pid"))
    assert deploy.main(["from_training=late"]) == 130
    thread.join()
    assert "endpoint late is removed; nothing of it is left" in capsys.readouterr().out
    assert not list(Path("outputs/endpoints").rglob("*.*"))


def test_ctrl_c_between_its_requests_leaves_nothing_either(capsys, monkeypatch):
    train("early", startup_s=30)
    interrupt_create(monkeypatch, LocalBackend)
    assert deploy.main(["from_training=early"]) == 130
    assert "endpoint early is removed; nothing of it is left" in capsys.readouterr().out
    assert not list(Path("outputs/endpoints").rglob("*.*"))


def test_mistakes_are_one_line_that_says_what_to_type(dogs):
    train("failed", "Failed")
    train("running", "InProgress")
    put_training(Path("outputs/empty"))
    old = Path("outputs/old")
    put_training(old)
    pack_model(old)
    (old / "output/model.tar.gz").write_bytes(b"")
    put_tuning(Path("outputs/nothing"), objectives=[None])
    images("photos", a="1.a")
    for main, words, message in (
        (deploy, ["from_training=dogz"], "no sweep or training is called 'dogz'; did you mean dogs?"),
        (deploy, [], "from_training is not set: type from_training=NAME"),
        (deploy, ["from_training=failed"], "training failed has left no model, it failed"),
        (
            deploy,
            ["from_training=empty"],
            r"training empty has left no model \(.* is not there\); train again",
        ),
        (deploy, ["from_training=old"], "model.tar.gz cannot be read"),
        (deploy, ["from_training=nothing"], "sweep nothing has no best trial: none gave a result"),
        (deploy, ["from_training=dogs", "instance.kount=2"], "did you mean instance.count"),
        (deploy, ["from_training=dogs", "serverless.memory_mb=1"], "serverless.memory_mb=1: must be a whole number"),
        (deploy, ["from_training=dogs", "serverless.memory_mb=1500"], "1500 is not one of 1024, 2048"),
        (deploy, ["from_training=dogs", "answer=lable"], "answer=lable: not allowed; did you mean label"),
        (deploy, ["from_training=dogs", "autoscaling.max_count=2"], "autoscaling.max_count is done by AWS"),
        (deploy, ["from_training=dogs", "data_capture.percent=2"], "data_capture.percent is done by AWS"),
        (deploy, ["from_training=dogs", "name=a_b"], "'a_b' does not match the pattern"),
        (predict, ["dgos", "photos/a.jpg"], "no endpoint is called 'dgos'; did you mean dogs?"),
        (predict, ["dogs"], "give an endpoint and what to ask it about"),
        (predict, ["dogs", "none.jpg"], "none.jpg: there is no such image or folder"),
        (predict, ["dogs", "photos", "photos/a.jpg"], "photos is a folder: give it alone"),
        (predict, ["dogs", "outputs"], "outputs has no images"),
        (predict, ["dogs", "photos", "in_flight=0"], "in_flight=0: must be a whole number"),
        (predict, ["dogs", "photos", "output=no/such/x.csv"], "output=no/such/x.csv cannot be written"),
        (undeploy, ["cats"], "no endpoint is called 'cats'; there are: dogs"),
        (undeploy, [], "give the one name to remove"),
        (endpoints, ["cats"], "no endpoint is called 'cats'"),
    ):
        with pytest.raises(UserError, match=message) as error:
            main.main(words)
        assert "\n" not in str(error.value), words


def test_a_name_that_something_else_made_is_not_touched(home):
    client = local_client(Path("outputs"), serve=SERVE)
    container = {"Image": "dogbreed", "ModelDataUrl": "s3://local/dogs/output/model.tar.gz"}
    client.create_model(ModelName="theirs", PrimaryContainer=container)
    variant = {"VariantName": "a", "ModelName": "theirs", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    client.create_endpoint_config(EndpointConfigName="theirs", ProductionVariants=[variant])
    client.create_endpoint(EndpointName="dogs", EndpointConfigName="theirs")
    with pytest.raises(UserError, match="the name dogs is taken by an endpoint that was not made here"):
        deploy.main(["from_training=dogs"])
    assert undeploy.main(["dogs"]) == 0
    assert client.describe_model(ModelName="theirs") and client.describe_endpoint_config(EndpointConfigName="theirs")


def test_photos_that_can_not_be_read_are_said_beside_those_that_can(dogs, capsys):
    images(".", good="1.b", broken="bad bytes", crowded="busy 2.c")
    assert predict.main(["dogs", "good.jpg", "broken.jpg", "crowded.jpg", "--json"]) == 1
    good, broken, crowded = json.loads(capsys.readouterr().out)
    assert (good["class_name"], crowded["class_name"]) == ("b", "c")  # the busy server was asked again
    assert "cannot be read as an image" in broken["error"]


def test_a_folder_becomes_a_csv_with_accuracy_and_the_same_command_goes_on(dogs, capsys):
    images("pets", **{"001.Pug__a": "001.Pug", "001.Pug__b": "002.Collie", "002.Collie__c": "002.Collie"})
    images("pets", **{"002.Collie__torn": "bad bytes", "002.Collie__d": "busy 002.Collie"})
    (Path("pets") / "notes.txt").write_text("no image")
    assert predict.main(["dogs", "pets/"]) == 0
    printed = capsys.readouterr().out
    assert "5 images, 1 of them unreadable" in printed and "accuracy by their folders: 0.7500 (3 of 4)" in printed
    found = rows()
    assert len(found) == 5
    assert found["pets/001.Pug/a.jpg"]["class_name"] == "Pug"
    assert json.loads(found["pets/001.Pug/b.jpg"]["top_k"]) == [["002", 0.75], ["999", 0.25]]
    assert "cannot be read as an image" in found["pets/002.Collie/torn.jpg"]["reason"]
    text = Path("predictions.csv").read_text()
    Path("predictions.csv").write_text(text[: text.rindex(",") - 20])  # killed in the middle of its last line
    images("pets", **{"001.Pug__new": "001.Pug"})
    assert predict.main(["dogs", "pets"]) == 0
    printed = capsys.readouterr().out
    assert "4 of 6 images are in predictions.csv already" in printed and "2 images" in printed
    assert "(4 of 5)" in printed and len(rows()) == 6
    train("other")
    deploy.main(["from_training=other", "name=dogs"])
    with pytest.raises(UserError, match=r"predictions\.csv has answers of model dogs-.*: remove it, or give output"):
        predict.main(["dogs", "pets"])
    Path("mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"mine\.csv is no file of predictions"):
        predict.main(["dogs", "pets", "output=mine.csv"])


def test_an_endpoint_that_answers_with_numbers_alone(capsys):
    assert deploy.main(["from_training=dogs", "answer=index"]) == 0
    images("pets", a="68", b="7")
    assert predict.main(["dogs", "pets/a.jpg", "--json"]) == 0
    assert '"predicted_label": "68"' in capsys.readouterr().out
    assert predict.main(["dogs", "pets"]) == 0
    assert {key: row["label"] for key, row in rows().items()} == {"pets/a.jpg": "68", "pets/b.jpg": "7"}


def test_an_endpoint_that_fails_on_everything_ends_the_run_and_on_a_few_does_not(dogs, capsys):
    images("few", a="crash", b="1.a", c="crash")
    assert predict.main(["dogs", "few", "in_flight=1"]) == 0
    assert rows()["few/a.jpg"]["reason"] == "the endpoint failed on it (500): out of memory"
    images("all", **{f"p{number:02d}": "crash" for number in range(20)})
    with pytest.raises(UserError, match=r"fails on every image; the last time: .*out of memory"):
        predict.main(["dogs", "all", "output=all.csv"])


def test_folders_that_are_no_classes_give_no_accuracy(dogs, capsys):
    images("trip", monday__a="001.Pug", tuesday__b="002.Collie")
    assert predict.main(["dogs", "trip"]) == 0
    assert "accuracy" not in capsys.readouterr().out


def test_ctrl_c_keeps_what_was_answered_and_the_endpoint(dogs, capsys):
    images("many", **{f"p{number:02d}": "slow 1.a" for number in range(20)})
    thread = interrupt_when(lambda: Path("predictions.csv").exists() and len(rows()) >= 2)
    assert predict.main(["dogs", "many", "in_flight=2"]) == 130
    thread.join()
    kept = len(rows())
    printed = capsys.readouterr().out
    assert 2 <= kept < 20 and f"SIGINT: {20 - kept} are left; the same command goes on" in printed
    assert predict.main(["dogs", "many", "in_flight=20"]) == 0
    assert len(rows()) == 20


def test_an_endpoint_that_dies_in_the_middle_is_said_and_what_was_answered_is_kept(dogs):
    images("many", **{f"p{number:02d}": "slow 1.a" for number in range(8)})
    pid = dogs["pid"]

    def kill():
        eventually(lambda: Path("predictions.csv").exists() and len(rows()) >= 2)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(UserError, match=r"endpoint dogs does not answer, it is Failed.*the same command goes on"):
        predict.main(["dogs", "many", "in_flight=2"])
    thread.join()
    assert 2 <= len(rows()) < 8


def test_images_under_an_s3_prefix(dogs, s3_server, capsys, monkeypatch):
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
