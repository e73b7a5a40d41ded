"""What a classifier trains, what it leaves alone, where its weights come from."""

import copy
import itertools
import math

import pytest
import pytorch_lightning as pl
import safetensors.torch
import timm
import torch
from torch.utils.data import DataLoader

from dogbreed import ImageClassifier
from dogbreed.errors import UserError
from dogbreed.models import backbones as backbone

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
def test_any_timm_model_gives_a_logit_a_class_and_trains_its_head_alone(name):
    model = classifier(model=name, lr=0.1)
    size = model.data_config["input_size"][-1] if name == "test_vit" else 64
    assert model(torch.randn(2, 3, size, size)).shape == (2, 3)
    body, head = backbone.split_parameters(model.net)
    assert not any(p.requires_grad for p in body)
    assert head and all(p.requires_grad for p in head)
    assert len(body) + len(head) == len(list(model.net.parameters()))


def test_a_frozen_backbone_does_not_move_not_even_its_batch_norms():
    model = classifier(finetune="head", lr=0.1)
    before = copy.deepcopy(model.net.state_dict())
    fit(model)
    assert moved(model, before) == {"fc.weight", "fc.bias"}


def test_full_finetuning_moves_everything():
    model = classifier(finetune="full", lr=0.1)
    before = copy.deepcopy(model.net.state_dict())
    fit(model)
    trained = {name for name, _ in model.net.named_parameters()}
    assert moved(model, before) >= trained
    assert any("running_mean" in key for key in moved(model, before))


@pytest.mark.parametrize(("settings", "most"), [({}, math.inf), ({"gradient_clip_val": 1e-4}, 1e-4)])
def test_gradients_are_clipped_where_the_trainer_is_to(settings, most):
    norms = []

    class Noting(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            found = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
            norms.extend([torch.stack(found).norm().item()] if found else [])

    fit(classifier(), epochs=3, callbacks=[Noting()], **settings)
    assert norms and 0 < max(norms) <= most * 1.001
    assert settings or min(norms) > 1e-3


def test_gradual_unfreezes_at_its_epoch_with_a_smaller_rate_for_the_backbone():
    model = classifier(finetune="gradual", unfreeze_epoch=1, lr=0.1, backbone_lr_factor=0.01)
    before = copy.deepcopy(model.net.state_dict())
    fit(model, epochs=1)
    assert moved(model, before) == {"fc.weight", "fc.bias"}
    trainer = fit(model, epochs=2)
    assert {name for name, _ in model.net.named_parameters()} <= moved(model, before)
    rates = {group["name"].split(",")[0]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert rates == {"head": 0.1, "backbone": pytest.approx(0.001)}


def test_gradual_unfreezes_stage_by_stage_batch_norms_too():
    model = classifier(finetune="gradual", unfreeze_epoch=1, unfreeze_every=1, lr=0.1, layer_decay=0.9)
    before = copy.deepcopy(model.net.state_dict())
    fit(model, epochs=2)
    assert {key.split(".")[0] for key in moved(model, before)} == {"fc", "layer4"}
    assert {key for key in before if key.startswith("layer4")} <= moved(model, before)  # running statistics too


class EndingAfter(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == 1


def test_a_training_that_something_else_ends_needs_no_number_of_epochs_but_a_schedule_does():
    assert fit(classifier(), epochs=-1, callbacks=[EndingAfter()]).current_epoch == 2
    cosine = {"_target_": "dogbreed.models.schedules.cosine"}
    assert fit(classifier(scheduler=cosine), epochs=-1, max_steps=3).global_step == 3
    with pytest.raises(UserError, match="scheduler=cosine needs max_epochs or max_steps"):
        fit(classifier(scheduler=cosine), epochs=-1)


def test_the_loss_is_smoothed_cross_entropy():
    model = classifier(label_smoothing=0.1)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    logs = logits.log_softmax(dim=1)
    by_hand = -(0.9 * logs[range(5), labels] + 0.1 * logs.mean(dim=1)).mean()
    assert model.loss(logits, labels).item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_mixed_images_are_judged_by_mixed_smoothed_labels_and_counted_as_what_prevails():
    torch.manual_seed(3)
    model = classifier(mixup=1.0, cutmix=1.0, label_smoothing=0.2, finetune="full").eval()
    images, labels = torch.rand(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 1])
    seen = []
    model.mix.register_forward_hook(lambda module, inputs, output: seen.append(output))
    shares = set()
    for _ in range(8):
        loss = model._step("train", (images, labels))
        mixed, targets = seen[-1]
        logs = model(mixed).log_softmax(dim=1)
        by_hand = -((0.8 * targets + 0.2 / 3) * logs).sum(dim=1).mean()
        assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
        share = targets[0, 0].item()  # of a 0 with the 1 before it
        shares.add(share)
        assert torch.allclose(targets.sum(dim=1), torch.ones(6)) and targets[0, 1].item() == pytest.approx(1 - share)
        assert mixed.mean().item() == pytest.approx(images.mean().item(), abs=0.02)
    assert len(shares) == 8
    model.metrics.compute("train")
    model._step("train", (images, labels))
    mixed, targets = seen[-1]
    right = (model(mixed).argmax(dim=1) == targets.argmax(dim=1)).float().mean().item()
    assert model.metrics.compute("train")["train/accuracy"].item() == pytest.approx(right)
    model._step("val", (images, labels))
    assert len(seen) == 9  # only training images are mixed


def test_both_sides_of_a_image_are_asked_outside_training_alone():
    plain, both = classifier(), classifier(tta=True)
    both.load_state_dict(plain.state_dict())
    images = torch.rand(4, 3, 32, 32)
    mean = (plain.eval()(images) + plain(images.flip(-1))) / 2
    assert torch.equal(both.eval()(images), mean)
    assert torch.equal(copy.deepcopy(both.net)(images), mean)  # copies answer likewise
    assert torch.equal(both.predict_step((images,), 0), mean.softmax(dim=1))
    assert torch.equal(both.train()(images), plain.train()(images))


def test_the_network_is_compiled_in_place_when_a_training_begins_and_keeps_its_names(monkeypatch):
    compiled = []
    compile_it = lambda module: compiled.append(module)  # noqa: E731, PLW0108 - a builtin would not be bound
    monkeypatch.setattr(torch.nn.Module, "compile", compile_it)
    model = classifier(compile=True)
    names = list(model.state_dict())
    assert not compiled
    fit(model)
    assert compiled == [model.net] and list(model.state_dict()) == names


def test_the_metrics_of_a_test_are_those_counted_by_hand():
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


def test_a_batch_of_which_no_image_could_be_read_is_passed_over():
    model = classifier(finetune="full")
    empty = (torch.empty(0, 3, 32, 32), torch.empty(0, dtype=torch.int64))
    assert model.training_step(empty, 0) is None
    assert model.validation_step(empty, 0) is None


def test_a_checkpoint_loads_by_its_path_alone_without_the_weights_it_began_with(tmp_path):
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


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file_all_but_a_head_of_another_size(tmp_path, suffix, caplog):
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
def test_a_new_head_on_pretrained_features_starts_without_an_opinion(tmp_path, name):
    torch.save(timm.create_model(name, num_classes=1000).state_dict(), tmp_path / "w.pth")
    model = classifier(model=name, weights=str(tmp_path / "w.pth")).eval()
    with torch.no_grad():
        losses = [model.loss(model(images), labels).item() for images, labels in batches()]
    assert losses == pytest.approx([math.log(3)] * len(losses), abs=0.2)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('pickle was executed')",))


def test_a_weights_file_is_never_executed(tmp_path):
    torch.save({"conv1.weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(UserError, match="cannot be read as weights"):
        classifier(weights=str(tmp_path / "bomb.pth"))


def test_weights_that_are_not_there_or_not_this_networks(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file"):
        classifier(weights=str(tmp_path / "nowhere.pth"))
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="are not those of test_resnet"):
        classifier(weights=str(tmp_path / "other.pth"))
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(UserError, match="cannot be read as weights"):
        classifier(weights=str(tmp_path / "text.pth"))


def test_without_a_way_to_the_hub_the_error_says_what_to_type(monkeypatch):
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
def test_mistakes_are_named(kwargs, message):
    with pytest.raises(UserError, match=message):
        classifier(**kwargs)
    with pytest.raises(UserError, match="two classes"):
        ImageClassifier(TINY, ["alone"], weights="random")


def test_optimizer_and_schedule_come_from_the_config():
    model = classifier(
        lr=0.2, weight_decay=0.3, optimizer={"_target_": "torch.optim.SGD", "momentum": 0.8},
        scheduler={"_target_": "dogbreed.models.schedules.cosine", "warmup": 0.5},
    )  # fmt: skip
    trainer = fit(model, epochs=2)
    (optimizer,) = trainer.optimizers
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["momentum"], optimizer.param_groups[0]["weight_decay"]) == (0.8, 0.3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_a_constant_rate_is_no_schedule_and_stays_what_it_is():
    trainer = fit(classifier(lr=0.2, scheduler={"_target_": "dogbreed.models.schedules.constant"}), epochs=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.2
    assert not trainer.lr_scheduler_configs


def test_gradients_are_dropped_between_steps_of_all_groups():
    model = classifier(finetune="full")
    trainer = fit(model, epochs=1)
    for parameter in model.net.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.optimizer_zero_grad(0, 0, trainer.optimizers[0])
    assert [name for name, parameter in model.net.named_parameters() if parameter.grad is not None] == []


def test_schedules_are_pure_functions_of_the_step():
    from dogbreed.models.schedules import constant, cosine, step

    rates = [cosine(i, 100, 10, warmup=0.1, floor=0.1) for i in range(101)]
    assert max(rates) == pytest.approx(1.0) and rates.index(max(rates)) == 10
    assert all(b > a for a, b in itertools.pairwise(rates[:11]))
    assert all(b < a for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1)
    assert [step(i, 60, 10, every_epochs=2, factor=0.5) for i in (0, 19, 20, 59)] == [1, 1, 0.5, 0.25]
    assert constant(5, 10, 2) == 1
    assert not any(math.isnan(rate) for rate in rates)
