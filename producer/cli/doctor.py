"""One command says whether everything that a run needs is there, and what to fix."""

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from pydantic import SecretStr
from sqlalchemy import Connection, false, func, select

from tidemill import migrations
from tidemill.models import blobs, broker, budgets, cost, outbound, shutdown
from tidemill.models.call_settings import check_headers
from tidemill.models.clock import now_after
from tidemill.models.database import reading, writing
from tidemill.models.due import ALIVE_SECONDS
from tidemill.models.errors import TidemillError
from tidemill.models.json_types import JsonObject
from tidemill.models.money import usd
from tidemill.models.provider import CallError
from tidemill.models.provider_looks import list_models
from tidemill.models.settings import Settings, settings
from tidemill.models.tables import metadata, workers
from tidemill.models.text import one_line
from tidemill.models.urls import shown_url
from tidemill.producer.batches.progress import counted
from tidemill.producer.screen.printing import print_json, print_line, print_table
from tidemill.producer.screen.tables import Column

_LITTLE_DISK_BYTES = 500_000_000

MODEL_COLUMNS = (Column("model", 1), Column("$/M in", 3), Column("$/M out", 4), Column("shuts down", 2))
SETTING_COLUMNS = (Column("setting", 1), Column("value", 2), Column("meaning", 3))


def show_models(as_json: bool) -> None:
    """Print the provider's models, with price and shutdown date where they are known."""
    try:
        models = sorted(list_models(settings()), key=lambda model: str(model.get("id")))
    except CallError as error:
        raise ProviderError(f"{error.message.rstrip('.')}. OPENAI_BASE_URL is {settings().openai_base_url}.") from None
    rows = [_model(each) for each in models]
    if as_json:
        return print_json(rows)
    cells = [
        (x["id"], _price(x["input_usd_per_million"]), _price(x["output_usd_per_million"]), x["shutdown_date"] or "")
        for x in rows
    ]
    return print_table(MODEL_COLUMNS, cells)


class ProviderError(TidemillError):
    """The provider does not answer, or answers with an error."""


def _model(model: JsonObject) -> JsonObject:
    price = cost.price(str(model.get("id")))
    ends = model.get("shutdown_date") or shutdown.shutdown_date(str(model.get("id")), settings().provider)
    return {
        "id": model.get("id"),
        "owned_by": model.get("owned_by"),
        "shutdown_date": None if ends is None else str(ends),
        "input_usd_per_million": round(price.input_usd_per_token * 1e6, 6) if price else None,
        "output_usd_per_million": round(price.output_usd_per_token * 1e6, 6) if price else None,
    }


def _price(usd: float | None) -> str:
    return "unknown" if usd is None else f"{usd:g}"


# --- doctor ---


def doctor(as_json: bool) -> None:
    """Check everything and print it; exits 1 when something must be fixed."""
    checks = [_check(name, check) for name, check in _CHECKS.items()]
    listed = _settings(settings())
    if as_json:
        print_json({"checks": checks, "settings": listed})
    else:
        for check in checks:
            print_line(f"{'ok  ' if check['ok'] else 'FIX '} {check['name']}: {check['says']}")
        print_line("")
        print_table(SETTING_COLUMNS, [(each["name"], each["value"], each["meaning"]) for each in listed])
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


def _check(name: str, check: Callable[[], str]) -> JsonObject:
    try:
        return {"name": name, "ok": True, "says": check()}
    except (TidemillError, CallError) as error:
        return {"name": name, "ok": False, "says": one_line(getattr(error, "message", None) or str(error), 500)}
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return {"name": name, "ok": False, "says": one_line(f"{where}{error.strerror or error}", 500)}


def _database() -> str:
    migrations.ensure()
    with writing() as connection:
        _write_nothing(connection)
        kind = "SQLite, embedded" if connection.dialect.name == "sqlite" else "PostgreSQL, shared"
        return f"{kind}, schema {migrations.current(connection)}"


def _write_nothing(connection: Connection) -> None:
    """Do to no row what a run does to rows, so that missing rights and a database that takes no writes show."""
    for table in metadata.sorted_tables:
        connection.execute(table.insert().from_select(list(table.c), select(table).where(false())))
        connection.execute(table.update().where(false()).values({table.c[0]: table.c[0]}))
        connection.execute(table.delete().where(false()))
        numbers = table.autoincrement_column
        if numbers is not None and connection.dialect.name == "postgresql":
            connection.execute(select(func.nextval(func.pg_get_serial_sequence(table.name, numbers.name))))


def _disk() -> str:
    if settings().database_url:
        return "the database is elsewhere"
    free = shutil.disk_usage(settings().home).free
    if free < _LITTLE_DISK_BYTES:
        raise TidemillError(f"only {free / 1e6:,.0f} MB are free in {settings().home}; answers need room.")
    return f"{free / 1e9:,.1f} GB free in {settings().home}"


def _broker() -> str:
    if settings().embedded:
        return "none: commands run a worker inside themselves"
    broker.check()
    return broker.shown_url()


def _limits() -> str:
    if settings().effective_limits_url is None:
        return "kept in each worker process" + ("" if settings().embedded else "; TIDEMILL_LIMITS_URL would share them")
    broker.check_limits()
    url = settings().limits_url
    return f"shared through {shown_url(url) if url else 'the broker'}"


def _key() -> str:
    check_headers(settings())
    if settings().openai_api_key is None:
        return "OPENAI_API_KEY is not set; fine for a server that needs none"
    return "OPENAI_API_KEY is set"


def _proxy() -> str:
    proxy = outbound.proxy_for(settings().openai_base_url)
    return str(proxy or "none: calls go straight to the server")


def _certificates() -> str:
    return str(outbound.certificates())


def _provider() -> str:
    ids = [str(each.get("id")) for each in list_models(settings())]
    return of_models(ids, settings().model, settings().openai_base_url)


def of_models(ids: Sequence[str], model: str, where: str) -> str:
    """What a server lists, for people; many list nothing, and take any name.

    Raises:
        TidemillError: the default model is not among them.
    """
    if not ids:
        return f"{where} answers and lists no models; {model}, the default, may still be one"
    if any(is_listed(model, each) for each in ids):
        return f"{where} answers and lists {counted(len(ids), 'model')}; the default model {model} is one of them"
    raise TidemillError(
        f"{where} does not list the default model {model}. Set TIDEMILL_MODEL to one that it lists, such as "
        f"{', '.join(sorted(ids)[:3])} (all: `tidemill models`), or name one with --model in each command."
    )


def is_listed(model: str, listed: str) -> bool:
    """Whether a server that lists a model under this id takes this name for it.

    A name may be that of the newest snapshot (gpt-6-luna-2026-09-01), of the newest tag (llama4:latest), or what stands
    behind a folder (models/gemini-3-flash).
    """
    names = {listed, listed.rpartition("/")[2], listed.removesuffix(":latest")}
    return model in names or any(_SNAPSHOT.fullmatch(each.removeprefix(model)) for each in names)


_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest|preview)")


def _workers() -> str:
    alive = select(workers.c.provider, func.count().label("alive")).where(workers.c.seen_at > now_after(-ALIVE_SECONDS))
    with reading() as connection:
        by_server = {row.provider: row.alive for row in connection.execute(alive.group_by(workers.c.provider))}
    own = by_server.pop(settings().provider, 0)
    others = f"; {sum(by_server.values())} for other servers" if by_server else ""
    if settings().embedded:
        return f"none needed: commands run a worker inside themselves; {own} alive at present{others}"
    if not own:
        raise TidemillError(
            f"no worker is alive for {settings().provider}{others}. Start one: `tidemill worker`; rows wait until then."
        )
    return f"{own} alive for {settings().provider}{others}"


def _budgets() -> str:
    with reading() as connection:
        capped, wrong = budgets.read_all(connection), budgets.imbalances(connection)
        calls, beyond = budgets.beyond_bounds(connection)
    if wrong:
        names = ", ".join(f"{each.budget.kind} {each.budget.name}".strip() for each in wrong)
        raise TidemillError(
            f"what is reserved in {names} is not what its calls have reserved; please report it. Removing its cap and "
            "setting it again counts anew."
        )
    more = f"; {counted(calls, 'call')} cost {cost.format_usd(usd(beyond))} more than could be known" if calls else ""
    return f"{counted(len(capped), 'cap')} on money{more}" if capped else f"none: nothing has a cap{more}"


_CHECKS: dict[str, Callable[[], str]] = {
    "python": lambda: f"{sys.version.split()[0]} at {Path(sys.executable)}",
    "database": _database,
    "disk": _disk,
    "pictures": blobs.check,
    "broker": _broker,
    "limits": _limits,
    "key": _key,
    "proxy": _proxy,
    "certificates": _certificates,
    "provider": _provider,
    "workers": _workers,
    "budgets": _budgets,
}


def _settings(current: Settings) -> list[dict[str, str]]:
    """Every setting: its variable's name, its value (a secret only as set or not), and what it means."""
    return [
        {
            "name": str(field.validation_alias),
            "value": _shown(str(field.validation_alias), getattr(current, name)),
            "meaning": field.description or "",
        }
        for name, field in Settings.model_fields.items()
    ]


def _shown(name: str, value: object) -> str:
    if isinstance(value, SecretStr):
        return "set" if value.get_secret_value() else "not set"
    if name == "TIDEMILL_BLOBS_URL":
        return blobs.shown_url() if value else ""
    if name.endswith("_URL") and value:
        return shown_url(str(value))
    return "" if value is None else str(value)
