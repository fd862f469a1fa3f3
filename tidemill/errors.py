"""All that can go wrong through no fault of Tidemill: each error is a `TidemillError` whose text is the whole message.

    from tidemill import ask, errors

    try:
        ask("prompts.csv", max_tokens=0)
    except errors.OptionError as error:
        print(error)   # max_tokens=0: it must be a whole number, 1 or more.

A `TidemillError` is the caller's to fix: input, options, settings, the database, the broker. Anything else that is
raised is a fault of Tidemill's own.
"""

from tidemill.models.blobs import BlobError
from tidemill.models.errors import (
    BrokerError,
    BudgetReachedError,
    DatabaseError,
    InputError,
    NotEndedError,
    NotTrainedError,
    OptionError,
    SettingsError,
    TidemillError,
)

__all__ = [
    "BlobError",
    "BrokerError",
    "BudgetReachedError",
    "DatabaseError",
    "InputError",
    "NotEndedError",
    "NotTrainedError",
    "OptionError",
    "SettingsError",
    "TidemillError",
]
