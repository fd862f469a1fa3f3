"""Every setting has one name and one default, and is read once.

Settings come from the environment and from a `.env` file in the working folder, of which `models.dotenv` says what it
may decide; `tidemill doctor` lists them. Secrets are `SecretStr`, so that printing or logging the settings never shows
them.
"""

import os
from functools import cache, cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from tidemill.models import dotenv, misspelt
from tidemill.models.errors import SettingsError
from tidemill.models.server_names import server_name
from tidemill.models.servers import Server, read_url
from tidemill.models.urls import is_host


def checked_url(url: str) -> str:
    """The base URL of an API, without blanks around it or a slash at its end; ValueError says what is wrong."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and is_host(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(each.isspace() or not each.isprintable() for each in url):
        raise ValueError("is not an http(s) URL; an example is http://localhost:8000/v1")
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise ValueError("takes only host, port and path; put the key into OPENAI_API_KEY")
    url = url.rstrip("/")
    if ending := next((each for each in _CALLED if url.lower().endswith(each)), None):
        raise ValueError(f"ends in {ending}, which is added to it for each call; leave that out")
    return url


_CALLED = ("/chat/completions", "/completions", "/responses")
"""What people copy with the URL from an example of a call."""


def _own_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("tidemill"))


class Settings(BaseModel):
    """All settings of producer and worker; the environment's name of each is its `validation_alias`."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    openai_api_key: SecretStr | None = Field(
        None, validation_alias="OPENAI_API_KEY", description="key of the provider; never stored, never logged"
    )
    openai_base_url: str = Field(
        "https://api.openai.com/v1",
        validation_alias="OPENAI_BASE_URL",
        description="any server that speaks OpenAI's API",
    )
    openai_org_id: str | None = Field(None, validation_alias="OPENAI_ORG_ID", description="sent as OpenAI-Organization")
    openai_project_id: str | None = Field(
        None, validation_alias="OPENAI_PROJECT_ID", description="sent as OpenAI-Project"
    )
    openai_admin_key: SecretStr | None = Field(
        None,
        validation_alias="OPENAI_ADMIN_KEY",
        description="key that may read OpenAI's costs, for `costs --compare`; sent there only, never stored or logged",
    )
    home: Path = Field(
        default_factory=_own_folder,
        validation_alias="TIDEMILL_HOME",
        description="folder of the embedded database",
    )
    database_url: str = Field(
        "",
        validation_alias="TIDEMILL_DATABASE_URL",
        description="empty: SQLite in TIDEMILL_HOME; postgresql://... to share",
    )
    broker_url: str = Field(
        "memory://",
        validation_alias="TIDEMILL_BROKER_URL",
        description="memory://: commands run a worker inside themselves; redis://... or amqp://... to share",
    )
    limits_url: str = Field(
        "",
        validation_alias="TIDEMILL_LIMITS_URL",
        description="Redis of the shared limits; empty: the broker, if it is Redis",
    )
    blobs_url: str = Field(
        "",
        validation_alias="TIDEMILL_BLOBS_URL",
        description="prepared pictures; empty: blobs in TIDEMILL_HOME; a folder, s3://... or gs://... to share",
    )
    model: str = Field("gpt-6-luna", validation_alias="TIDEMILL_MODEL", description="model of commands that name none")
    window: int = Field(
        256, ge=1, le=10_000, validation_alias="TIDEMILL_WINDOW", description="calls in flight in one worker process"
    )
    timeout_seconds: float = Field(
        600, gt=0, validation_alias="TIDEMILL_TIMEOUT_SECONDS", description="longest wait for one reply"
    )
    max_attempts: int = Field(
        8, ge=1, validation_alias="TIDEMILL_MAX_ATTEMPTS", description="failed calls of one job before it is failed"
    )
    retry_seconds: float = Field(
        3600,
        gt=0,
        validation_alias="TIDEMILL_RETRY_SECONDS",
        description="time since a job's first call after which it is failed",
    )
    lease_seconds: float = Field(
        30, ge=1, validation_alias="TIDEMILL_LEASE_SECONDS", description="how long a silent worker keeps its jobs"
    )
    drain_seconds: float = Field(
        25,
        ge=0,
        validation_alias="TIDEMILL_DRAIN_SECONDS",
        description="how long a stopping worker waits for calls in flight",
    )
    poll_seconds: float = Field(
        30,
        gt=0,
        validation_alias="TIDEMILL_POLL_SECONDS",
        description="longest pause between two looks at a fine-tune or an upstream batch",
    )
    doubt_seconds: float = Field(
        30,
        ge=0,
        validation_alias="TIDEMILL_DOUBT_SECONDS",
        description="how long a creation without a reply is looked for before it is asked for again",
    )
    log_level: Literal["debug", "info", "warning", "error"] | None = Field(
        None,
        validation_alias="TIDEMILL_LOG_LEVEL",
        description="debug, info, warning or error; else workers log at info, commands at warning",
    )
    log: Literal["text", "json"] = Field(
        "text", validation_alias="TIDEMILL_LOG", description="the form of a worker's log: text or json"
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        validation_alias="TIDEMILL_METRICS_PORT",
        description="where `tidemill worker` serves metrics for Prometheus, and its health; else nowhere",
    )
    prices: Path | None = Field(
        None, validation_alias="TIDEMILL_PRICES", description="TOML file of prices that go before the built-in ones"
    )

    @field_validator("openai_base_url")
    @classmethod
    def _is_http_url(cls, url: str) -> str:
        return checked_url(url)

    @field_validator("broker_url")
    @classmethod
    def _is_broker_url(cls, url: str) -> str:
        read_url(url, "broker")
        return url

    @field_validator("limits_url")
    @classmethod
    def _is_limits_url(cls, url: str) -> str:
        if url:
            read_url(url, "limits")
        return url

    @property
    def effective_blobs_url(self) -> str:
        """The store of prepared pictures: as set, or a folder beside the embedded database."""
        return self.blobs_url or str(self.home / "blobs")

    @property
    def embedded(self) -> bool:
        """True when a waiting command runs a worker inside itself."""
        return self.broker.kind == "memory"

    @cached_property
    def broker(self) -> Server:
        """The broker that TIDEMILL_BROKER_URL names."""
        return read_url(self.broker_url, "broker")

    @cached_property
    def provider(self) -> str:
        """The provider as batches, workers and buckets name it: its host, port and path, never a key."""
        return server_name(self.openai_base_url)

    @property
    def host(self) -> str:
        """Host and port of the provider as the URL spells them, by which fine-tunes are known."""
        return urlsplit(self.openai_base_url).netloc

    @property
    def effective_limits_url(self) -> str | None:
        """The Redis of the shared limits; None for limits inside the process."""
        return self.limits_url or (self.broker_url if self.broker.kind == "redis" else None)


@cache
def settings() -> Settings:
    """The process's settings, read on first use.

    What `.env` decides about places is said on stderr, once a process; so are names that are misspelt.

    Raises:
        SettingsError: a variable has a value that cannot work, or `.env` names a server that must not get a key; the
            text names it.
    """
    dotenv.say_places(_from_file())
    misspelt.say({*dotenv.environment(), *dotenv.names()}, _names())
    return read_settings()


def read_settings() -> Settings:
    """What the environment and `.env` say now. Errors as for `settings`."""
    try:
        return Settings.model_validate(dotenv.environment() | _from_file())
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{name}: {reason}. Change the variable, then try again.") from None


def export_file() -> None:
    """Put what `.env` decides into the environment, so that processes that this one starts decide nothing anew."""
    for name, value in _from_file().items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _from_file() -> dict[str, str | None]:
    return dotenv.read(_names())


def _names() -> list[str]:
    return [str(field.validation_alias) for field in Settings.model_fields.values()]
