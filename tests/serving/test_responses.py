"""Content negotiation."""

import pytest

from dogbreed.serving.request import RequestError
from dogbreed.serving.responses import negotiate_content_type

JSON, CSV, NUMPY = "application/json", "text/csv", "application/x-npy"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/csv", CSV),
        ("Text/CSV ; charset=utf-8", CSV),
        ("image/png, text/csv, application/json", CSV),
        ("*/*", JSON),
        ("text/*", CSV),
        ("application/json;q=0, text/csv", CSV),
        ("application/json;q=0.1, text/csv;q=0.9", CSV),
        ("application/json; q=0.5, */*", CSV),
        ("application/json;q=0, application/*;q=0.5, text/csv;q=0.4", NUMPY),
        ("text/csv;q=nonsense, application/json", CSV),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
    ],
)
def test_negotiate_content_type_picks_highest_quality(accept, expected):
    assert negotiate_content_type(accept) == expected


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "*/*;q=0.0", ","])
def test_negotiate_content_type_unsupported_raises_406(accept):
    with pytest.raises(RequestError, match="possible: application/json, text/csv, application/x-npy") as raised:
        negotiate_content_type(accept)
    assert raised.value.status == 406
