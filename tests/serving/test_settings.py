"""Settings from environment variables."""

import pytest

from dogbreed.errors import UserError
from dogbreed.serving.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("ANSWER", "number", "allowed: label, index"), ("TOP_K", "0", "at least 1"), ("MAX_BATCH", "1.5", "at least 1")],
)
def test_settings_invalid_value_rejected(name, value, message):
    with pytest.raises(UserError, match=f"DOGBREED_{name}={value}: .*{message}"):
        Settings.from_environment({f"DOGBREED_{name}": value})


def test_settings_without_variables_are_defaults():
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({"DOGBREED_ANSWER": "index", "DOGBREED_TOP_K": "2"}) == Settings(2, as_index=True)
