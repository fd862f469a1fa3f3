"""The one Celery task passes the job ids of a message to this process's runner."""

from tidemill.models.messages import log_dropped
from tidemill.worker import process


def run(*arguments: object, **options: object) -> None:
    """Run the jobs with the ids in the one argument: see `Runner.admit`."""
    ids = arguments[0] if len(arguments) == 1 and not options else None
    if not isinstance(ids, list) or not all(type(each) is int and 0 < each < 2**63 for each in ids):
        log_dropped("it is no list of job ids")
        return
    process.started.wait()
    if process.current is not None:
        process.current.admit(ids)
