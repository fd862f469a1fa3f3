"""Thinking is parted from the answer; a mark that an answer is about stays in it."""

import pytest

from tidemill.models.thinking import split_thinking


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>\nhm\n</think>\n\nParis", "hm", "Paris"),
        ("\n<think></think>Paris", "", "Paris"),
        ("<thinking>hm</thinking> Paris", "hm", "Paris"),
        ("<thought>hm</thought>Paris", "hm", "Paris"),
        ("<THINK>hm</THINK>Paris", "hm", "Paris"),
        ("<seed:think>hm</seed:think>Paris", "hm", "Paris"),
        ("[THINK]hm[/THINK]Paris", "hm", "Paris"),
        ("◁think▷hm◁/think▷Paris", "hm", "Paris"),
        ("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Paris<|END_RESPONSE|>", "hm", "Paris"),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Paris<|return|>",
         "hm", "Paris"),
        ("<|channel|>final<|message|>Paris", "", "Paris"),
        ("<|channel>thought\nhm<channel|>Paris", "hm", "Paris"),
        ("analysisWe think.assistantfinalParis", "We think.", "Paris"),
        ("<think>one</think>\n<think>two</think>\nParis", "one\n\ntwo", "Paris"),
        ("hm, so\n</think>\n\nParis", "hm, so", "Paris"),
        ("hm, so.</think>Paris", "hm, so.", "Paris"),
        ("hm, so.</think> Paris", "hm, so.", "Paris"),
        ("<think>what is `</think>`?\n</think>\n\nA tag.", "what is `</think>`?", "A tag."),
        ("<think>it's a `quote\n</think>Paris", "it's a `quote", "Paris"),
        ("<think>hm</think>Write <think>x</think>.", "hm", "Write <think>x</think>."),
    ],
)  # fmt: skip
def test_thinking_before_the_answer_is_kept_apart(text: str, reasoning: str, answer: str) -> None:
    assert split_thinking(text) == (reasoning, answer, False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",
        " \n Paris\n",
        "Use <think> and </think> to show it.",
        "The closing tag is </think>, as in HTML.",
        "The tag `</think>` closes it.\n",
        'Write "</think>" at the end.',
        "```xml\n<think>\nhm\n</think>\n```",
        "```xml\nhm\n</think>\n```\nis cut.",
        "I think</b>",
        "<thinkpad> is a notebook",
        "analysis of the data: none",
        "In short: <think>x</think>",
    ],
)
def test_an_answer_about_thinking_stays_as_it_is(text: str) -> None:
    assert split_thinking(text) == ("", text, False)


@pytest.mark.parametrize("text", ["<think>hm", "\n<thinking>\nhm\n", "[THINK]hm", "<|channel|>analysis<|message|>hm"])
def test_thinking_without_an_end_is_no_answer(text: str) -> None:
    assert split_thinking(text) == ("hm", "", True)
