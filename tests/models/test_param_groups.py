"""Optimizer parameter groups: learning rates by layer, and weight decay."""

import pytest
import timm
from timm.optim import param_groups_layer_decay

from dogbreed.models.param_groups import parameter_groups

NETWORKS = ["test_resnet", "test_vit", "test_convnext", "mobilenetv2_050", "test_efficientnet"]


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_decay_equals_timms(name):
    net = timm.create_model(name, num_classes=3)
    found = parameter_groups(net, 0.1, 0.5, layer_decay=0.8)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in found for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in found) == len(list(net.parameters()))
    never = getattr(net, "no_weight_decay", set)()
    theirs = param_groups_layer_decay(net, 0.5, never, layer_decay=0.8)
    for group in theirs:
        for parameter in group["params"]:
            assert rates[id(parameter)] == pytest.approx((0.1 * group["lr_scale"], group["weight_decay"]))


def test_backbone_factor_scales_or_drops_the_backbone():
    net = timm.create_model("test_resnet", num_classes=3)
    both = parameter_groups(net, 0.1, 0.5, backbone_factor=0.01)
    assert {group["name"]: (group["lr"], group["weight_decay"]) for group in both} == {
        "head": (0.1, 0.5),
        "head, no decay": (0.1, 0.0),
        "backbone": (pytest.approx(0.001), 0.5),
        "backbone, no decay": (pytest.approx(0.001), 0.0),
    }
    (head,) = parameter_groups(net, 0.1, 0.0, backbone_factor=0.0)
    assert len(head["params"]) == 2
    assert head["name"] == "head"
