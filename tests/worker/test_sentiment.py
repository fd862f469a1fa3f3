"""Replies are judged as a reader would, in any language or not at all, and wherever the judging process dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker import sentiment
from worker.sentiment import Judge, Judgement, judge

ROOT = Path(sentiment.__file__).parents[1]
BATCH = [
    (7, "What a wonderful answer!"),
    (3, "Das ist eine sehr gute Antwort."),
    (9, "42"),
    (1, "a\x00\ud800 terrible"),
]
JUDGED = [(7, "positive", "en"), (3, "unknown", "de"), (9, "neutral", None), (1, "negative", "en")]


def brief(results: list[tuple[int, Judgement]]) -> list[tuple[int, str, str | None]]:
    return [(key, judgement.sentiment, judgement.language) for key, judgement in results]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This phone is wonderful, I love it.", "positive"),
        ("The battery died after a week. Terrible quality, do not buy.", "negative"),
        ("The capital of France is Paris.", "neutral"),
        ("It is not good.", "negative"),
        ("“Amazing”—truly.", "positive"),
        ("Excellent product", "positive"),
        ("POOR QUALITY", "negative"),
        ("Sure! It has 40 pages. I hope this helps! Let me know if you have any questions.", "neutral"),
        ("Sure! All the passengers were killed in the crash.", "negative"),
        ("The loop ends here.\n```python\nkill(awful_error); raise Terrible()\n```\nRun it with make.", "neutral"),
    ],
)
def test_english_is_judged(text: str, expected: str) -> None:
    [found] = judge([text])
    assert (found.sentiment, found.language) == (expected, "en")
    assert found.score is not None
    assert -1 <= found.score <= 1


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Leider war der Service schlecht und das Essen kalt.", "de"),
        ("Es tut mir leid.", "de"),
        ("La capitale de la France est Paris.", "fr"),
        ("C'est une excellente question !", "fr"),
        ("El servicio fue terrible y la comida estaba muy mala.", "es"),
        ("Обслуживание было ужасным. Мне очень жаль.", "ru"),
        ("这是一个很好的问题!", "zh"),
        ("はい、そうです。", "ja"),
        ("이 제품을 정말 좋아해요.", "ko"),
        ("أحب هذا المنتج كثيرا.", "ar"),
    ],
)
def test_another_language_is_unknown_and_named(text: str, language: str) -> None:
    assert judge([text]) == [Judgement("unknown", None, language)]


@pytest.mark.parametrize(
    "text", ["", "42", "3.14 * 2 = 6.28", " \n", "```\n1 + 1\n```", '{"a": 1, "b": [true, false]}']
)
def test_text_without_language_is_neutral(text: str) -> None:
    assert judge([text]) == [Judgement("neutral", 0.0, None)]


@pytest.mark.parametrize(
    "text", ["Yes.", "No", "OK", "Paris", "Answer: B", "Washington, D.C.", "Café au lait is lovely."]
)
def test_a_few_latin_letters_are_taken_for_english(text: str) -> None:
    assert judge([text])[0].language == "en"


def test_an_emoji_speaks_every_language() -> None:
    assert judge(["😍"])[0][::2] == ("positive", None)


def test_a_long_answer_is_the_mean_of_its_sentences() -> None:
    """VADER's own score of the whole is 0.99: it only ever adds up."""
    praise, plain = "It is great. ", "The box holds twelve pencils. "
    scores = [judge([praise * 3 + plain * count])[0].score for count in (0, 5, 30)]
    assert [score for score in scores if score is not None] == sorted((s for s in scores if s), reverse=True)
    assert judge([praise * 3 + plain * 30 + "But it failed badly."])[0].score == pytest.approx(0.07, abs=0.05)


def test_the_beginning_and_the_end_of_a_book_are_read() -> None:
    plain = "The box holds twelve pencils. "
    assert judge([plain * 10_000 + "This is a terrible disaster. " * 10])[0].sentiment == "negative"
    assert judge(["What a great joy. " * 10 + plain * 10_000])[0].sentiment == "positive"


@pytest.mark.parametrize("text", ["a", "word ", "great! ", "!", ":)", " ", "`", "\n", "😀", "é", "ж "])
def test_five_megabytes_of_anything_take_no_time(text: str) -> None:
    judge(["warm"])
    start = time.monotonic()
    judge([text * (5_000_000 // len(text.encode()))])
    assert time.monotonic() - start < 3  # 0.01-0.3 s


WORDS = ["great", "not", "can't stand", "Bad!", "break a leg", "(super)", "no", "kind of", "the", "WOW", "fed up"]
PIECES = st.sampled_from([*WORDS, ":)", ";-(", "’", "…", "ß", "😡", "©", "\u2028", "\ud800", "\x00"])


@settings(deadline=None)
@given(st.text() | st.lists(PIECES, max_size=12).map(" ".join) | st.lists(PIECES, max_size=12).map("".join))
def test_the_shortcut_scores_as_vader_does_and_nothing_raises(text: str) -> None:
    assert sentiment._compound(text) == sentiment.models().analyser.polarity_scores(text)["compound"]
    [found] = judge([text])
    assert (found.score is None) == (found.sentiment == "unknown")


@pytest.fixture
def judging() -> Iterator[Judge]:
    judging = Judge()
    yield judging
    judging.close()


def child_of(judging: Judge) -> int:
    assert judging._child is not None
    return judging._child.pid


def test_batches_are_judged_in_one_child(judging: Judge) -> None:
    assert judging._child is None  # nothing starts before it is needed
    futures = [judging.submit(BATCH) for _ in range(3)]
    assert [brief(future.result(60)) for future in futures] == [JUDGED] * 3
    child = psutil.Process(child_of(judging))
    assert child.nice() == os.nice(0) + 5
    child.send_signal(signal.SIGINT)
    assert brief(judging.submit(BATCH).result(60)) == JUDGED
    assert child.pid == child_of(judging)
    assert judging.submit([]).result(60) == []
    judging.close()
    assert not child.is_running()
    judging.close()
    with pytest.raises(RuntimeError):
        judging.submit(BATCH)


def test_a_killed_child_is_replaced(judging: Judge) -> None:
    judging.submit(BATCH).result(60)
    killed = child_of(judging)
    os.kill(killed, signal.SIGKILL)
    assert brief(judging.submit(BATCH).result(60)) == JUDGED
    assert child_of(judging) != killed


def test_where_no_child_can_live_this_process_judges(judging: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert brief(judging.submit(BATCH).result(60)) == JUDGED
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert brief(judging.submit(BATCH).result(60)) == JUDGED


PARENT = """
import signal, sys, time
from worker.sentiment import Judge
judging = Judge()
future = judging.submit([(1, "What a wonderful answer!")])
assert future.result(60)[0][1].sentiment == "positive"
print(judging._child.pid, sorted({"numpy", "vader", "py3langid", "multiprocessing"} & set(sys.modules)), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["-c", "script"])
def test_the_child_ends_with_a_parent_that_is_killed(how: str, tmp_path: Path) -> None:
    """The script has no `__main__` guard: a child that imported it again would judge for ever."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, "-c", PARENT] if how == "-c" else [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as parent:
        assert parent.stdout is not None
        pid, loaded = parent.stdout.readline().split(maxsplit=1)
        child = psutil.Process(int(pid))
        parent.kill()
    assert loaded.strip() == "[]"  # the models are in the child alone
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_the_child_imports_nothing_heavy() -> None:
    heavy = "{'sqlalchemy', 'celery', 'openai', 'aiohttp', 'pydantic', 'models'}"
    code = f"import sys, worker.sentiment as s; s.judge(['Good.']); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
