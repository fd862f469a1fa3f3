"""The work of a comparison as async-batch-llm's users would write it. It runs in that package's environment.

`python asking_async_batch_llm.py URL PROMPTS.jsonl ANSWERS.jsonl IN_FLIGHT` keeps no checkpoint: that is its fastest
way. Its own benchmark sets `concurrency` alone; "openai-compatible" speaks chat completions, as everybody here does.
"""

import asyncio
import json
import sys
from pathlib import Path

from async_batch_llm import llm, process_stream


async def _ask(base_url: str, prompts: Path, answers: Path, in_flight: int) -> None:
    texts = [json.loads(line)["prompt"] for line in prompts.read_bytes().splitlines()]
    model = llm("openai-compatible:gpt-6-luna", base_url=base_url, api_key="none")
    with answers.open("w") as file:
        async for result in process_stream(model, texts, concurrency=in_flight):
            file.write(json.dumps({"id": result.item_id, "answer": result.output}) + "\n")


if __name__ == "__main__":
    asyncio.run(_ask(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
