"""Which layers are trained when, and how fast."""

import itertools
import math

import pytest
import timm
from timm.optim import param_groups_layer_decay

from dogbreed.models import backbones as backbone
from dogbreed.models import param_groups as groups

NETWORKS = ["test_resnet", "test_vit", "test_convnext", "mobilenetv2_050", "test_efficientnet"]


def trained(net):
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_join_from_the_head_down_until_all_are_trained(name):
    net = timm.create_model(name, num_classes=3)
    _, head = backbone.split_parameters(net)
    seen, order = [], groups.depths(net, stages=True)
    for num_stages in range(max(order.values()) + 1):
        groups.unfreeze(net, num_stages)
        seen.append(trained(net))
    groups.unfreeze(net, math.inf)
    assert len(seen[0]) == len(head)
    assert all(before < after for before, after in itertools.pairwise(seen))
    assert seen[-1] == trained(net) == {name for name, _ in net.named_parameters()}


def test_a_resnet_is_unfrozen_layer4_first_and_only_that_is_in_train_mode():
    net = timm.create_model("test_resnet", num_classes=3)
    groups.unfreeze(net, 1)
    assert {name.split(".")[0] for name in trained(net)} == {"fc", "layer4"}
    groups.train_unfrozen(net)
    modes = {name: module.training for name, module in net.named_modules() if not list(module.children())}
    assert {name.split(".")[0] for name, training in modes.items() if training} == {"fc", "layer4"}
    groups.unfreeze(net, math.inf)
    groups.train_unfrozen(net)
    assert all(module.training for module in net.modules())


def test_the_number_of_stages_is_a_function_of_the_epoch():
    assert [groups.num_stages_at(epoch, first=1, every=0) for epoch in range(3)] == [0, math.inf, math.inf]
    assert [groups.num_stages_at(epoch, first=1, every=2) for epoch in range(6)] == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("name", NETWORKS)
def test_each_parameter_is_in_one_group_and_rates_fall_from_layer_to_layer_as_timms_do(name):
    net = timm.create_model(name, num_classes=3)
    found = groups.parameter_groups(net, 0.1, 0.5, layer_decay=0.8)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in found for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in found) == len(list(net.parameters()))
    never = getattr(net, "no_weight_decay", set)()
    theirs = param_groups_layer_decay(net, 0.5, never, layer_decay=0.8)
    for group in theirs:
        for parameter in group["params"]:
            assert rates[id(parameter)] == pytest.approx((0.1 * group["lr_scale"], group["weight_decay"]))


def test_the_backbone_has_a_rate_of_its_own_or_none():
    net = timm.create_model("test_resnet", num_classes=3)
    both = groups.parameter_groups(net, 0.1, 0.5, backbone_factor=0.01)
    assert {group["name"]: (group["lr"], group["weight_decay"]) for group in both} == {
        "head": (0.1, 0.5),
        "head, no decay": (0.1, 0.0),
        "backbone": (pytest.approx(0.001), 0.5),
        "backbone, no decay": (pytest.approx(0.001), 0.0),
    }
    (head,) = groups.parameter_groups(net, 0.1, 0.0, backbone_factor=0.0)
    assert len(head["params"]) == 2
    assert head["name"] == "head"
