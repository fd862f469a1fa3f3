"""Checking and splitting training data is measured beside what anybody would write. `python converting.py IN OUT`.

Turns questions and answers into chat JSONL, looks at nothing, and prints {"seconds"}, from the first row to the last.
"""

import json
import sys
import time
from pathlib import Path

import orjson


def _convert(source: Path, target: Path) -> None:
    with source.open("rb") as rows, target.open("wb") as chats:
        for line in rows:
            row = orjson.loads(line)
            messages = [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
            chats.write(orjson.dumps({"messages": messages}) + b"\n")


if __name__ == "__main__":
    began = time.monotonic()
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"seconds": time.monotonic() - began}))
