"""Whatever word a server has for how an answer ended, it means one of a few things."""

import pytest

from tidemill.models.finish import Ending, read_finish

MEANINGS: dict[Ending, str] = {
    "complete": """stop STOP end_turn stop_sequence eos eos_token EOS_TOKEN COMPLETE STOP_SEQUENCE FINISH_REASON_STOP
        <|eot_id|> <|im_end|> </s> <｜end▁of▁sentence｜> endTurn eosFound stopStringFound Stop stop-sequence""",
    "tool_calls": "tool_calls function_call tool_use TOOL_CALL toolUse tool-calls",
    "cut": """length MAX_TOKENS max_tokens max-tokens MaxTokens MAX_OUTPUT_TOKENS max_output_tokens model_length
        FINISH_REASON_MAX_TOKENS model_context_window_exceeded maxPredictedTokensReached contextLengthReached
        ERROR_LIMIT limit token_limit LENGTH max_length""",
    "filtered": """content_filter content-filter SAFETY RECITATION PROHIBITED_CONTENT SPII BLOCKLIST IMAGE_SAFETY
        LANGUAGE FINISH_REASON_SAFETY refusal guardrail_intervened content_filtered sensitive ERROR_TOXIC
        contentFiltered IMAGE_PROHIBITED_CONTENT IMAGE_RECITATION MODEL_ARMOR""",
    "broken": """abort error ERROR aborted cancelled canceled network_error insufficient_system_resource load unload
        MALFORMED_FUNCTION_CALL USER_CANCEL modelUnloaded userStopped failed timeout""",
    "unstated": "unspecified FINISH_REASON_UNSPECIFIED null None unknown",
    "unknown": "OTHER weird pause_turn IMAGE_OTHER 3",
}


@pytest.mark.parametrize(("ending", "words"), MEANINGS.items())
def test_each_server_s_word_has_its_meaning(ending: Ending, words: str) -> None:
    assert {word: read_finish(word).ending for word in words.split()} == dict.fromkeys(words.split(), ending)


@pytest.mark.parametrize(
    ("word", "native", "reason"),
    [
        ("MAX_TOKENS", None, "length"),
        ("SAFETY", None, "content_filter"),
        ("function_call", None, "tool_calls"),
        ("OTHER", None, "OTHER"),
        (None, None, ""),
        ("", None, ""),
        (True, None, ""),
        ({"type": "length", "length": 16}, None, "length"),
        ("stop", "MAX_TOKENS", "length"),
        ("stop", "end_turn", "stop"),
        ("stop", "a word of its own", "stop"),
        ("tool_calls", "STOP", "tool_calls"),
        (None, "STOP", "stop"),
        ("other", "SAFETY", "content_filter"),
    ],
)
def test_the_reason_is_in_the_words_of_chat_completions(word: object, native: object, reason: str) -> None:
    assert read_finish(word, native).reason == reason


def test_a_gateway_s_stop_does_not_hide_that_the_server_behind_it_failed() -> None:
    assert read_finish("stop", "error").ending == "broken"
