"""Known tokens, known prices; an unknown price is never nothing."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo
from genai_prices.types import Usage as TheirUsage

from tidemill.models import cost
from tidemill.models.cost import (
    Price,
    chat_overhead_tokens,
    context_tokens,
    count_many,
    count_tokens,
    estimate_tokens,
    format_tokens,
    format_usd,
    from_rates,
    overrides,
    price,
    price_at,
    training_price,
)
from tidemill.models.errors import SettingsError
from tidemill.models.settings import settings


def forget() -> None:
    for cached in (settings, price_at, overrides, context_tokens):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # no .env
    for name in ("TIDEMILL_PRICES", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    forget()
    yield
    forget()


@pytest.mark.parametrize(
    (
        "text",
        "model",
        "tokens",
    ),  # as toktok 0.3.0 counts, which agreed with tiktoken: a change of its tables must not go unseen
    [
        ("", "gpt-6-luna", 0),
        ("hello world", "gpt-6-luna", 2),
        ("hello world", "gpt-4", 2),
        ("Привет, мир!", "gpt-4o", 5),
        ("Привет, мир!", "gpt-4-0613", 7),
        ("Привет, мир!", "openai/text-embedding-3-small", 7),
        ("Привет, мир!", "a-model-of-my-own", 5),
        ("<|endoftext|>", "gpt-6-luna", 7),
        ("\x00", "gpt-6-luna", 1),
    ],
)
def test_tokens_are_the_model_s_own(text: str, model: str, tokens: int) -> None:
    assert count_tokens(text, model) == tokens


def test_lone_surrogates_are_counted_and_do_not_raise() -> None:
    assert count_many(["hello world", "\ud800 x"], "gpt-6-luna") == [2, count_tokens("? x", "gpt-6-luna")]


@pytest.mark.parametrize(
    "text",
    ["", "Yes.", "The quick brown fox jumps over the lazy dog. " * 20, "Die Hauptstadt von Frankreich ist Paris.",
     "法国的首都是巴黎。" * 9, "Столица Франции — Париж."],
)  # fmt: skip
def test_the_estimate_is_not_below_the_count(text: str) -> None:
    assert count_tokens(text, "gpt-6-luna") <= estimate_tokens(text) <= 2 * count_tokens(text, "gpt-6-luna") + 8


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-4", 8_192),
        ("gpt-4o-mini", 128_000),
        ("gpt-4o-mini-2024-07-18", 128_000),
        ("openai/gpt-6-luna", 1_050_000),
        ("my-own-model", None),
        ("gpt-oss-120b", None),
    ],
)
def test_how_much_a_model_takes_is_known_or_not_said(model: str, tokens: int | None) -> None:
    assert context_tokens(model) == tokens


def test_the_chat_format_costs_tokens_of_its_own() -> None:
    assert chat_overhead_tokens(2) == 9


@pytest.mark.parametrize(
    "model", ["gpt-6-luna", "gpt-6-luna-2026-09-22", "gpt-6-luna-20260922", "openai/gpt-6-luna", "GPT-6-luna"]
)
def test_a_model_has_its_price_under_each_of_its_names(model: str) -> None:
    model_price = price(model)
    assert model_price is not None
    assert model_price.cost(1_000_000, 0) == pytest.approx(0.20)  # beyond 272K input tokens
    assert model_price.cost(100_000, 1_000_000) == pytest.approx(0.01 + 0.50)
    assert model_price.cost(100_000, 0, cached=100_000) == pytest.approx(0.001)
    assert "openai/gpt-6-luna" in model_price.source


def test_a_long_prompt_costs_more_for_the_whole_request() -> None:
    model_price = price("gpt-6-luna")
    assert model_price is not None
    assert model_price.cost(272_000, 1000) == pytest.approx(0.0272 + 0.0005)
    assert model_price.cost(272_001, 1000, cached=272_001) == pytest.approx(0.00544002 + 0.00075)


def test_the_batch_api_is_half_the_price() -> None:
    live, batch = price("gpt-6-luna"), price("gpt-6-luna", "batch")
    assert live is not None
    assert batch is not None
    assert batch.cost(300_000, 1000) == pytest.approx(live.cost(300_000, 1000) / 2)


def known_models() -> Iterator[tuple[str, ModelInfo]]:
    for seller in get_snapshot().providers:
        yield from ((f"{seller.id}/{entry.id}", entry) for entry in seller.models)


def test_a_cost_is_what_genai_prices_says_for_every_model_it_knows_in_every_tier() -> None:
    now, compared, differing = datetime.now(UTC), 0, []
    for name, entry in known_models():
        tiers = {key: value for each in entry.price_variants or () for key, value in each.when.items()}
        contexts = (
            [None, *(each.when for each in entry.price_variants or () if len(each.when) == 1)] if tiers else [None]
        )
        for context in contexts:
            rates = entry.get_prices(now, context)
            ours = from_rates(rates, name)
            has_long = rates.cache_write_1h_mtok is not None
            for read, said, cached, written in ((1_000, 100, 0, 0), (10_000, 700, 3_000, 5_000), (300_001, 9, 7, 11)):
                long = written // 2 if has_long else 0
                usage = {"input_tokens": read, "output_tokens": said, "cache_read_tokens": cached}
                usage |= {"cache_write_tokens": written, **({"cache_write_1h_tokens": long} if has_long else {})}
                try:
                    theirs = float(rates.calc_price(TheirUsage(**usage))["total_price"])
                except ValueError:  # sold by the hour, the page or the picture
                    continue
                if ours is None:
                    assert theirs == 0 or rates.requests_kcount is not None, name
                    continue
                compared += 1
                if ours.cost(read, said, cached, written, long) != pytest.approx(theirs, rel=1e-9):
                    differing.append((name, context, usage))
    assert differing == []
    assert compared > 5_000


@pytest.mark.parametrize(
    ("tier", "share"),
    [
        ("", 1),
        ("default", 1),
        ("auto", 1),
        ("scale", 1),
        ("a new one", 1),
        ("flex", 0.5),
        ("Batch", 0.5),
        ("priority", 2),
    ],
)
def test_a_tier_has_the_price_that_the_provider_asks_for_it(tier: str, share: float) -> None:
    standard, own = price("gpt-6-luna"), price("gpt-6-luna", tier)
    assert standard is not None
    assert own is not None
    assert own.cost(10_000, 1_000, 500, 4_000) == pytest.approx(standard.cost(10_000, 1_000, 500, 4_000) * share)


def test_what_is_written_to_the_cache_costs_more_than_other_input() -> None:
    luna, base = price("gpt-6-luna"), price("gpt-4o-mini")
    assert luna is not None
    assert base is not None
    assert luna.cost(10_050, 1, written=10_000) == pytest.approx(0.001255, abs=1e-6)
    assert luna.cost(10_000, 0, written=10_000, written_long=10_000) == pytest.approx(10_000 * 0.1e-6 * 2.5)
    assert base.cost(10_000, 0, written=10_000) == pytest.approx(base.cost(10_000, 0))


def test_a_price_of_the_night_is_looked_up_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.deepseek.com")
    forget()
    midnight = int(datetime(2025, 3, 1, tzinfo=UTC).timestamp() // 1800)
    night, day = price_at("deepseek-chat", "", midnight), price_at("deepseek-chat", "", midnight + 4)
    assert night is not None
    assert day is not None
    assert day.cost(1_000, 1_000) == pytest.approx(2 * night.cost(1_000, 1_000))


def test_fine_tunes_have_prices_of_their_own() -> None:
    tuned, base = price("ft:gpt-4o-mini-2024-07-18:org::id"), price("gpt-4o-mini")
    assert tuned is not None
    assert base is not None
    assert tuned.input_usd_per_token > base.input_usd_per_token


def test_embeddings_have_no_output_price() -> None:
    model_price = price("text-embedding-3-small")
    assert model_price is not None
    assert model_price.cost(1_000_000, 5) == pytest.approx(0.02)


@pytest.mark.parametrize("model", ["", "qwen3-8b", "gpt-oss-20b", "ft:my-model:org::id", "gpt-6-lunatic", "a\x00b"])
def test_an_unknown_price_is_none(model: str) -> None:
    assert price(model) is None


def test_another_provider_s_own_price_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://openrouter.ai/api/v1")
    model_price = price("openai/gpt-oss-20b")
    assert model_price is not None
    assert "openrouter" in model_price.source


def test_a_server_of_one_s_own_falls_back_to_openai_s_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    assert price("gpt-6-luna") is not None
    assert price("gpt-oss-20b") is None


def write_prices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    monkeypatch.setenv("TIDEMILL_PRICES", str(path))
    return path


def test_the_user_s_price_of_cache_writes_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_prices(monkeypatch, tmp_path, '["m"]\ninput = 1\noutput = 2\ncache_write = 1.25\n')
    model_price = price("m", "default")
    assert model_price is not None
    assert model_price.cost(1_000_000, 0, written=400_000) == pytest.approx(0.6 + 0.5)
    assert model_price.cost(1_000_000, 0, written=400_000, written_long=400_000) == pytest.approx(0.6 + 0.5)


def test_what_the_cache_keeps_for_hours_has_a_price_of_the_user_s_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_prices(monkeypatch, tmp_path, '["m"]\ninput = 1\noutput = 2\ncache_write = 1.25\ncache_write_long = 2.5\n')
    model_price = price("m", "batch")
    assert model_price is not None
    assert model_price.cost(1_000_000, 0, written=400_000, written_long=100_000) == pytest.approx(0.3 + 0.1875 + 0.125)


OWN_TIERS = """
[plain]
input = 0.3
output = 1.2
cached_input = 0.1
cache_write = 0.6
training = 9
[shares]
input = 1
output = 2
batch = 0.7
flex = 1.0
[table]
input = 1
output = 2
[table.batch]
input = 0.25
output = 0.5
"""


@pytest.mark.parametrize(
    ("server", "model", "tier", "usd"),
    [
        ("https://api.openai.com/v1", "plain", "", 0.15 + 0.02 + 0.18 + 0.24),
        ("https://api.openai.com/v1", "plain", "default", 0.59),
        ("https://api.openai.com/v1", "plain", "Batch", 0.295),
        ("https://api.openai.com/v1", "plain", "flex", 0.295),
        ("https://api.openai.com/v1", "plain", "priority", 1.18),
        ("http://127.0.0.1:8000/v1", "plain", "batch", 0.295),
        ("https://api.deepinfra.com/v1/openai", "plain", "batch", 0.472),
        ("https://api.groq.com/openai/v1", "plain", "flex", 0.59),
        ("https://api.deepinfra.com/v1/openai", "shares", "batch", 0.7 * 1.4),
        ("https://api.openai.com/v1", "shares", "flex", 1.4),
        ("https://api.openai.com/v1", "table", "batch", 0.25 * 1.0 + 0.1),
        ("https://api.openai.com/v1", "table", "flex", 0.7),
    ],
)
def test_a_price_of_one_s_own_is_the_standard_one_and_tiers_cost_a_share_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str, model: str, tier: str, usd: float
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server)
    write_prices(monkeypatch, tmp_path, OWN_TIERS)
    own = price(model, tier)
    assert own is not None
    assert own.cost(1_000_000, 200_000, cached=200_000, written=300_000) == pytest.approx(usd)
    assert training_price("plain") == pytest.approx(9e-6)


def test_a_server_s_discount_counts_where_the_built_in_table_knows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.together.xyz/v1")
    name = "MiniMaxAI/MiniMax-M3"
    standard, batch = price(name), price(name, "batch")
    assert standard is not None
    assert batch is not None
    assert "together" in batch.source
    assert batch.cost(1_000, 1_000) == pytest.approx(0.5 * standard.cost(1_000, 1_000))


def test_the_user_s_prices_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = '["gpt-6-luna"]\ninput = 1\noutput = 2\ncached_input = 0.5\n["my model"]\ninput = 0\noutput = 0\n'
    path = write_prices(monkeypatch, tmp_path, text)
    assert price("gpt-6-luna-2026-09-22") == Price(1e-6, 0.5e-6, 2e-6, str(path))
    assert price("my model") == Price(0.0, 0.0, 0.0, str(path))
    assert price("gpt-6-sol") is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[m\n", "is not TOML"),
        ("m = 1\n", "'m'"),
        ("[m]\ninput = 1\n", "'m'.* output"),
        ("[m]\ninput = -1\noutput = 1\n", "'m'.* input"),
        ("[m]\ninput = 1\noutput = nan\n", "'m'.* output"),
        ('[m]\ninput = 1\noutput = "2"\n', "'m'.* output"),
        ("[m]\ninput = true\noutput = 2\n", "'m'.* input"),
        ("[m]\ninput = 1\noutput = 2\ncached = 3\n", "'m'.* cached"),
        ("[m]\ninput = 1\noutput = 2\nbatch = -1\n", "'m'.* batch: must be a share"),
        ("[m]\ninput = 1\noutput = 2\n[m.batch]\ninput = 1\n", "'m'.* batch output: is missing"),
        ("[m]\ninput = 1\noutput = 2\n[m.flex]\nbatch = 1\n", "'m'.* flex batch: unknown key"),
    ],
)
def test_a_bad_file_is_named_with_its_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, words: str
) -> None:
    write_prices(monkeypatch, tmp_path, text)
    with pytest.raises(SettingsError, match=r"prices\.toml.*" + words):
        price("gpt-6-luna")


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIDEMILL_PRICES", str(tmp_path / "nowhere.toml"))
    with pytest.raises(SettingsError, match=r"nowhere\.toml.*No such file"):
        price("gpt-6-luna")


@pytest.mark.parametrize(
    ("usd", "shown"),
    [(None, "unknown price"), (0, "$0.00"), (0.0004, "$0.0004"), (0.021, "$0.021"), (0.9996, "$1.00"),
     (0.0099, "$0.0099"), (1.2e-5, "$0.000012"), (12.4, "$12.40"), (12345.6784, "$12,345.678")],
)  # fmt: skip
def test_amounts_are_short(usd: float | None, shown: str) -> None:
    assert format_usd(usd) == shown


def test_tokens_are_grouped() -> None:
    assert format_tokens(61204) == "61,204"


def test_importing_the_module_loads_neither_tables_nor_prices() -> None:
    code = "import sys, tidemill.models.cost; print({'toktok', 'genai_prices', 'httpx2'} & sys.modules.keys())"
    root = Path(cost.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("model", "usd_per_million"),
    [
        ("gpt-4.1-mini", 5.0),
        ("gpt-4.1-mini-2025-04-14", 5.0),
        ("openai/gpt-4.1", 25.0),
        ("ft:gpt-4o-mini-2024-07-18:org::id", 3.0),
        ("gpt-6-luna", None),
        ("a-model-of-my-own", None),
    ],
)
def test_training_has_a_price_of_its_own(model: str, usd_per_million: float | None) -> None:
    usd_per_token = training_price(model)
    assert usd_per_token == (None if usd_per_million is None else pytest.approx(usd_per_million / 1_000_000))


def test_a_training_price_of_one_s_own_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(
        '["gpt-4.1-mini"]\ninput = 1\noutput = 1\ntraining = 7\n["gpt-4.1"]\ninput = 1\noutput = 1\n'
    )
    monkeypatch.setenv("TIDEMILL_PRICES", str(tmp_path / "prices.toml"))
    assert training_price("ft:gpt-4.1-mini-2025-04-14:org::id") == pytest.approx(7 / 1_000_000)
    assert training_price("gpt-4.1") == pytest.approx(25 / 1_000_000)  # the file says nothing of training it
