"""Any value of any declared setting gives a checked config or one `UserError` of one line."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dogbreed.cli.config import resolve_defaults
from dogbreed.cli.schema import check, settings_of
from dogbreed.errors import UserError
from launch.spec.contract import encode
from launch.spec.settings import SCHEMAS, compose

ABSURD = [
    *(None, True, -1, 0, 1.5, 10**30, -(10**30), float("nan"), float("inf"), -float("inf"), 5e-324),
    *("", " ", "???", "${nope}", "${", "nan", "None", "é漢字🐕", "\x00", "a\nb", "'", "\\", "a,b", "x" * 200),
    *([], [None], [[1]], [{"a": 1}], ["é", 1.5], {}, {"a": None}, {"": 1}, {1: 2}, {"é": {"a": []}}),
]

SCALARS = st.sampled_from(ABSURD) | st.integers() | st.floats() | st.text(max_size=12)

VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)

TYPED = st.text(alphabet=st.sampled_from("01.-+e,[]{}()'\"\\$: =abnltrueé🐕\n"), max_size=12)
"""Text that may not be in Hydra's grammar."""


def assert_one_line(error):
    text = str(error)
    assert text.strip()
    assert len(text.splitlines()) == 1
    assert len(text) < 1500


def assert_valid_or_one_line(config, key, value):
    """Checks the part of a config that has `key`, with another value of it."""
    part = key.partition(".")[0] if "." in key else ""
    part = part if part in SCHEMAS[config] else ""
    cfg = OmegaConf.create({part: {}} if part else {})
    try:
        OmegaConf.update(cfg, key, value, force_add=True)
    except Exception:  # noqa: BLE001 - no config can have that value, so Hydra cannot compose it
        return
    try:
        check(cfg, {part: SCHEMAS[config][part]})
    except UserError as error:
        assert_one_line(error)


@pytest.mark.parametrize("config", SCHEMAS)
def test_absurd_value_of_each_setting_is_valid_or_one_line(config):
    for key, _ in settings_of(SCHEMAS[config]):
        for value in ABSURD:
            assert_valid_or_one_line(config, key, value)


@pytest.mark.parametrize("config", SCHEMAS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_value_of_a_setting_is_valid_or_one_line(config, data):
    key = data.draw(st.sampled_from([key for key, _ in settings_of(SCHEMAS[config])]))
    assert_valid_or_one_line(config, key, data.draw(VALUES))


@pytest.mark.parametrize("config", SCHEMAS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_typed_value_gives_a_config_or_one_line(config, data):
    key = data.draw(st.sampled_from([key for key, _ in settings_of(SCHEMAS[config])]))
    text = data.draw(TYPED | VALUES.map(encode))
    try:
        cfg = compose(config, [f"{data.draw(st.sampled_from(['', '+', '++', '~']))}{key}={text}"])
        if "finetune" in cfg:
            resolve_defaults(cfg)
    except UserError as error:
        assert_one_line(error)
