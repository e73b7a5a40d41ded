"""Settings that a class of a library rejects end in one line."""

import pytest
import pytorch_lightning as pl
import torch

from dogbreed.errors import UserError
from dogbreed.models.targets import create, create_from, load_target


def test_create_from_passes_config_and_settings():
    trainer = create_from("trainer", {"_target_": "pytorch_lightning.Trainer", "max_epochs": 3}, logger=False)
    assert (trainer.max_epochs, trainer.logger) == (3, None)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"nope": 1}, "unexpected keyword argument 'nope'"), ({"strategy": "foo"}, "foo"), ({"precision": "x"}, "x")],
)
def test_rejected_settings_name_group_and_reason(settings, reason):
    with pytest.raises(UserError, match=rf"trainer: the settings do not fit Trainer: .*{reason}"):
        create("trainer", pl.Trainer, **settings)


def test_user_error_of_a_target_keeps_its_message():
    def refuse():
        raise UserError("data.url='/nope': the folder does not exist")

    with pytest.raises(UserError, match=r"^data.url='/nope': the folder does not exist$"):
        create("data", refuse)


@pytest.mark.parametrize("name", ["", "no.such.Module", "torch.optim.Nope", "SGD"])
def test_unknown_target_is_a_user_error(name):
    with pytest.raises(UserError, match=f"_target_={name} cannot be imported"):
        load_target(name)


def test_load_target_finds_a_class():
    assert load_target("torch.optim.SGD") is torch.optim.SGD
