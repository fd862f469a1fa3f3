"""The page shows what strangers wrote as text, and does what its script says with nothing from elsewhere."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tidemill.models.errors import InputError
from tidemill.producer.comparing import comparison_page
from tidemill.producer.comparing.comparison import Answer, Comparison, Pair
from tidemill.producer.comparing.pairing import Pairs

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \x1b]0; \u202e &lt; \ud800"
VOID = {"meta", "input"}


class Page(HTMLParser):
    """A page that is read as a browser reads it: which elements there are, that all are closed, and the texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.marked: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "mark":
            self.marked.append(data)

    def count(self, tag: str) -> int:
        return [name for name, _ in self.elements].count(tag)


def written(path: Path, rows: list[Pair]) -> str:
    comparison = Comparison(shown_rows=10)
    for each in rows:
        comparison.add(each)
    ids = np.arange(len(rows))
    pairs = Pairs(("a-<1>", "b-2"), (ids, ids), "columns")
    comparison_page.write(str(path), pairs, comparison, [rows], "All would cost <$1.")
    return path.read_text("utf-8")


def test_a_page_is_whole_and_escapes_what_strangers_wrote(tmp_path: Path) -> None:
    replies = [(HOSTILE, "fine"), ("The tide is high", "the tide is low"), ("x" * 30_000, "y"), ("same", "Same")]
    rows = [
        Pair(n, HOSTILE, {}, (HOSTILE, "other"), (Answer("succeeded", a), Answer("succeeded", b)))
        for n, (a, b) in enumerate(replies, 1)
    ]
    rows.append(Pair(5, None, {}, ("why?", "why?"), (Answer("failed", error=HOSTILE), Answer("succeeded", "x"))))
    html = written(tmp_path / "page.html", rows)
    page = Page(html)
    assert page.open == []
    assert (page.count("script"), page.count("img"), page.count("article")) == (1, 0, 5)
    assert {"high", "low"} <= set(page.marked)
    assert [attributes["data-is"] for tag, attributes in page.elements if tag == "article"] == [
        *["different"] * 3,
        "same",
        "different unanswered",
    ]
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", html)


def test_a_page_runs_its_own_script_and_no_other(tmp_path: Path) -> None:
    html = written(tmp_path / "page.html", [])
    script = re.findall(r"(?s)<script>(.*?)</script>", html)
    style = re.findall(r"(?s)<style>(.*?)</style>", html)
    policy = re.findall(r'Content-Security-Policy" content="(.*?)"', html)[0]
    for (code,), rule in ((script, "script-src"), (style, "style-src")):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_a_page_that_breaks_off_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("older", "utf-8")

    def broken() -> list[Pair]:
        raise InputError("the database has gone")

    ids = np.arange(1)
    with pytest.raises(InputError):
        comparison_page.write(str(path), Pairs(("a", "b"), (ids, ids), "asked"), Comparison(), (broken() for _ in "1"))
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    assert path.read_text("utf-8") == "older"
