"""What a job asks is shown as one line, whatever the form of its request."""

import pytest

from tidemill.models.job_requests import last_words
from tidemill.models.json_types import JsonObject

PICTURE = {"path": "a.png", "sha256": "s", "format": "png", "width": 1, "height": 1}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"prompt": "Why?"}, "Why?"),
        ({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}, "Why?"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Why"}, {"text": "not?"}]}]}, "Why not?"),
        ({"url": "/v1/responses", "body": {"input": "Why?"}}, "Why?"),
        ({"url": "/v1/chat/completions", "body": {"messages": [{"content": None}]}}, ""),
        ({"url": "/v1/responses", "body": {"input": [1, 2]}}, ""),
        ({"prompt": "What is it?", "picture": PICTURE}, "[a.png] What is it?"),
        ({"dataset": "d", "provider": "p"}, ""),
        ({"body": "of another package"}, ""),
        ({}, ""),
    ],
)
def test_the_last_words_of_a_request(request_: JsonObject, words: str) -> None:
    assert last_words(request_) == words
