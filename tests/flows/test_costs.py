"""What was spent: `tidemill costs` says what the provider's own log adds up to, to the last digit."""

import json
from decimal import Decimal
from typing import Any

from tests.flows.tidemill import Tidemill
from tests.flows.wire import wire
from tidemill.simulator import Simulator

PRICES = {"gpt-6-luna": ("0.137", "0.91133"), "gpt-6-sol": ("2.12345", "10.00001"), "gpt-6-astra": ("10", "50.5")}
SHARES = {"online": 1, "flex": Decimal("0.5"), "priority": 2, "batch": Decimal("0.7")}
LOST = ("cut", "reset_after")
"""Faults after which the provider has billed, and nobody here knows how much."""

SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^never$"}}, "required": ["a"]}


def prices() -> str:
    tables = (
        f'["{model}"]\ninput = {read}\noutput = {written}\nbatch = 0.7\n' for model, (read, written) in PRICES.items()
    )
    return "\n".join(tables)


def billed(entry: dict[str, Any]) -> Decimal:
    read, written = map(Decimal, PRICES[entry["model"]])
    usd: Decimal = (entry["input_tokens"] * read + entry["output_tokens"] * written) * SHARES[entry["route"]]
    return usd / 1_000_000


def lines_of_batch_files() -> str:
    """Rows of all models and tiers, some of which fail first, are refused, or are cut off."""
    tiers = ("flex", "priority", None)
    scripts = ("", "!!500*1 ", "!!refusal ", "!!cut*1 ", "!!empty*1 ")
    lines = []
    for number in range(30):
        body: dict[str, Any] = {"model": list(PRICES)[number % 3]}
        body["messages"] = [{"role": "user", "content": f"{scripts[number % 5]}Why {number}?"}]
        body |= {"service_tier": tier} if (tier := tiers[number // 3 % 3]) else {}
        lines.append(
            json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body})
        )
    return "\n".join(lines)


def test_the_sum_is_what_the_provider_has_billed_to_the_last_digit(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(admin_key="admin", usd_per_million="/".join(PRICES["gpt-6-luna"]))
    tidemill.environment["TIDEMILL_PRICES"] = str(tidemill.write("prices.toml", prices()))
    tidemill("ask", "-i", tidemill.write("lines.jsonl", lines_of_batch_files()), "--name", "lines")
    schema = tidemill.write("schema.json", json.dumps(SCHEMA))
    tidemill("ask", "Again?", "--schema", schema, "--name", "schema")
    prompts = tidemill.prompts("p.jsonl", [f"Why by batch {number}?" for number in range(7)])
    tidemill("ask", "-i", prompts, "--route", "batch", "--name", "cheap").ok()

    paid = simulator.paid()
    known = [entry for entry in paid if entry["fault"] not in LOST]
    spent = sum(map(billed, known))
    for by in ("route", "batch", "model"):
        said = tidemill("costs", "--by", by, "--json").ok().json
        assert said["total"]["spent_usd_e12"] == spent * 10**12
        assert sum(group["spent_usd_e12"] for group in said["groups"]) == spent * 10**12
        assert Decimal(repr(said["total"]["spent_usd"])) == spent
    total = said["total"]
    assert (total["lost_calls"], total["lost_usd"]) == (len(paid) - len(known), None)
    assert (total["schema_calls"], total["refused_calls"], total["unpriced_calls"]) == (3, 6, 0)
    assert total["calls"] == len(paid) + 6, "calls that failed before they were billed"
    wasted = [entry for entry in known if entry["fault"] or "Again?" in entry["prompt"]]
    assert total["wasted_usd_e12"] == sum(map(billed, wasted)) * 10**12
    for group in said["groups"]:
        of_model = sum(billed(entry) for entry in known if entry["model"] == group["model"])
        assert group["spent_usd_e12"] == of_model * 10**12
    cheap = tidemill("costs", "cheap", "--by", "route", "--json", "--compare").json
    (group,) = cheap["groups"]
    assert group["route"] == "batch"
    assert group["saved_usd_e12"] * 7 == group["spent_usd_e12"] * 3
    (upstream,) = cheap["provider"]["upstream_batches"]
    for side in ("input", "output"):
        assert upstream[f"ledger_{side}_tokens"] == upstream[f"provider_{side}_tokens"] == group[f"{side}_tokens"]


def test_the_admin_key_goes_to_openai_s_endpoint_of_costs_alone(tidemill: Tidemill) -> None:
    with wire() as server:
        tidemill.environment |= {"OPENAI_BASE_URL": server.url, "OPENAI_ADMIN_KEY": "sk-admin-canary"}
        tidemill("ask", "-i", tidemill.prompts("p.jsonl", ["Why?"])).ok()
        shown = tidemill("costs", "--compare").ok()
        assert server.keys == ["Bearer test-key"]
    elsewhere = tidemill("costs", "--compare", "--since", "7d", OPENAI_BASE_URL="http://models.example:8000/v1").ok()
    assert "is not OpenAI, so OPENAI_ADMIN_KEY is not sent there" in elsewhere.out
    assert "canary" not in shown.out + shown.err + elsewhere.out + elsewhere.err
