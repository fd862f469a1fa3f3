"""What was billed is read under every name that servers have for it."""

from typing import Any

import pytest

from tidemill.models.usage import Usage, read_usage, usage_in_fragment


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4}, Usage(9, 4)),
        ({"prompt_tokens": "9", "completion_tokens": 4.0, "total_tokens": "13"}, Usage(9, 4)),
        ({"prompt_tokens": None, "completion_tokens": 4, "total_tokens": 13}, Usage(9, 4)),
        ({"prompt_tokens": 9, "total_tokens": 13}, Usage(9, 4)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 9, "output_tokens": 4}, Usage(9, 4)),
        ({"promptTokens": 9, "completionTokens": 4}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": -1}, Usage(9, 0)),
        ({"prompt_tokens": float("nan"), "completion_tokens": 4}, Usage(0, 4)),
        ({"prompt_tokens": True, "completion_tokens": 10**30}, None),
        ({}, None),
        ({"total_tokens": 13}, None),
        # caches: OpenAI, Responses, DeepSeek, Moonshot, Qwen, LiteLLM
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}, Usage(9, 4, 3)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2,
          "cache_write_tokens": 5}}, Usage(9, 4, 2, 5)),
        ({"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 7,
          "cache_write_tokens_details": {"ttl_30m_tokens": 5, "ttl_12h_tokens": 2}}}, Usage(9, 4, 1, 7, 2)),
        ({"input_tokens": 9, "output_tokens": 4, "input_tokens_details":
          {"cache_write_tokens_details": {"ttl_30m_tokens": 5, "ttl_12h_tokens": 2}}}, Usage(9, 4, 0, 7, 2)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 3, "prompt_cache_miss_tokens": 6},
         Usage(9, 4, 3)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": 3}, Usage(9, 4, 3)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cache_creation": {
          "ephemeral_5m_input_tokens": 6}}}, Usage(9, 4, 0, 6)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 6},
         Usage(9, 4, 2, 6)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"cached_tokens": 3}}, Usage(9, 4)),
        # Anthropic and Bedrock count them apart
        ({"input_tokens": 1, "output_tokens": 4, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 6,
          "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 1}}, Usage(9, 4, 2, 6, 1)),
        ({"inputTokens": 1, "outputTokens": 4, "cacheReadInputTokens": 2, "cacheWriteInputTokens": 6,
          "totalTokens": 13}, Usage(9, 4, 2, 6)),
        # Gemini and xAI leave out what was thought
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 43}, Usage(9, 34)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 43,
          "completion_tokens_details": {"reasoning_tokens": 30}}, Usage(9, 34)),
        # more of a part than of the whole
        ({"prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": 20, "cache_write_tokens": 20}, Usage(9, 4, 9)),
    ],
)  # fmt: skip
def test_usage_is_read_under_every_name(usage: dict[str, Any], expected: Usage | None) -> None:
    assert read_usage({"usage": usage}) == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 4}, "service_tier": "flex"}, Usage(9, 4, tier="flex")),
        ({"usage": {"input_tokens": 9, "output_tokens": 4, "service_tier": "Batch"}}, Usage(9, 4, tier="batch")),
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 4}, "service_tier": 1}, Usage(9, 4)),
        ({"usage": None, "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "totalTokenCount": 15,
          "cachedContentTokenCount": 3}}, Usage(9, 6, 3)),
        ({"x_groq": {"usage": {"prompt_tokens": 9, "completion_tokens": 4}}}, Usage(9, 4)),
        ({"prompt_eval_count": 9, "eval_count": 4}, Usage(9, 4)),
        ({"usage": "9"}, None),
        ({"usage": []}, None),
    ],
)  # fmt: skip
def test_usage_is_read_wherever_it_stands(payload: dict[str, Any], expected: Usage | None) -> None:
    assert read_usage(payload) == expected


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        (b'{"service_tier": "flex", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total',
         Usage(9, 4, tier="flex")),
        (b'{"usage": {"prompt_tokens":9,"completion_tokens":"4","prompt_tokens_details":{"cached_tokens":3}},"x":',
         Usage(9, 4, 3)),
        (b'{"choices": [{"message": {"content": "{\\"usage\\": {\\"prompt_tokens\\": 9}}', None),
        (b'{"usage": {"prompt_tok', None),
        (b"<html>", None),
        (b"", None),
    ],
)  # fmt: skip
def test_usage_is_read_from_what_is_left_of_a_reply(fragment: bytes, expected: Usage | None) -> None:
    assert usage_in_fragment(fragment) == expected
