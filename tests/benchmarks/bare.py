"""The yardstick. An aiohttp loop as anybody would write it: so many calls in flight, replies parsed, none stored.

`python bare.py URL PROMPTS.jsonl IN_FLIGHT` prints {"started_at", "ended_at"}: of the first call and the last reply.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import orjson

MODEL = "gpt-6-luna"


async def _ask(session: aiohttp.ClientSession, url: str, prompts: Iterator[str]) -> None:
    for prompt in prompts:
        body = orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": prompt}]})
        async with session.post(url, data=body) as reply:
            reply.raise_for_status()
            assert orjson.loads(await reply.read())["choices"][0]["message"]["content"]


async def _run(base_url: str, path: Path, in_flight: int) -> dict[str, float]:
    prompts = iter([orjson.loads(line)["prompt"] for line in path.read_bytes().splitlines()])
    headers = {"Authorization": "Bearer none", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=in_flight)) as session:
        started_at = time.time()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(_ask(session, f"{base_url}/chat/completions", prompts))
        return {"started_at": started_at, "ended_at": time.time()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))))
