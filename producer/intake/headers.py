"""A table of one column without a header must not lose its first prompt, and nobody can see for certain which it is."""

from itertools import chain

from tidemill.producer.intake.formats import Wanted, looks_like_header, reads_like_prompt
from tidemill.producer.intake.records import Input, Records

_SHOWN = 60


def without_lost_header(records: Records, input_: Input, wanted: Wanted) -> Records:
    """The records; before them the header, where it is the only column's and reads like a prompt.

    Which of the two it was taken for is said, unless it is a usual name or the user has named columns.
    """
    first = next(records, None)
    if first is None:
        return
    names = list(first[1])
    records = chain([first], records)
    if wanted.columns or not wanted.usual or len(names) > 1 or looks_like_header(names, wanted.usual):
        yield from records
        return
    (name,) = names
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    if not reads_like_prompt(name):
        input_.note(
            f"has the column {shown!r} by its first row; if that is a prompt, put a header such as prompt above."
        )
        yield from records
        return
    input_.note(
        f"has no header, it seems: {shown!r} is asked, too. If that is the column's name, say so with --column."
    )
    yield first[0] - 1, {"prompt": name}
    for number, record in records:
        yield number, {"prompt": record[name]}
