"""A misspelt setting is named once, beside the right name; what other programs call theirs is left alone."""

import re
from pathlib import Path

import pytest

from tests.conftest import UseEnvironment
from tests.house.sources import modules
from tidemill.models.misspelt import OTHERS, misspelt
from tidemill.models.settings import Settings, settings

NAMES = [str(field.validation_alias) for field in Settings.model_fields.values()]


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("TIDEMILL_WINDW", "TIDEMILL_WINDOW"),
        ("TIDEMILL_WINDOWS", "TIDEMILL_WINDOW"),
        ("TIDEMILL_DATABASE", "TIDEMILL_DATABASE_URL"),
        ("TIDEMIL_WINDOW", "TIDEMILL_WINDOW"),
        ("TIDEMILL_TIMEOUT", "TIDEMILL_TIMEOUT_SECONDS"),
        ("TIDEMILL_API_KEY", "OPENAI_API_KEY"),
        ("TIDEMILL_BASE_URL", "OPENAI_BASE_URL"),
        ("OPENAI_BASEURL", "OPENAI_BASE_URL"),
        ("OPENAI_API_BASE", "OPENAI_BASE_URL"),
        ("OPENAI_APIKEY", "OPENAI_API_KEY"),
        ("OPENAI_ORGANIZATION", "OPENAI_ORG_ID"),
    ],
)
def test_the_nearest_right_name_is_said(name: str, right: str | None) -> None:
    assert misspelt([name], NAMES) == ({name: right} if right else {})


def test_what_is_like_no_setting_is_named_all_the_same() -> None:
    assert misspelt(["TIDEMILL_XYZZY"], NAMES) == {"TIDEMILL_XYZZY": None}


@pytest.mark.parametrize(
    "name",
    [
        *NAMES,
        *("OPENAI_MODEL", "OPENAI_LOG", "OPENAI_API_KEY_2", "OPENAI_API_KEYS", "OPENAI_ADMIN_KEY", "OPENAI_API_TYPE"),
        *("OPENAI_CUSTOM_HEADERS", "OPENAI_WEBHOOK_SECRET", "OPENAI_API_VERSION", "OPENAI_PROXY"),
        *("TIDEMILL_DEBUG", "TIDEMILL_TEST_FINE_TUNES", "PATH", "HOME", "TIDEMILLS", "TIMEOUT_SECONDS"),
        *("TIDEMILL_SERVICE_HOST", "TIDEMILL_SERVICE_PORT_HTTP", "TIDEMILL_PORT", "TIDEMILL_PORT_80_TCP_ADDR"),
        *("TIDEMILL_WORKER_SERVICE_HOST", "TIDEMILL_WORKER_PORT_9090_TCP"),
    ],
)
def test_other_names_are_not(name: str) -> None:
    assert misspelt([name], NAMES) == {}


def test_who_has_the_right_name_too_needs_the_other_for_another_program() -> None:
    assert misspelt(["OPENAI_API_BASE", "OPENAI_BASE_URL"], NAMES) == {}


def test_it_is_said_once_with_what_the_file_says(
    use_environment: UseEnvironment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".env").write_text("TIDEMILL_MODLE=sk-secret\n")
    use_environment({"TIDEMILL_WINDW": "sk-secret"})
    settings()
    assert capsys.readouterr().err == (
        "tidemill: no such setting: TIDEMILL_MODLE (did you mean TIDEMILL_MODEL?), "
        "TIDEMILL_WINDW (did you mean TIDEMILL_WINDOW?); `tidemill doctor` lists the settings.\n"
    )
    settings.cache_clear()  # as a process that this one starts
    settings()
    assert capsys.readouterr().err == ""


def test_every_variable_that_the_code_reads_is_known() -> None:
    read = {name for module in modules() for name in re.findall(r'"(TIDEMILL_[A-Z_]+[A-Z])"', module.text)}
    assert read <= {*NAMES, *OTHERS}
