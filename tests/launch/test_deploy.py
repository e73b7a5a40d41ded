"""`launch.deploy`, `endpoints` and `undeploy` on this machine, with a stand-in model server."""

import json
import re
import urllib.request
from pathlib import Path

import pytest

from dogbreed.errors import UserError
from launch import deploy, endpoints, predict, undeploy
from launch.backends.local import LocalBackend
from launch.local.api.boto_client import local_client
from tests.launch.cloud import interrupt_create, wait_for
from tests.launch.local_jobs import SERVE, is_running, pack_model, put_training, put_tuning, state_of
from tests.launch.served import images, interrupt_when, train

pytestmark = pytest.mark.usefixtures("trained_dogs")


def test_deploy_predict_undeploy_leaves_nothing(capsys):
    assert deploy.main(["from_training=dogs", "top_k=1", "instance.price_per_hour=0.5"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"training +│ dogs", printed) and "[Creating]" in printed and "[InService]" in printed
    assert "python -m launch.predict dogs photo.jpg" in printed
    page = re.search(r"web page: (http://127.0.0.1:\d+/)", printed)[1]
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
    assert "endpoint dogs is deleted" in capsys.readouterr().out
    assert not is_running(pid)
    assert not list(Path("outputs/endpoints").rglob("*.*"))  # model and configuration are deleted too
    assert endpoints.main([]) == 0
    assert "there are no endpoints" in capsys.readouterr().out


def test_deploy_sweep_selects_best_trial(capsys):
    put_tuning(Path("outputs/sweep"), objectives=[0.5, 0.75, None])
    pack_model(Path("outputs/sweep/sweep-002-00000002"), other="second")
    assert deploy.main(["from_training=sweep"]) == 0
    printed = capsys.readouterr().out
    assert "the best trial of sweep sweep: sweep-002-00000002  val/accuracy=0.7500  lr=2" in printed
    images(".", a="1.b")
    assert predict.main(["sweep", "a.jpg"]) == 0
    assert "second" in capsys.readouterr().out
    assert deploy.main(["from_training=sweep-002-00000002", "name=same"]) == 0


def test_deploy_plain_training_from_model_folder(capsys):
    model = Path("outputs/plain/model")
    model.mkdir(parents=True)
    (model / "model.json").write_text('{"other": "plain"}')
    assert deploy.main(["from_training=plain"]) == 0
    assert "s3://local/plain/model/" in capsys.readouterr().out


def test_deploy_dry_run_prints_requests(capsys):
    assert deploy.main(["from_training=dogs", "dry_run=true", "answer=index", "+environment.A=b"]) == 0
    requests = json.loads(capsys.readouterr().out)
    assert list(requests) == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    environment = requests["CreateModel"]["PrimaryContainer"]["Environment"]
    assert (environment["DOGBREED_ANSWER"], environment["A"]) == ("index", "b")
    assert not Path("outputs/endpoints").exists()


def test_deploy_existing_name_updates_model(dogs, capsys):
    assert deploy.main(["from_training=dogs"]) == 0
    assert "has this model and these settings already" in capsys.readouterr().out
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
    assert "endpoint dogs is InService: the update failed, the endpoint is unchanged" in printed
    assert deploy.main(["from_training=better", "name=dogs", "instance.count=2"]) == 0
    for kind in ("_models", "_configs"):  # unused resources are deleted
        assert len(list(Path("outputs/endpoints", kind).glob("dogs-*"))) == 1
    assert predict.main(["dogs", "a.jpg"]) == 0


def test_deploy_broken_model_shows_log_then_recreates(capsys):
    train("worse", broken=True)
    assert deploy.main(["from_training=worse", "name=pets"]) == 1
    printed = capsys.readouterr().out
    assert "  model.safetensors: the header is not JSON\n" in printed
    assert "endpoint pets is Failed: the server ended before it was ready: exit code 1" in printed
    with pytest.raises(UserError, match=r"endpoint pets is Failed and does not answer \(the server ended before"):
        predict.main(["pets", "outputs"])
    assert endpoints.main([]) == 0
    assert "0 running on this machine" in capsys.readouterr().out
    assert deploy.main(["from_training=dogs", "name=pets"]) == 0
    assert "endpoint pets is Failed; recreating it" in capsys.readouterr().out


def test_deploy_ctrl_c_deletes_unfinished_endpoint(capsys):
    train("late", startup_s=30)
    thread = interrupt_when(lambda: state_of("outputs/endpoints/late").get("pid"))
    assert deploy.main(["from_training=late"]) == 130
    thread.join()
    assert "endpoint late and its resources are deleted" in capsys.readouterr().out
    assert not list(Path("outputs/endpoints").rglob("*.*"))


def test_deploy_ctrl_c_between_requests_deletes_endpoint(capsys, monkeypatch):
    train("early", startup_s=30)
    interrupt_create(monkeypatch, LocalBackend)
    assert deploy.main(["from_training=early"]) == 130
    assert "endpoint early and its resources are deleted" in capsys.readouterr().out
    assert not list(Path("outputs/endpoints").rglob("*.*"))


def test_deploy_foreign_endpoint_not_touched():
    client, theirs = local_client(Path("outputs"), serve=SERVE), "dogs-20240101"  # a common scheme: NAME-DATE
    create_foreign(client, theirs)
    client.create_endpoint(EndpointName="dogs", EndpointConfigName=theirs, Tags=[{"Key": "by", "Value": "terraform"}])
    for command, argv in ((deploy, ["from_training=dogs"]), (undeploy, ["dogs"])):
        with pytest.raises(UserError, match=r"endpoint dogs exists, but .* its tags: by=terraform\)"):
            command.main(argv)
    assert client.describe_endpoint(EndpointName="dogs")["EndpointConfigName"] == theirs
    assert client.describe_model(ModelName=theirs) and client.describe_endpoint_config(EndpointConfigName=theirs)


def test_undeploy_keeps_foreign_configuration_and_model(dogs):
    client, theirs = local_client(Path("outputs"), serve=SERVE), "dogs-1a2b3c4d"  # named as the launcher does
    create_foreign(client, theirs)
    client.update_endpoint(EndpointName="dogs", EndpointConfigName=theirs)
    wait_for(lambda: client.describe_endpoint(EndpointName="dogs")["EndpointConfigName"] == theirs)
    assert undeploy.main(["dogs"]) == 0
    assert client.describe_model(ModelName=theirs) and client.describe_endpoint_config(EndpointConfigName=theirs)


@pytest.mark.parametrize("resource", ["CreateModel", "CreateEndpointConfig"])
def test_deploy_foreign_resource_of_same_name_is_rejected(capsys, resource):
    assert deploy.main(["from_training=dogs", "dry_run=true"]) == 0
    requests = json.loads(capsys.readouterr().out)
    client, name = local_client(Path("outputs"), serve=SERVE), requests["CreateModel"]["ModelName"]
    create_foreign(client, name)
    (client.delete_endpoint_config if resource == "CreateModel" else client.delete_model)(
        **{"EndpointConfigName" if resource == "CreateModel" else "ModelName": name}
    )
    with pytest.raises(UserError, match=f"{name} exists, but launch did not create it .* its tags: none"):
        deploy.main(["from_training=dogs"])
    found = [*client.list_models()["Models"], *client.list_endpoint_configs()["EndpointConfigs"]]
    assert len(found) == 1 and not client.list_endpoints()["Endpoints"]


def create_foreign(client, name):
    """Creates a model and an endpoint configuration without the launcher."""
    container = {"Image": "dogbreed", "ModelDataUrl": "s3://local/dogs/output/model.tar.gz"}
    client.create_model(ModelName=name, PrimaryContainer=container)
    variant = {"VariantName": "a", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])


MISTAKES = [
    (deploy, ["from_training=dogz"], "no sweep or training is called 'dogz'; did you mean dogs?"),
    (deploy, [], "from_training is not set: type from_training=NAME"),
    (deploy, ["from_training=failed"], "training failed failed, it has no model"),
    (deploy, ["from_training=empty"], r"training empty has no model \(.* does not exist\): train again"),
    (deploy, ["from_training=old"], "model.tar.gz cannot be read"),
    (deploy, ["from_training=nothing"], "sweep nothing has no best trial: none gave a result"),
    (deploy, ["from_training=dogs", "instance.kount=2"], "did you mean instance.count"),
    (deploy, ["from_training=dogs", "serverless.memory_mb=1"], "serverless.memory_mb=1: must be a whole number"),
    (deploy, ["from_training=dogs", "serverless.memory_mb=1500"], "1500 is not one of 1024, 2048"),
    (deploy, ["from_training=dogs", "answer=lable"], "answer=lable: not allowed; did you mean label"),
    (deploy, ["from_training=dogs", "autoscaling.max_count=2"], "autoscaling.max_count is only available on AWS"),
    (deploy, ["from_training=dogs", "data_capture.percent=2"], "data_capture.percent is only available on AWS"),
    (deploy, ["from_training=dogs", "name=a_b"], "'a_b' does not match the pattern"),
    (undeploy, ["cats"], "no endpoint is called 'cats'; there are: dogs"),
    (undeploy, [], "give one name, got none"),
    (endpoints, ["cats"], "no endpoint is called 'cats'"),
]


@pytest.mark.parametrize(("command", "argv", "message"), MISTAKES, ids=[row[2][:40] for row in MISTAKES])
def test_deploy_mistake_is_one_line_with_advice(dogs, command, argv, message):
    train("failed", "Failed")
    put_training(Path("outputs/empty"))
    old = Path("outputs/old")
    put_training(old)
    pack_model(old)
    (old / "output/model.tar.gz").write_bytes(b"")
    put_tuning(Path("outputs/nothing"), objectives=[None])
    with pytest.raises(UserError, match=message) as error:
        command.main(argv)
    assert "\n" not in str(error.value)
