"""Which stages are trainable, and which modules are in train mode."""

import itertools
import math

import pytest
import timm

from dogbreed.models.freezing import num_unfrozen_stages, set_train_modes, unfreeze
from dogbreed.models.heads import split_parameters
from dogbreed.models.param_groups import layer_depths

NETWORKS = ["test_resnet", "test_vit", "test_convnext", "mobilenetv2_050", "test_efficientnet"]


def trained(net):
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", NETWORKS)
def test_unfreeze_adds_stages_from_the_head_down(name):
    net = timm.create_model(name, num_classes=3)
    _, head = split_parameters(net)
    seen, order = [], layer_depths(net, stages=True)
    for num_stages in range(max(order.values()) + 1):
        unfreeze(net, num_stages)
        seen.append(trained(net))
    unfreeze(net, math.inf)
    assert len(seen[0]) == len(head)
    assert all(before < after for before, after in itertools.pairwise(seen))
    assert seen[-1] == trained(net) == {name for name, _ in net.named_parameters()}


def test_only_unfrozen_stage_is_in_train_mode():
    net = timm.create_model("test_resnet", num_classes=3)
    unfreeze(net, 1)
    assert {name.split(".")[0] for name in trained(net)} == {"fc", "layer4"}
    set_train_modes(net)
    modes = {name: module.training for name, module in net.named_modules() if not list(module.children())}
    assert {name.split(".")[0] for name, training in modes.items() if training} == {"fc", "layer4"}
    unfreeze(net, math.inf)
    set_train_modes(net)
    assert all(module.training for module in net.modules())


def test_num_unfrozen_stages_depends_only_on_the_epoch():
    assert [num_unfrozen_stages(epoch, first_epoch=1, every_epochs=0) for epoch in range(3)] == [0, math.inf, math.inf]
    assert [num_unfrozen_stages(epoch, first_epoch=1, every_epochs=2) for epoch in range(6)] == [0, 1, 1, 2, 2, 3]
