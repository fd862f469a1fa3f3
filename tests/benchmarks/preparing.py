"""Making pictures ready is measured beside what anybody would write. `python preparing.py pool|loop FILE...`.

Prints {"seconds"}, from the first picture to the last, with the children's start where there are any.
"""

import io
import json
import sys
import time
from collections.abc import Sequence

from PIL import Image

from tidemill.producer.describing.images import PreparedPicture, Preparer

SIDE = 2048


def _pool(paths: Sequence[str]) -> None:
    with Preparer("gpt-6-luna", "auto", SIDE) as preparer:
        for path, picture in preparer.prepare((path, path) for path in paths):
            assert isinstance(picture, PreparedPicture), path


def _loop(paths: Sequence[str]) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.draft(None, (SIDE, SIDE))
            image.thumbnail((SIDE, SIDE))
            image.save(io.BytesIO(), "JPEG", quality=85)


if __name__ == "__main__":
    began = time.monotonic()
    {"pool": _pool, "loop": _loop}[sys.argv[1]](sys.argv[2:])
    print(json.dumps({"seconds": time.monotonic() - began}))
