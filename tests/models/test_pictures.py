"""A message with a picture comes apart again; a message that only looks like one stays what it is."""

import pytest

from tidemill.models.pictures import dump_message, load_message
from tidemill.models.text import dumps

PICTURE = {"path": 'a "b".jpg', "sha256": "0f" * 32, "format": "png", "width": 2, "height": 1}


def test_what_was_put_together_comes_apart() -> None:
    taken = load_message(dump_message("Why?\n", PICTURE))
    assert taken is not None
    assert (taken.text, taken.picture) == ("Why?\n", PICTURE)


@pytest.mark.parametrize(
    "content",
    [
        "plain",
        "",
        'he said "type":"picture"',
        dumps({"type": "picture"}),
        dumps([{"type": "picture"}]),
        dumps(["text", {"type": "picture"}]),
        dumps([{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "u"}}]),
    ],
)
def test_anything_else_is_left_alone(content: str) -> None:
    assert load_message(content) is None
