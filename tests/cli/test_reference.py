"""The help of a command and the configuration page list the declared settings."""

from dogbreed.cli.groups import choices, default_choices
from dogbreed.cli.reference import configuration_page, help_text
from dogbreed.cli.schema import TRAINING, settings_of
from launch.spec.settings import BACKEND, SCHEMAS

COMMANDS = {"dogbreed.train": ("train", TRAINING), "launch.deploy": ("deploy", SCHEMAS["deploy"])}


def test_help_lists_keys_and_choices_of_the_command():
    text = help_text("Trains.", TRAINING, "train")
    assert text.startswith("Trains.")
    for key, _ in settings_of(TRAINING):
        assert f"\n  {key}=" in text
    assert "resnet34" in text
    assert "Peak learning rate" in text
    assert "hyperband" not in text


def test_help_of_a_lookup_lists_the_backend_only():
    text = help_text("Shows.", BACKEND)
    assert "backend.root=outputs" in text
    assert "sagemaker" in text
    assert "lr=" not in text
    assert "resnet34" not in text


def test_help_without_settings_is_the_description():
    assert help_text("Publishes.\n", {}) == "Publishes."


def test_page_has_each_setting_once():
    page = configuration_page(COMMANDS)
    assert page.startswith("# Configuration\n")
    for _, schema in COMMANDS.values():
        for key, item in settings_of(schema):
            if key != "name":  # of a run, and of an endpoint
                assert page.count(f"\n| `{key}` |") == 1, key
            assert item.allowed.replace("|", r"\|") in page


def test_page_tables_have_four_columns():
    rows = [line for line in configuration_page(COMMANDS).splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {5}


def test_page_lists_the_choices_of_each_group():
    page = configuration_page(COMMANDS)
    for group, default in default_choices("train").items():
        for name in choices(group):
            assert f"- `{group}={name}`{' (default)' if name == default else ''}" in page


def test_default_choices_include_those_of_included_files():
    groups = default_choices("tune")
    assert groups["tuner"] == "auto"
    assert groups["model"] == "resnet18"
    assert groups["experiment"] is None
