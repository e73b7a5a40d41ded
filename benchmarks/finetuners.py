"""Trains a classifier of ../shared/data with one peer and ../shared/weights; prints its accuracies as one line of JSON.

    python -m benchmarks.finetuners weights FILE
    python -m benchmarks.finetuners fastai|timm|sklearn FILE [EPOCHS]

Started by benchmarks.accuracy, each in a separate process. All of them evaluate whole images of 224 x 224 px.

In the weights of ../shared the batch norms are folded: their statistics are 0 and 1, not those of the activations. A
training with batch norms in train mode, as in both peers, would start with a broken network. The peers therefore use
FILE: the same network with true statistics, which gives the same outputs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import SHARED, WEIGHTS

DATA = SHARED / "data"
SPACE = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 1.0}


def network(weights: Path) -> dict[str, Any]:
    """Returns the arguments of `timm.create_model`, which both peers call."""
    return {"pretrained": True, "pad_type": "same", "pretrained_cfg_overlay": {"file": str(weights), **SPACE}}


def with_norms(path: Path) -> None:
    """Writes the weights to `path`, with the mean and variance of 480 training images in the batch norms."""
    from safetensors.torch import save_file
    from timm import create_model
    from torchvision import datasets, transforms

    net = create_model("mobilenetv2_100", **network(WEIGHTS)).eval()
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    dataset = datasets.ImageFolder(str(DATA / "train"), steps)
    images = torch.stack([dataset[number][0] for number in range(0, len(dataset), 10)])
    norms = {module: [] for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)}
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: norms[module].append(inputs[0])) for module in norms
    ]
    with torch.inference_mode():
        expected = net(images[:32])
        for seen in norms.values():
            seen.clear()
        known = {module: [] for module in norms}
        for part in images.split(32):
            net(part)
            for module, seen in norms.items():
                values = seen.pop().double()
                known[module].append((values.mean((0, 2, 3)), values.square().mean((0, 2, 3))))
        for hook in hooks:
            hook.remove()
        for module, moments in known.items():
            mean, square = (torch.stack(moment).mean(0) for moment in zip(*moments, strict=True))
            scale = module.weight.double() / (module.running_var.double() + module.eps).sqrt()
            shift = module.bias.double() - scale * module.running_mean.double()
            variance = square - mean.square()
            module.running_mean.copy_(mean)
            module.running_var.copy_(variance)
            module.weight.copy_(scale * (variance + module.eps).sqrt())
            module.bias.copy_(shift + scale * mean)
        assert torch.allclose(net(images[:32]), expected, atol=1e-2)
    save_file(net.state_dict(), path)


def fastai(weights: Path, epochs: int = 1) -> dict[str, Any]:
    """`fine_tune` with its defaults: one epoch with the body frozen, then `epochs` of all layers, lr 2e-3."""
    from fastai.vision import all as fastai

    fastai.set_seed(7)
    augment = [*fastai.aug_transforms(size=224)]
    loaders = fastai.ImageDataLoaders.from_folder(
        DATA, train="train", valid="valid", item_tfms=fastai.Resize(224), batch_tfms=augment, num_workers=0
    )
    learner = fastai.vision_learner(loaders, "mobilenetv2_100", metrics=fastai.accuracy, **network(weights))
    with learner.no_bar():
        learner.fine_tune(epochs)
        test = loaders.test_dl(fastai.get_image_files(DATA / "test"), with_labels=True)
        valid, test = (float(learner.validate(dl=loader)[1]) for loader in (loaders.valid, test))
    return {"valid": valid, "test": test, "settings": f"vision_learner, fine_tune({epochs})"}


def timm(weights: Path, epochs: int = 3) -> dict[str, Any]:
    """The steps of timm's train.py, which its wheel does not contain, built from the same functions.

    As `train.py --pretrained --opt adamw --lr 1e-3 --weight-decay 0.05 --batch-size 64 --epochs 3 --warmup-epochs 1
    --sched-on-updates --amp --amp-dtype bfloat16 --channels-last`, all else by default: random crops of
    0.08 to 1 of the area, mirroring, colour jitter 0.4, label smoothing 0.1, cosine.
    """
    from timm import create_model
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import random_seed

    random_seed(42)
    net = create_model("mobilenetv2_100", num_classes=100, **network(weights)).to(memory_format=torch.channels_last)
    config = resolve_data_config({}, model=net)
    given = {key: config[key] for key in ("input_size", "mean", "std")} | {"batch_size": 64, "use_prefetcher": False}
    loader = create_loader(
        create_dataset("", root=str(DATA), split="train"), is_training=True, num_workers=1, **given,
        color_jitter=0.4, interpolation="random",
    )  # fmt: skip
    optimizer = create_optimizer_v2(net, opt="adamw", lr=1e-3, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=epochs, warmup_epochs=1, warmup_lr=1e-5, step_on_epochs=False,
        updates_per_epoch=len(loader),
    )  # fmt: skip
    loss, updates = LabelSmoothingCrossEntropy(0.1), 0
    for epoch in range(epochs):
        net.train()
        for images, labels in loader:
            with torch.autocast("cpu", torch.bfloat16):
                error = loss(net(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            updates += 1
            scheduler.step_update(updates)
        scheduler.step(epoch + 1)
        print(f"epoch {epoch}: loss {float(error):.3f} of the last batch", file=sys.stderr, flush=True)

    @torch.inference_mode()
    def accuracy(split: str) -> float:
        dataset = create_dataset("", root=str(DATA), split=split)
        batches = create_loader(dataset, num_workers=1, interpolation="bicubic", crop_pct=1.0, **given)
        return sum(int((net(images).argmax(1) == labels).sum()) for images, labels in batches) / len(dataset)

    net.eval()
    return {"valid": accuracy("valid"), "test": accuracy("test"), "settings": f"AdamW, lr 1e-3, {epochs} epochs, bf16"}


def sklearn(weights: Path) -> dict[str, Any]:
    """LogisticRegression on the plain network's features; C is selected on the validation split."""
    from sklearn.linear_model import LogisticRegression
    from timm import create_model
    from torchvision import datasets, transforms

    net = create_model("mobilenetv2_100", num_classes=0, **network(weights)).eval()
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    known = {}
    for split in ("train", "valid", "test"):
        dataset = datasets.ImageFolder(str(DATA / split), steps)
        with torch.inference_mode():
            batches = torch.utils.data.DataLoader(dataset, batch_size=32)
            known[split] = torch.cat([net(images) for images, _ in batches]).numpy(), dataset.targets
    scores = {}
    for strength in (0.003, 0.01, 0.03, 0.1):
        head = LogisticRegression(C=strength, max_iter=2000).fit(*known["train"])
        scores[strength] = {split: head.score(*known[split]) for split in ("valid", "test")}
    best = max(scores, key=lambda strength: scores[strength]["valid"])
    return {**scores[best], "settings": f"C={best}"}


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    task, file, *epochs = sys.argv[1:]
    if task == "weights":
        with_norms(Path(file))
    else:
        print(json.dumps({"fastai": fastai, "timm": timm, "sklearn": sklearn}[task](Path(file), *map(int, epochs))))
