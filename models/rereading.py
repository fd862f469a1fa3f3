"""A notebook lives long: each public call reads the settings again, and what was made of old ones is made anew."""

import sys

from tidemill.models import cost, database, embedded
from tidemill.models.errors import SettingsError
from tidemill.models.settings import Settings, read_settings, settings

_PLACES = ("openai_base_url", "home", "database_url", "broker_url", "limits_url", "blobs_url", "lease_seconds")
"""What a worker cannot change while it runs: where its jobs are, and how long it has them."""


def reread_settings() -> None:
    """Take up what the environment says now, a new key for example. Call it before anything else.

    Raises:
        SettingsError: a variable has a value that cannot work, or cannot change while a worker runs in this process.
    """
    before, fresh = settings(), read_settings()
    if fresh == before:
        return
    moved = {name for name in _PLACES if getattr(fresh, name) != getattr(before, name)}
    if moved and embedded.is_running():
        names = " and ".join(sorted(str(Settings.model_fields[name].validation_alias) for name in moved))
        raise SettingsError(
            f"{names} cannot change while a wait() runs in this process. "
            "Wait for its end, or use another process for the other batch."
        )
    settings.cache_clear()
    forget_prices()
    if moved:
        database.close()
        from tidemill.models import broker  # imports Celery, which a process without a broker does not need

        broker.forget_app()


def forget_prices() -> None:
    """Look all prices up anew."""
    for cached in (cost.price_at, cost.context_tokens, cost.overrides):
        cached.cache_clear()
    cost.forget_tiers()
    if (bounds := sys.modules.get("tidemill.models.bounds")) is not None:
        bounds.forget_rates()
