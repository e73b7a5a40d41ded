"""ImageClassifier: trainable parameters, losses, metrics, weights and checkpoints."""

import copy
import math

import pytest
import pytorch_lightning as pl
import safetensors.torch
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

from dogbreed import ImageClassifier
from dogbreed.errors import UserError
from dogbreed.models.heads import has_linear_head, split_parameters
from dogbreed.models.tta import FlipTTA

CLASSES = ["001.Pug", "002.French_bulldog", "003.Collie"]
TINY = "test_resnet"


def classifier(**kwargs):
    return ImageClassifier(kwargs.pop("model", TINY), CLASSES, **({"weights": "random"} | kwargs))


def batches(num=2, size=32):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8 * num, 3, size, size, generator=generator)
    return DataLoader(list(zip(images, torch.arange(8 * num) % 3, strict=True)), batch_size=8)


def fit(model, epochs=1, **settings):
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(model, batches(), batches())
    return trainer


def moved(model, before):
    after = model.net.state_dict()
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_efficientnet", "mobilenetv2_050"])
def test_classifier_of_any_model_trains_only_its_head(name):
    model = classifier(model=name, lr=0.1)
    size = model.input_spec.width if name == "test_vit" else 64
    assert model(torch.randn(2, 3, size, size)).shape == (2, 3)
    body, head = split_parameters(model.net)
    assert not any(p.requires_grad for p in body)
    assert head and all(p.requires_grad for p in head)
    assert len(body) + len(head) == len(list(model.net.parameters()))


def test_frozen_backbone_and_its_norms_do_not_change():
    model = classifier(finetune="head", lr=0.1)
    before = copy.deepcopy(model.net.state_dict())
    fit(model)
    assert moved(model, before) == {"fc.weight", "fc.bias"}


def test_full_finetuning_changes_all_parameters():
    model = classifier(finetune="full", lr=0.1)
    before = copy.deepcopy(model.net.state_dict())
    fit(model)
    trained = {name for name, _ in model.net.named_parameters()}
    assert moved(model, before) >= trained
    assert any("running_mean" in key for key in moved(model, before))


@pytest.mark.parametrize(("settings", "most"), [({}, math.inf), ({"gradient_clip_val": 1e-4}, 1e-4)])
def test_gradient_clip_val_bounds_the_gradients(settings, most):
    norms = []

    class GradientNorms(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            found = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
            norms.extend([torch.stack(found).norm().item()] if found else [])

    fit(classifier(), epochs=3, callbacks=[GradientNorms()], **settings)
    assert norms and 0 < max(norms) <= most * 1.001
    assert settings or min(norms) > 1e-3


def test_gradual_unfreezes_the_backbone_with_a_smaller_lr():
    model = classifier(finetune="gradual", unfreeze_epoch=1, lr=0.1, backbone_lr_factor=0.01)
    before = copy.deepcopy(model.net.state_dict())
    fit(model, epochs=1)
    assert moved(model, before) == {"fc.weight", "fc.bias"}
    trainer = fit(model, epochs=2)
    assert {name for name, _ in model.net.named_parameters()} <= moved(model, before)
    rates = {group["name"].split(",")[0]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert rates == {"head": 0.1, "backbone": pytest.approx(0.001)}


def test_gradual_unfreezes_stage_by_stage_with_norms():
    model = classifier(finetune="gradual", unfreeze_epoch=1, unfreeze_every=1, lr=0.1, layer_decay=0.9)
    before = copy.deepcopy(model.net.state_dict())
    fit(model, epochs=2)
    assert {key.split(".")[0] for key in moved(model, before)} == {"fc", "layer4"}
    assert {key for key in before if key.startswith("layer4")} <= moved(model, before)  # running statistics too


class StopAfterTwoEpochs(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == 1


def test_fit_without_bound_works_unless_a_schedule_needs_it():
    assert fit(classifier(), epochs=-1, callbacks=[StopAfterTwoEpochs()]).current_epoch == 2
    cosine = {"_target_": "dogbreed.models.schedules.cosine"}
    assert fit(classifier(scheduler=cosine), epochs=-1, max_steps=3).global_step == 3
    with pytest.raises(UserError, match="scheduler=cosine needs max_epochs or max_steps"):
        fit(classifier(scheduler=cosine), epochs=-1)


def test_training_loss_is_smoothed_validation_loss_is_not():
    model = classifier(label_smoothing=0.3, lr=0.0, weight_decay=0.0)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    logs = logits.log_softmax(dim=1)
    by_hand = -(0.7 * logs[range(5), labels] + 0.3 * logs.mean(dim=1)).mean()
    assert model.train_loss(logits, labels).item() == pytest.approx(by_hand.item(), rel=1e-6)
    trainer = fit(model)
    (tested,) = trainer.test(model, batches(), verbose=False)
    (validated,) = trainer.validate(model, batches(), verbose=False)
    model.eval()
    with torch.no_grad():
        plain = torch.stack([nn.functional.cross_entropy(model(x), y) for x, y in batches()]).mean().item()
    assert tested["test/loss"] == pytest.approx(plain, rel=1e-5)
    assert validated["val/loss"] == pytest.approx(plain, rel=1e-5)


def test_mixed_images_have_mixed_smoothed_targets():
    torch.manual_seed(3)
    model = classifier(mixup=1.0, cutmix=1.0, label_smoothing=0.2, finetune="full").eval()
    model.log = lambda *_, **__: None
    images, labels = torch.rand(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 1])
    seen = []
    model.mixup.register_forward_hook(lambda module, inputs, output: seen.append(output))
    shares = set()
    for _ in range(8):
        loss = model.training_step((images, labels), 0)
        mixed, targets = seen[-1]
        logs = model(mixed).log_softmax(dim=1)
        by_hand = -((0.8 * targets + 0.2 / 3) * logs).sum(dim=1).mean()
        assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
        share = targets[0, 0].item()  # of a 0 with the 1 before it
        shares.add(share)
        assert torch.allclose(targets.sum(dim=1), torch.ones(6)) and targets[0, 1].item() == pytest.approx(1 - share)
        assert mixed.mean().item() == pytest.approx(images.mean().item(), abs=0.02)
    assert len(shares) == 8
    counts = model.metrics["train_metrics"]
    counts.reset()
    model.training_step((images, labels), 0)
    mixed, targets = seen[-1]
    right = (model(mixed).argmax(dim=1) == targets.argmax(dim=1)).float().mean().item()
    assert counts.compute()["accuracy"].item() == pytest.approx(right)
    model.validation_step((images, labels), 0)
    assert len(seen) == 9  # only training images are mixed


def test_tta_averages_both_sides_only_in_eval_mode():
    plain, both = classifier(), classifier(tta=True)
    both.load_state_dict(plain.state_dict())
    images = torch.rand(4, 3, 32, 32)
    mean = (plain.eval()(images) + plain(images.flip(-1))) / 2
    assert torch.equal(both.eval()(images), mean)
    assert torch.equal(both.net(images), plain(images)) and not both.net._forward_hooks  # the network itself is plain
    assert torch.equal(FlipTTA(plain.net)(images), mean)
    assert torch.equal(both.validation_step((images, torch.zeros(4).long()), 0)["logits"], mean)
    assert torch.equal(both.predict_step((images,), 0), mean.softmax(dim=1))
    assert torch.equal(both.train()(images), plain.train()(images))


def test_compile_happens_in_place_when_a_fit_begins(monkeypatch):
    compiled = []
    compile_it = lambda module: compiled.append(module)  # noqa: E731, PLW0108 - a builtin would not be bound
    monkeypatch.setattr(torch.nn.Module, "compile", compile_it)
    model = classifier(compile=True)
    names = list(model.state_dict())
    assert not compiled
    fit(model)
    assert compiled == [model.net] and list(model.state_dict()) == names


def test_metrics_of_a_test_equal_manual_counts():
    model = classifier()
    trainer = fit(model, epochs=0)
    found = trainer.test(model, batches(), verbose=False)[0]
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(images) for images, _ in batches()])
    labels = torch.arange(16) % 3
    right = logits.argmax(dim=1) == labels
    assert found["test/accuracy"] == pytest.approx(right.float().mean().item())
    assert found["test/loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found["test/top5_accuracy"] == 1.0
    report = model.class_report()
    assert [row["name"] for row in report] == ["Pug", "French_bulldog", "Collie"]
    assert [row["accuracy"] for row in report] == pytest.approx(
        [right[labels == c].float().mean().item() for c in range(3)]
    )


def test_empty_batch_gives_a_zero_loss_and_counts_nothing():
    model = classifier(finetune="full")
    empty = (torch.empty(0, 3, 32, 32), torch.empty(0, dtype=torch.int64))
    loss = model.training_step(empty, 0)
    loss.backward()
    assert loss.item() == 0
    assert all(not parameter.grad.any() for parameter in model.parameters())  # DDP waits for each of them
    assert model.validation_step(empty, 0)["logits"].shape == (0, 3)
    assert model.metrics["val_metrics"].update_called and model.metrics["val_metrics"].present.sum() == 0


class OwnStep(ImageClassifier):
    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


def test_subclass_with_its_own_step_logs_no_training_metrics():
    trainer = fit(OwnStep(TINY, CLASSES, weights="random"))
    assert "val/loss" in trainer.callback_metrics and "train/loss" not in trainer.callback_metrics


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_head_dropout_is_active_while_the_head_is_trained(name):
    model = classifier(model=name, model_kwargs={"drop_rate": 0.5}).train()
    size = model.input_spec.height
    images = torch.rand(2, 3, size, size)
    assert not torch.equal(model(images), model(images))
    assert torch.equal(model.eval()(images), model(images))
    assert has_linear_head(model.net, size, size)


def test_distilled_network_has_no_single_linear_head():
    net = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3)
    assert not has_linear_head(net, 224, 224)


def test_fused_optimizer_with_clipping_in_mixed_precision_fits():
    fused = {"_target_": "torch.optim.AdamW", "fused": True}
    trainer = fit(classifier(optimizer=fused), precision="bf16-mixed", gradient_clip_val=1.0)
    assert trainer.global_step == 2 and not trainer.optimizers[0].defaults["fused"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"_target_": "os.system"}}, "is not a torch.optim.Optimizer"),
        ({"optimizer": {"_target_": "torch.optim.Nosuch"}}, "cannot be imported"),
        ({"optimizer": {"_target_": "torch.optim.LBFGS"}}, "optimizer=lbfgs fits a linear probe"),
        ({"scheduler": {"_target_": "os.system"}}, "must be a function of step"),
        ({"finetune": "linear_probe"}, "no training steps"),
    ],
)
def test_fit_with_an_impossible_setting_is_a_user_error(settings, message):
    with pytest.raises(UserError, match=message):
        fit(classifier(**settings))


def test_checkpoint_loads_without_hub_or_weights_file(tmp_path):
    weights = tmp_path / "start.safetensors"
    safetensors.torch.save_file(timm.create_model(TINY).state_dict(), str(weights))
    model = classifier(weights=str(weights), lr=0.05)
    trainer = fit(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    weights.unlink()
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.classes == CLASSES
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded.eval()(images), model.eval()(images))
    assert loaded.hparams["weights"] == str(weights)  # the weights that the training started from


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_file_fills_all_but_a_head_of_another_size(tmp_path, suffix, caplog):
    source = timm.create_model(TINY, num_classes=1000).state_dict()
    path = tmp_path / f"weights{suffix}"
    safetensors.torch.save_file(source, str(path)) if suffix == ".safetensors" else torch.save(source, path)
    with caplog.at_level("INFO"):
        model = classifier(weights=str(path))
    first = next(name for name, _ in model.net.named_parameters())
    assert torch.equal(model.net.state_dict()[first], source[first])
    assert model.net.state_dict()["fc.weight"].shape == (3, source["fc.weight"].shape[1])
    assert "its head is new" in caplog.text


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_new_head_on_pretrained_features_starts_uniform(tmp_path, name):
    torch.save(timm.create_model(name, num_classes=1000).state_dict(), tmp_path / "w.pth")
    model = classifier(model=name, weights=str(tmp_path / "w.pth")).eval()
    with torch.no_grad():
        losses = [model.train_loss(model(images), labels).item() for images, labels in batches()]
    assert losses == pytest.approx([math.log(3)] * len(losses), abs=0.2)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('pickle was executed')",))


def test_weights_file_is_never_unpickled(tmp_path):
    torch.save({"conv1.weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(UserError, match="cannot be read as weights"):
        classifier(weights=str(tmp_path / "bomb.pth"))


def test_weights_that_do_not_fit_are_a_user_error(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file"):
        classifier(weights=str(tmp_path / "nowhere.pth"))
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="are not those of test_resnet"):
        classifier(weights=str(tmp_path / "other.pth"))
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(UserError, match="cannot be read as weights"):
        classifier(weights=str(tmp_path / "text.pth"))


def test_unreachable_hub_is_a_user_error(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(UserError, match=r"model\.weights=PATH\.safetensors") as error:
        classifier(weights="hub")
    assert "model.weights=random" in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model": "resnet43"}, "model.name=resnet43 is not a timm model"),
        ({"finetune": "haed"}, "did you mean head?"),
        ({"model_kwargs": {"nosuch": 1}}, "nosuch"),
    ],
)
def test_wrong_arguments_are_a_user_error(kwargs, message):
    with pytest.raises(UserError, match=message):
        classifier(**kwargs)
    with pytest.raises(UserError, match="two classes"):
        ImageClassifier(TINY, ["alone"], weights="random")


def test_optimizer_and_scheduler_come_from_the_settings():
    model = classifier(
        lr=0.2, weight_decay=0.3, optimizer={"_target_": "torch.optim.SGD", "momentum": 0.8},
        scheduler={"_target_": "dogbreed.models.schedules.cosine", "warmup": 0.5},
    )  # fmt: skip
    trainer = fit(model, epochs=2)
    (optimizer,) = trainer.optimizers
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["momentum"], optimizer.param_groups[0]["weight_decay"]) == (0.8, 0.3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_constant_schedule_makes_no_scheduler():
    trainer = fit(classifier(lr=0.2, scheduler={"_target_": "dogbreed.models.schedules.constant"}), epochs=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.2
    assert not trainer.lr_scheduler_configs
