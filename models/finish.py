"""Every server has words of its own for how an answer ended, and only here is known what they mean.

Sources: the API references of OpenAI, Azure, Anthropic, Bedrock, Gemini, Mistral, Cohere, DeepSeek, Zhipu and
OpenRouter, vLLM, SGLang, LMDeploy, TGI, llama.cpp, Ollama and LM Studio, and what gateways were seen to pass on.
"""

import re
from functools import lru_cache
from typing import Literal, NamedTuple

Ending = Literal[
    "complete",
    "tool_calls",  # complete, and the model waits for what its calls return
    "cut",  # at a limit of tokens
    "filtered",  # by the provider
    "broken",  # the server failed or was stopped before the model had ended
    "unstated",  # the server does not say
    "unknown",  # a word that is not listed here
]

CUT = "length"
"""Finish reason of an answer that was cut at the token limit, for both endpoints."""

_WORDS: dict[Ending, str] = {
    "complete": """
        stop stopped end ended eos eos_token eos_found stop_sequence stop_sequences stop_string stop_string_found
        stop_token stop_word stop_words stop_criteria stop_criteria_met word end_turn end_of_turn turn_end
        end_of_sequence end_of_text
        complete completed completion done finish finished normal natural final success succeeded""",
    "tool_calls": """
        tool_call tool_calls tool_use tool_uses tool_code function_call function_calls client_tool_call
        requires_action""",
    "cut": """
        length max_length max_len max_tokens max_token max_output_tokens max_completion_tokens max_new_tokens
        max_output_reached max_tokens_reached max_predicted_tokens_reached max_model_len maximum_tokens model_length
        limit token_limit token_limit_reached output_limit output_length output_token_limit error_limit truncated
        truncation incomplete context_length context_length_reached context_length_exceeded context_limit
        context_window context_window_exceeded model_context_window_exceeded context_overflow context compaction
        max_thinking_tokens max_output max_tokens_exceeded token_limit_exceeded max_context_length max_length_reached
        truncated_final""",
    "filtered": """
        content_filter content_filtered content_filtering content_blocked content_policy content_policy_violation
        filter filtered blocked block blocklist blacklist safety sensitive sensitive_content moderation moderated
        flagged guardrail guardrails guardrail_intervened model_armor jailbreak recitation language
        prohibited_content spii pii policy_violation error_toxic toxic risk refusal refused image_safety
        image_prohibited_content image_recitation escalation data_inspection_failed copyright""",
    "broken": """
        abort aborted error errored failed failure fail cancel canceled cancelled cancellation user_cancel
        user_cancelled user_canceled user_stop user_stopped interrupt interrupted disconnect disconnected timeout
        timed_out time_limit deadline deadline_exceeded network_error server_error internal_error internal_server_error
        engine_error engine_shutdown model_error provider_error upstream_error error_generation unavailable overloaded
        insufficient_system_resource resource_exhausted rate_limit rate_limited rate_limit_exceeded preempted evicted
        load unload unloaded model_unloaded malformed_function_call malformed_tool_call malformed_model_output
        malformed_tool_use malformed_response unexpected_tool_call in_progress queued not_finished partial""",
    "unstated": "unspecified unknown null none nil undefined",
}
_CHAT_WORD: dict[Ending, str] = {
    "complete": "stop",
    "tool_calls": "tool_calls",
    "cut": CUT,
    "filtered": "content_filter",
    "unstated": "",
}
_SPECIAL_TOKEN = re.compile(r"\s*<.*>\s*")
"""Together and others name the token at which the model stopped: `<|eot_id|>`, `</s>`."""


class Finish(NamedTuple):
    """How an answer ended.

    Args:
        reason: in the words of Chat Completions; an unknown word is the server's own, "" when it says nothing.
    """

    ending: Ending
    reason: str


def _key(word: str) -> str:
    """One spelling for `MAX_TOKENS`, `max-tokens`, `MaxTokens` and `FINISH_REASON_MAX_TOKENS`."""
    bare = re.sub(r"[\W_]+", "", word).lower()
    for prefix in ("finishreason", "stopreason", "alternativestatus"):
        bare = bare.removeprefix(prefix)
    return bare


_ENDINGS: dict[str, Ending] = {_key(word): ending for ending, words in _WORDS.items() for word in words.split()}


def read_finish(word: object, native: object = None) -> Finish:
    """What a finish reason means.

    Args:
        word: the server's finish reason, or an object whose `type` it is (SGLang); None without one.
        native: what the server behind a gateway (OpenRouter, LiteLLM) said. It counts where the gateway has no word, or
            calls something "stop" that is none.
    """
    own, behind = _finish(word), _finish(native)
    if own.ending in ("unstated", "unknown"):
        return own if behind.ending in ("unstated", "unknown") else behind
    return behind if own.ending == "complete" and behind.ending in ("cut", "filtered", "broken") else own


def _finish(word: object) -> Finish:
    if isinstance(word, dict):
        word = word.get("type") or word.get("reason")
    return _UNSTATED if word is None or isinstance(word, bool) else _finish_of(str(word).strip())


_UNSTATED = Finish("unstated", "")


@lru_cache(maxsize=1_024)
def _finish_of(text: str) -> Finish:
    if _SPECIAL_TOKEN.fullmatch(text):
        return Finish("complete", "stop")
    key = _key(text)
    ending: Ending = _ENDINGS.get(key, "unknown") if key else "unstated"
    return Finish(ending, _CHAT_WORD.get(ending, text))
