"""Composition of configs; a mistake in an override is one line with its correction."""

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from dogbreed.cli.config import compose, fresh_name, resolve_defaults
from dogbreed.cli.groups import conf_dir
from dogbreed.errors import UserError
from launch.spec.settings import compose as compose_launch


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=resnet43", "model 'resnet43' is unknown; did you mean resnet34?"),
        ("modell=resnet18", "key 'modell' is unknown; did you mean model?"),
        ("batchsize=3", "did you mean batch_size?"),
        ("trainer.maxepochs=3", "did you mean trainer.max_epochs?"),
        ("nosuch=1", "key 'nosuch' is unknown; allowed: "),
        ("lr=abc", "lr=abc: must be a number of at least 0"),
        ("epochs=2.5", "epochs=2.5: must be a whole number of at least 1"),
        ("batch_size=0", "batch_size=0: must be a whole number"),
        ("label_smoothing=2", "must be a number from 0 to 1"),
        ("finetune=heads", "did you mean head?"),
        ("layer_decay=2", "layer_decay=2: must be a number from 0 to 1"),
        ("averaging=emma", "averaging=emma: not allowed; did you mean ema?"),
        ("effective_batch_size=0", "must be a whole number of at least 1"),
        ("data.randaugment=31", "must be a whole number from 0 to 30"),
        ("tta=no", "tta=no: must be true or false"),
        ("data.augment=1", "data.augment=1: must be true or false"),
        ("debugger.smdebug.enabled=flase", "must be true or false"),
        ("objective.goal=max", "objective.goal=max: not allowed"),
        ("objective.metric=val/acuracy", "objective.metric=val/acuracy: not allowed; did you mean val/accuracy?"),
        ("data=folder", "data.url is not set: type data.url=VALUE"),
        ("model=timm", "model.name is not set"),
        ("lr=interval(", "cannot read 'lr=interval('"),
        ("lr", "cannot read 'lr'"),
        ("+lr=3", "lr"),
        ("~nosuch", "nosuch"),
        ("scheduler=cosinus", "did you mean cosine?"),
        ("data.url=${nope}", "nope"),
        ("data=/my/dogs", "data=/my/dogs: give images by their address, type data=folder data.url=/my/dogs"),
        ("data=s3://b/dogs", "type data=s3 data.url=s3://b/dogs"),
        ("lr=0.1,0.2", "several values, but this command takes one; python -m launch.tune 'lr=0.1,0.2'"),
        ("image_size=128", "key 'image_size' is unknown; did you mean data.image_size?"),
        ("tuner.max_jobs=3", "key 'tuner.max_jobs' has no effect on this command"),
        ("--lr=0.1", "'--lr=0.1': settings have no dashes; type lr=0.1"),
    ],
)
def test_a_mistake_gives_one_line(override, message):
    with pytest.raises(UserError) as error:
        compose("train", [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


LAUNCHER_GROUPS = ("search", "tuner", "backend", "instance")


@pytest.mark.parametrize(
    "path", sorted(conf_dir().glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}={path.stem}"
)
def test_every_choice_in_conf_composes(path):
    choice = f"{path.parent.name}={path.stem}"
    needed = ["model.name=resnet18"] if choice == "model=timm" else []
    needed += ["data.url=/images"] if choice in ("data=folder", "data=s3") else []
    for config in ["tune"] if path.parent.name in LAUNCHER_GROUPS else ["train", "tune"]:
        cfg = resolve_defaults((compose if config == "train" else compose_launch)(config, [choice, *needed]))
        assert cfg.name
        assert cfg.model.weights in ("hub", "random")


def test_only_demo_data_defaults_to_random_weights():
    demo, own = resolve_defaults(compose("train", [])), resolve_defaults(compose("train", ["data.url=/my/dogs"]))
    assert (demo.model.weights, demo.finetune) == ("random", "full")
    assert (own.model.weights, own.finetune) == ("hub", "head")


def test_user_overrides_experiment_which_overrides_tuner():
    assert compose_launch("tune", ["experiment=course_b"]).tuner.strategy == "Bayesian"
    assert compose_launch("tune", ["experiment=course_b", "tuner.strategy=Random"]).tuner.strategy == "Random"


def test_null_selects_no_experiment():
    assert compose("train", ["experiment=best", "experiment=null"]) == compose("train", [])
    assert compose("train", ["experiment=null", "experiment=best"]) == compose("train", ["experiment=best"])


def test_names_are_new_readable_and_short_enough():
    names = {fresh_name("Res Net/34_é" * 5) for _ in range(8)}
    assert len(names) == 8
    assert all(len(name) <= 32 and name.replace("-", "").isalnum() and name.isascii() for name in names)
    assert all("--" not in name and not name.endswith("-") for name in names)


def test_dashes_with_a_value_apart_name_the_override():
    with pytest.raises(UserError, match=r"settings have no dashes; type lr=0\.1"):
        compose("train", ["--lr", "0.1"])


def test_compose_keeps_an_initialised_hydra(tmp_path):
    (tmp_path / "app.yaml").write_text("x: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        compose("train", ["lr=0.5"])
        with pytest.raises(UserError):
            compose("train", ["nosuch=1"])
        assert GlobalHydra.instance().hydra is before
        assert hydra_compose("app").x == 1
    assert not GlobalHydra.instance().is_initialized()


def test_compose_leaves_hydra_uninitialised():
    GlobalHydra.instance().clear()
    compose("train")
    assert not GlobalHydra.instance().is_initialized()
