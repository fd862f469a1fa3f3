"""Fine-tuning is files, jobs and lists over plain HTTP, and none of it is a call that is billed.

ROUTES maps what a request line looks like to the function that answers it. The same names script faults:
`scripts={"POST /v1/files": "!!reset_after*1"}` stores each upload and loses its first reply.
Wire: OpenAI's API reference.
"""

import base64
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

from tidemill.simulator import background_routes, batch_routes
from tidemill.simulator.calls import BadCallError
from tidemill.simulator.contents import Body
from tidemill.simulator.faults import ERRORS, Answer, rejection
from tidemill.simulator.options import Options
from tidemill.simulator.requests import MissingError, Request, Upload, as_json, page, read_json, read_parts
from tidemill.simulator.shelf import Shelf, StoredFile
from tidemill.simulator.training import file_error, read_creation, tokens_in
from tidemill.simulator.tunings import COMMANDS, Tuning

PURPOSES = ("assistants", "batch", "batch-api", "evals", "fine-tune", "user_data", "vision")
ASSISTANTS_CREATED_AT = 1_700_000_000
# Faults that make sense without a prompt: an answer in place of the deed, or a good answer that is delivered badly.
INSTEAD = {*ERRORS, "429", "429ms", "502html", "reset", "wrongjson", "error200", "flat"}
DELIVERED = {"reset_after": "reset", "cut": "cut", "drip": "drip", "slow": "whole"}


def _read_upload(request: Request) -> None:
    request.posted = read_parts(request.content_type, request.body)
    if "file" in request.posted:
        request.words = request.posted["file"].filename or ""


def _read_creation(request: Request) -> None:
    request.posted = read_creation(read_json(request.body))
    request.words = " ".join([request.posted["suffix"] or "", *request.posted["metadata"].values()])


READERS: dict[str, Callable[[Request], None]] = {
    "POST /v1/files": _read_upload,
    "POST /v1/fine_tuning/jobs": _read_creation,
    **batch_routes.READERS,
}


def _file(request: Request) -> StoredFile:
    if (file := request.shelf.files().get(request.id)) is None:
        raise MissingError(f"No such File object: {request.id}", "id")
    return file


def _tuning(request: Request) -> Tuning:
    if (tuning := request.shelf.tunings.get(request.id)) is None:
        raise MissingError(f"Could not find fine tune: {request.id}", "fine_tune_id", "fine_tune_not_found")
    return tuning


# --- files ---


def _upload(request: Request) -> Answer:
    parts: dict[str, Upload] = request.posted
    for name in ("purpose", "file"):
        if name not in parts:
            raise BadCallError(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    purpose, file = parts["purpose"].text, parts["file"]
    if purpose not in PURPOSES:
        raise BadCallError(f"'{purpose}' is not one of {', '.join(PURPOSES)} - 'purpose'", "purpose", "invalid_value")
    if not file.content:
        raise BadCallError("File is empty.", "file", "empty_file")
    name = file.filename or "upload"
    if purpose == "fine-tune" and not name.endswith(".jsonl"):
        raise BadCallError("Invalid file format for Fine-Tuning API. Must be .jsonl", "file", "invalid_file_format")
    stored = request.shelf.add_file(f"file-{request.identity}", name, purpose, file.content, request.now)
    return as_json(stored.card())


def _list_files(request: Request) -> Answer:
    purpose = request.query.get("purpose")
    listed_before = request.now - request.options.list_lag_seconds
    files = [
        file.card()
        for file in request.shelf.files().values()
        if purpose in (None, file.purpose) and file.created_at <= listed_before
    ]
    return page(request, files[::-1], 10_000, 10_000)


def _show_file(request: Request) -> Answer:
    card = _file(request).card()
    if request.options.file_refusal and card["purpose"] == "fine-tune":
        card |= {"status": "error", "status_details": request.options.file_refusal}
    return as_json(card)


def _send_content(request: Request) -> Answer:
    file = _file(request)
    content = file.content
    if request.options.result_base64 and file.purpose == "fine-tune-results":
        content = base64.b64encode(content)
    if request.fault == "nobytes":
        content = b""
    elif request.fault == "short":
        content = content[: content.find(b"\n", len(content) // 2) + 1]
    return Answer(200, content, content_type=b"application/octet-stream")


def _delete_file(request: Request) -> Answer:
    request.shelf.delete_file(_file(request).id)
    return as_json({"id": request.id, "object": "file", "deleted": True})


# --- fine-tuning ---


def _training_content(request: Request, param: str) -> bytes | None:
    if (identity := request.posted[param]) is None:
        return None
    file = request.shelf.files().get(identity)
    if file is None:
        raise BadCallError(f"invalid {param}: {identity}", param)
    if file.purpose != "fine-tune":
        raise BadCallError(f"invalid {param}: {identity} has purpose {file.purpose}, not fine-tune", param)
    return bytes(file.content)


def _check_model(model: str, options: Options) -> None:
    today = datetime.now(UTC).date().isoformat()
    if options.shutdown.get(model, "9999") <= today or (options.models and model not in options.models):
        message = f"Model {model} is not available for fine-tuning or does not exist."
        raise BadCallError(message, "model", "model_not_available")


def _card(request: Request, tuning: Tuning) -> dict[str, Any]:
    return tuning.card(request.now) | ({"fine_tuned_model": None} if request.options.tuning_nameless else {})


def _create(request: Request) -> Answer:
    options = request.options
    if options.training_not_available:
        message = "Training is not available for this organization."
        return rejection(403, "invalid_request_error", message, None, "training_not_available")
    _check_model(request.posted["model"], options)
    if options.file_refusal:
        raise BadCallError(f"File '{request.posted['training_file']}' is not ready.", "training_file")
    contents = {param: _training_content(request, param) for param in ("training_file", "validation_file")}
    method = request.posted["method"]
    errors = [file_error(content, method, param) for param, content in contents.items() if content is not None]
    tuning = request.shelf.add_tuning(
        **request.posted,
        id=f"ftjob-{request.identity}",
        created_at=request.now,
        tokens=tokens_in(contents["training_file"] or b""),
        seconds=options.tuning_seconds,
        steps=options.tuning_steps,
        breaks=options.tuning_fails,
        file_error=next(filter(None, errors), None),
    )
    return as_json(_card(request, tuning))


def _list_tunings(request: Request) -> Answer:
    wanted = {
        found[1]: value for name, value in request.query.items() if (found := re.fullmatch(r"metadata\[(.*)\]", name))
    }
    tunings = [
        _card(request, tuning) for tuning in request.shelf.tunings.values() if wanted.items() <= tuning.metadata.items()
    ]
    return page(request, tunings[::-1], 20, 100)


def _show_tuning(request: Request) -> Answer:
    return as_json(_card(request, _tuning(request)))


def _command(request: Request) -> Answer:
    tuning, command = _tuning(request), request.route.rpartition("/")[2]
    status = tuning.status(request.now)
    if status not in COMMANDS[command][0]:
        raise BadCallError(f"Cannot {command} fine-tuning job {tuning.id}: its status is {status}.")
    request.shelf.command(tuning, command, request.now)
    return as_json(_card(request, tuning))


def _list_events(request: Request) -> Answer:
    return page(request, _tuning(request).events(request.now)[::-1], 20, 100)


def _list_checkpoints(request: Request) -> Answer:
    return page(request, _tuning(request).checkpoints(request.now)[::-1], 10, 100)


# --- what is left of the Assistants API ---


def _list_assistants(request: Request) -> Answer:
    if not request.options.assistants:
        raise MissingError("Invalid URL (GET /v1/assistants)")
    cards: list[dict[str, Any]] = [
        {
            "id": f"asst_{number}",
            "object": "assistant",
            "created_at": ASSISTANTS_CREATED_AT + number,
            "name": f"Assistant {number}",
            "description": None,
            "instructions": f"You are assistant number {number}.",
            "model": "gpt-4.1-mini",
            "tools": [],
            "metadata": {},
            "temperature": 1.0,
            "top_p": 1.0,
        }
        for number in range(request.options.assistants, 0, -1)
    ]
    return page(request, cards, 20, 100)


_TUNING = "/v1/fine_tuning/jobs/{id}"
ROUTES: dict[str, Callable[[Request], Answer]] = {
    "POST /v1/files": _upload,
    "GET /v1/files": _list_files,
    "GET /v1/files/{id}": _show_file,
    "GET /v1/files/{id}/content": _send_content,
    "DELETE /v1/files/{id}": _delete_file,
    "POST /v1/fine_tuning/jobs": _create,
    "GET /v1/fine_tuning/jobs": _list_tunings,
    f"GET {_TUNING}": _show_tuning,
    **{f"POST {_TUNING}/{command}": _command for command in COMMANDS},
    f"GET {_TUNING}/events": _list_events,
    f"GET {_TUNING}/checkpoints": _list_checkpoints,
    **batch_routes.ROUTES,
    **background_routes.ROUTES,
    "GET /v1/assistants": _list_assistants,
}
_PATTERNS = {route: re.compile(re.escape(route).replace(r"\{id\}", "([^/]+)")) for route in ROUTES}


def open_request(
    line: str, query: str, content_type: str, body: Body, identity: str, caller: str, shelf: Shelf, options: Options
) -> Request | None:
    """The request behind `METHOD /path`, or None where no route leads."""
    for route, pattern in _PATTERNS.items():
        if found := pattern.fullmatch(line):
            wanted = dict(parse_qsl(query, keep_blank_values=True))
            name = unquote(found[1]) if pattern.groups else ""
            return Request(route, name, wanted, content_type, body, identity, caller, time.time(), shelf, options)
    return None


def read(request: Request) -> None:
    """Raises BadCallError for a body that cannot be read, and for a part of the API that the server does not have."""
    if request.route in batch_routes.ROUTES:
        batch_routes.check_exists(request)
    if reader := READERS.get(request.route):
        reader(request)


def do(request: Request) -> Answer:
    """Raises BadCallError for what is answered with HTTP 400, MissingError for 404."""
    request.shelf.collect(request.now)
    return ROUTES[request.route](request)
