"""Which answer an Accept header chooses."""

import pytest

from dogbreed.serving.images import RequestError
from dogbreed.serving.responses import choose_type

JSON, CSV, NUMPY = "application/json", "text/csv", "application/x-npy"


@pytest.mark.parametrize(
    ("accept", "chosen"),
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
def test_what_a_client_likes_best_is_chosen(accept, chosen):
    assert choose_type(accept) == chosen


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "*/*;q=0.0", ","])
def test_what_can_not_be_made_is_refused_with_what_can(accept):
    with pytest.raises(RequestError, match="possible: application/json, text/csv, application/x-npy") as refused:
        choose_type(accept)
    assert refused.value.status == 406
