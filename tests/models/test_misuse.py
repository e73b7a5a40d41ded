"""ImageClassifier with trainers, loaders, data and arguments as users combine them."""

import pickle

import pytest
import pytorch_lightning as pl
import timm
import torch

from dogbreed import ImageClassifier, ImageDataModule
from dogbreed.errors import UserError
from dogbreed.models import backbones

CREATE = timm.create_model


def quiet_trainer(**settings):
    hidden = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return pl.Trainer(accelerator="cpu", enable_checkpointing=False, **{"max_epochs": 1, **hidden, **settings})


def demo_model(name="test_resnet", size=32, **settings):
    data = ImageDataModule(f"demo://?classes=3&train=4&valid=4&test=4&size={size}", batch_size=4)
    model = ImageClassifier(name, data.classes, weights="random", **settings)
    data.input_spec = model.input_spec
    return model, data


def test_head_of_hub_weights_is_new_for_as_many_classes(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kwargs: CREATE(name, **kwargs))
    net = backbones.create("test_resnet", 1000, "hub", {})
    assert net.get_classifier().weight.std() < 0.02


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_image_size_that_does_not_fit_is_a_user_error(stage):
    model, data = demo_model("test_vit3")
    with pytest.raises(UserError, match=r"needs images of 160 x 160 px, got 32 x 32: .*model.kwargs.img_size=32"):
        getattr(quiet_trainer(), stage)(model, data)


def test_img_size_makes_a_network_of_that_size():
    model, data = demo_model("test_vit3", model_kwargs={"img_size": 32})
    assert (model.input_spec.height, model.input_spec.width) == (32, 32)
    quiet_trainer(max_steps=1).fit(model, data)


@pytest.mark.parametrize(
    "kwargs", [{"in_chans": 1}, {"global_pool": ""}, {"features_only": True}, {"checkpoint_path": "x.pth"}]
)
def test_kwargs_that_make_no_classifier_are_a_user_error(kwargs):
    with pytest.raises(UserError, match=rf"model.kwargs.{next(iter(kwargs))}="):
        demo_model(model_kwargs=kwargs)


@pytest.mark.parametrize("name", ["test_resnet.badtag", "vit_base_patch16_224.badtag"])
def test_unknown_tag_is_a_user_error(name):
    with pytest.raises(UserError, match="badtag"):
        demo_model(name)


@pytest.mark.parametrize("first", ["validate", "test", "fit"])
def test_fit_works_after_any_other_stage(first):
    """Metric states that are reset in inference mode must stay usable in a fit."""
    model, data = demo_model()
    getattr(quiet_trainer(), first)(model, data)
    quiet_trainer().fit(model, data)


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.5}])
def test_plain_loaders_of_uint8_images_give_the_same_scores(settings):
    model, data = demo_model(**settings)
    [expected] = quiet_trainer().validate(model, data, verbose=False)
    [scores] = quiet_trainer().validate(model, data.val_dataloader(), verbose=False)
    assert scores["val/loss"] == pytest.approx(expected["val/loss"], rel=1e-4)
    assert len(quiet_trainer().predict(model, data.test_dataloader())) == 3
    quiet_trainer().fit(model, data.train_dataloader(), data.val_dataloader())


@pytest.mark.parametrize("change", [lambda names: names[::-1], lambda names: names[:2], lambda names: [*names, "x"]])
def test_data_with_other_classes_is_a_user_error(change):
    _, data = demo_model()
    model = ImageClassifier("test_resnet", change(data.classes), weights="random")
    with pytest.raises(UserError, match="other classes than the model, or another order: class"):
        quiet_trainer().test(model, data)


def test_network_without_numbered_stages_can_be_created(monkeypatch):
    def fails(self, coarse=False):
        raise AssertionError("not implemented")

    monkeypatch.setattr(timm.models.ResNet, "group_matcher", fails)
    model, data = demo_model(finetune="gradual", unfreeze_epoch=0, layer_decay=0.8)
    quiet_trainer().fit(model, data)


@pytest.mark.parametrize("settings", [{"barebones": True}, {"log_every_n_steps": 0}])
def test_fit_without_logging_works(settings, tmp_path):
    model, data = demo_model()
    quiet = {"accelerator": "cpu", "max_epochs": 1, "default_root_dir": tmp_path}
    pl.Trainer(**quiet, **settings, **({} if settings.get("barebones") else {"logger": False})).fit(model, data)


def test_class_names_of_colliding_numbers_are_folders():
    assert ImageClassifier("test_resnet", ["1.5L", "1.6L"], weights="random").class_names == ["1.5L", "1.6L"]


def test_unnumbered_layers_are_named(monkeypatch):
    monkeypatch.delattr(timm.models.ResNet, "group_matcher")
    model, data = demo_model(finetune="full", layer_decay=0.8)
    with pytest.warns(UserWarning, match="timm numbers no layers of test_resnet: layer_decay and unfreeze_every"):
        quiet_trainer(max_steps=1).fit(model, data)


def test_batch_of_one_image_with_batch_norm_is_skipped():
    model, data = demo_model(finetune="full")
    model.net.add_module("last", torch.nn.BatchNorm1d(3))
    forward = type(model.net).forward
    model.net.forward = lambda images: model.net.last(forward(model.net, images))
    data.batch_size = 1
    with pytest.warns(UserWarning, match="skipped a batch of one image, on which batch norm fails"):
        quiet_trainer(max_steps=2).fit(model, data)
    assert all(value.isfinite().all() for value in model.parameters())


def test_soft_labels_and_several_loaders_are_counted():
    model, data = demo_model()
    images = torch.randn(8, 3, 32, 32)
    soft = torch.nn.functional.one_hot(torch.arange(8) % 3, 3).float() * 0.9 + 1 / 30
    loader = torch.utils.data.DataLoader(list(zip(images, soft, strict=True)), batch_size=4)
    quiet_trainer().fit(model, loader, [loader, loader])
    [hard] = quiet_trainer().validate(model, data, verbose=False)
    assert {"val/loss", "val/accuracy"} <= hard.keys()
    [probabilities, _] = quiet_trainer().predict(model, torch.utils.data.DataLoader(images, batch_size=4))
    assert probabilities.shape == (4, 3)


@pytest.mark.parametrize("classes", [10, "abc"])
def test_classes_that_are_not_a_list_are_a_user_error(classes):
    with pytest.raises(UserError, match="give the names of all classes in a list"):
        ImageClassifier("test_resnet", classes)


def test_checkpoint_with_other_classes_is_one_line(tmp_path):
    model, data = demo_model()
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"other weights than a model .* weights="):
        ImageClassifier.load_from_checkpoint(tmp_path / "x.ckpt", classes=["a", "b"])
    assert ImageClassifier("test_resnet", ["a", "b"], weights=str(tmp_path / "x.ckpt")).classes == ["a", "b"]


@pytest.mark.parametrize("tta", [False, True])
def test_model_and_data_can_be_pickled_before_and_after_a_fit(tta):
    model, data = demo_model(tta=tta)
    for _ in range(2):
        copied = pickle.loads(pickle.dumps(model))
        other = pickle.loads(pickle.dumps(data))
        assert len(list(other.train_dataloader())) == 3
        assert torch.equal(copied.eval()(torch.ones(1, 3, 32, 32)), model.eval()(torch.ones(1, 3, 32, 32)))
        quiet_trainer().fit(model, data)


@pytest.mark.parametrize("kind", ["prefix", "counters", "nested", "size"])
def test_weights_in_other_forms_are_loaded(tmp_path, kind):
    name = "test_vit3" if kind == "size" else "test_resnet"
    net = timm.create_model(name)
    state = net.state_dict()
    if kind == "prefix":
        state = {f"model.{key}": value for key, value in state.items()}
    if kind == "counters":
        state = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    torch.save({"model_state_dict": state} if kind == "nested" else state, tmp_path / "weights.pth")
    kwargs = {"img_size": 32} if kind == "size" else {}
    made = backbones.create(name, 3, str(tmp_path / "weights.pth"), kwargs)
    key = next(key for key, value in net.named_parameters() if value.ndim > 1 and "pos_embed" not in key)
    assert torch.equal(made.state_dict()[key], net.state_dict()[key])


@pytest.mark.parametrize("content", [b"", b"text"])
def test_damaged_weights_are_one_line(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as weights"):
        backbones.create("test_resnet", 3, str(tmp_path / "weights.pth"), {})
