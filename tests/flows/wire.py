"""What exactly is sent can only be seen by a server that keeps it; this one is nobody's simulator."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(slots=True)
class Wire:
    """A server that answers every call with `reply`, and keeps all that was sent.

    A function makes the answer's message of the body, or {"error": ..}, which is answered with 400.
    """

    reply: str | Callable[[dict[str, Any]], dict[str, Any]] = "Yes."
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def wire(reply: str | Callable[[dict[str, Any]], dict[str, Any]] = "Yes.") -> Iterator[Wire]:
    """Serve on a free port of this machine while the block runs."""
    kept = Wire(reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            kept.bodies.append(body)
            kept.paths.append(self.path)
            kept.keys.append(self.headers["authorization"])
            if isinstance(kept.reply, str):
                reply = _SHAPES[self.path.rpartition("/")[2]](body["model"], kept.reply)
            elif "error" not in (reply := kept.reply(body)):
                shape = _chat(body["model"], "")
                reply = shape | {"choices": [{"index": 0, "message": reply, "finish_reason": "stop"}]}
            answer = json.dumps(reply).encode()
            self.send_response(400 if "error" in reply else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    kept.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _chat(model: str, reply: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def _response(model: str, reply: str) -> dict[str, Any]:
    said = {"type": "output_text", "text": reply, "annotations": []}
    output = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [said]}
    usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    head = {"id": "1", "object": "response", "created_at": 1, "model": model, "status": "completed"}
    return {**head, "output": [output], "usage": usage}


_SHAPES = {"completions": _chat, "responses": _response}
