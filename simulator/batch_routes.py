"""The Batch API: a file of calls is handed in, and looked at until it is done.

Wire: OpenAI's API reference.
"""

from typing import Any

from tidemill.simulator.batches import ENDPOINTS, Batch
from tidemill.simulator.calls import BadCallError
from tidemill.simulator.faults import BATCH_FAULTS, Answer, rejection
from tidemill.simulator.requests import MissingError, Request, as_json, page, read_json
from tidemill.simulator.training import checked_metadata

WINDOWS = ("24h", "7d")


def _invalid(param: str, message: str) -> BadCallError:
    return BadCallError(f"Invalid '{param}': {message}", param, "invalid_value")


def read_creation(request: Request) -> None:
    """Raises BadCallError."""
    body = read_json(request.body)
    if not isinstance(body, dict):
        raise BadCallError("We could not parse the JSON body of your request: it must be an object.")
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(body.get(name), str) or not body[name]:
            raise BadCallError(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if body["endpoint"] not in ENDPOINTS:
        raise _invalid("endpoint", f"expected one of {', '.join(ENDPOINTS)}.")
    if body["completion_window"] not in WINDOWS:
        raise _invalid("completion_window", f"expected one of {', '.join(WINDOWS)}.")
    expiry = body.get("output_expires_after")
    if expiry is not None and not (isinstance(expiry, dict) and 3600 <= expiry.get("seconds", 0) <= 30 * 86_400):
        raise _invalid("output_expires_after.seconds", "expected a number from 3600 to 2592000.")
    request.posted = {
        "input_file_id": body["input_file_id"],
        "endpoint": body["endpoint"],
        "completion_window": body["completion_window"],
        "metadata": checked_metadata(body["metadata"]) if body.get("metadata") else None,
        "output_expires_seconds": expiry["seconds"] if expiry else None,
    }


def check_exists(request: Request) -> None:
    """Raise MissingError where the server has no Batch API."""
    if request.options.no_batches:
        raise MissingError(f"Invalid URL ({request.route.replace('{id}', request.id)})")


def _batch(request: Request) -> Batch:
    batch = request.shelf.batches.get(request.id)
    if batch is None or (request.options.own_batches and batch.caller != request.caller):
        raise MissingError(f"No batch found with id '{request.id}'.", "id")
    return batch


def _card(request: Request, batch: Batch) -> dict[str, Any]:
    return batch.card(request.options.batch_dialect)


def create(request: Request) -> Answer:
    options, file = request.options, request.shelf.files().get(request.posted["input_file_id"])
    if file is None or file.purpose not in ("batch", "batch-api"):
        message = f"The input file {request.posted['input_file_id']} does not exist or is not for batches."
        raise BadCallError(message, "input_file_id", "invalid_input_file")
    batch = Batch(
        **request.posted,
        id=f"batch_{request.identity}",
        created_at=request.now,
        caller=request.caller,
        fault=request.fault if request.fault in BATCH_FAULTS else None,
        seconds=options.batch_seconds,
        cancel_seconds=options.batch_cancel_seconds,
    )
    request.shelf.add_batch(batch)
    card = _card(request, request.shelf.batches[batch.id])
    return as_json({"job": card, "warning": ""} if options.batch_dialect == "together" else card)


def show(request: Request) -> Answer:
    batch = _batch(request)
    batch.looks += not batch.is_open
    return as_json(_card(request, batch))


def list_all(request: Request) -> Answer:
    listed_before = request.now - request.options.list_lag_seconds
    batches = [
        _card(request, batch)
        for batch in request.shelf.batches.values()
        if batch.created_at <= listed_before and not (request.options.own_batches and batch.caller != request.caller)
    ]
    return page(request, batches[::-1], 20, 100)


def cancel(request: Request) -> Answer:
    batch = _batch(request)
    if not batch.is_open:
        return rejection(409, "invalid_request_error", f"Cannot cancel a batch with status '{batch.status}'.")
    if batch.status != "cancelling":
        request.shelf.cancel(batch, request.now)
    return as_json(_card(request, batch))


READERS = {"POST /v1/batches": read_creation}
ROUTES = {
    "POST /v1/batches": create,
    "GET /v1/batches": list_all,
    "GET /v1/batches/{id}": show,
    "POST /v1/batches/{id}/cancel": cancel,
}
