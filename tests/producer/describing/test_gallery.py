"""One page holds every picture and its caption, and nothing in them can act on whoever looks at it."""

import base64
import hashlib
import re
import tracemalloc
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.producer.describing.gallery import check_destination, write

JPEG = b"\xff\xd8\xff\xe0 not really \xff\xd9"
HOSTILE = (
    "</p></figcaption></style></title><script>alert(1)</script>",
    '" onerror="alert(1)" x=\'',
    "' onload='alert(1)",
    "<img src=https://evil.example/x.png>",
    "&lt;script&gt; {path} {0} %s -->",
    "<base href=//evil.example><meta http-equiv=refresh content=0>",
)


def row(path: str = "photos/a.jpg", reply: str | None = "A cat.", status: str = "succeeded", **more: Any) -> JsonObject:
    return {"path": path, "status": status, "reply": reply, **more}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of each paragraph."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.paragraphs: list[str] = []
        self._inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "p":
            self._inside = True
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.paragraphs[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(tmp_path: Path, *rows: JsonObject, title: str = "photos", thumbnail: bytes | None = JPEG) -> str:
    path = tmp_path / "captions.html"
    assert write(str(path), title, "a summary", [list(rows)], lambda _: thumbnail) == len(rows)
    assert [each.name for each in tmp_path.iterdir()] == ["captions.html"]
    return path.read_text("utf-8")


def test_a_card_has_picture_caption_name_and_what_is_known_of_it(tmp_path: Path) -> None:
    facts: JsonObject = {"width": 640, "height": 480, "format": "jpeg", "input_tokens": 1200, "output_tokens": 34}
    shown = Page(page(tmp_path, row(**facts, cost_usd=0.021, sentiment="positive"), row("b.png", "A dog.")))
    assert shown.paragraphs == [
        "a summary",
        "A cat.",
        "a.jpg",
        "640 × 480 · JPEG · 1,234 tokens · $0.021 · positive",
        "A dog.",
        "b.png",
        "",
    ]
    source = f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}"
    assert [(each["src"], each["alt"], each["loading"]) for each in shown.all("img")] == [
        (source, "A cat.", "lazy"),
        (source, "A dog.", "lazy"),
    ]


def test_rows_that_did_not_succeed_show_why_and_a_plain_tile_where_there_is_no_picture(tmp_path: Path) -> None:
    failed = row("b.png", None, "failed", error="It is cut off.", error_code="corrupt_picture")
    text = page(tmp_path, failed, row("c.png", None, "failed", error_code="too_slow"), thumbnail=None)
    shown = Page(text)
    assert shown.paragraphs[1::3] == ["failed It is cut off.", "failed too_slow"]
    assert shown.all("img") == []
    assert text.count("no preview") == 2
    assert [each["class"] for each in shown.all("figure")] == ["card failed"] * 2
    with_picture = Page(page(tmp_path, failed))
    assert [each["alt"] for each in with_picture.all("img")] == ["b.png"]


def test_tags_are_shown_as_a_list_and_a_caption_in_any_script_reads_in_its_direction(tmp_path: Path) -> None:
    shown = Page(page(tmp_path, row(reply='{"tags": ["cat", "sofa"]}'), row(reply="قطة"), row(reply="猫\n二")))
    assert shown.paragraphs[1::3] == ["cat, sofa", "قطة", "猫\n二"]
    assert [each.get("dir") for each in shown.all("p") if each.get("class") == "caption"] == ["auto"] * 3


def test_nothing_in_a_row_becomes_markup(tmp_path: Path) -> None:
    plain = Page(page(tmp_path, *(row() for _ in HOSTILE), row("b", None, "failed", error="x"), title="t"))
    rows = [row(f"photos\\{text}", text, format=text, width=text, height=text, sentiment=text) for text in HOSTILE]
    hostile = Page(page(tmp_path, *rows, row("b", None, HOSTILE[0], error=HOSTILE[1]), title=HOSTILE[0]))
    assert [(tag, set(attributes)) for tag, attributes in hostile.elements] == [
        (tag, set(attributes)) for tag, attributes in plain.elements
    ]
    assert hostile.paragraphs[1:-3:3] == [text.strip() for text in HOSTILE]
    assert [each["alt"] for each in hostile.all("img")][:-1] == [text.strip() for text in HOSTILE]


def test_characters_that_cannot_be_shown_or_turn_text_around_are_replaced(tmp_path: Path) -> None:
    text = page(tmp_path, row("cod\u202egpj.exe", "a\0b\x1b\x9b\ud800\u202d\uffff c\td\u200fe"))
    assert "a\ufffdb\ufffd\ufffd\ufffd\ufffd\ufffd c\td\u200fe</p>" in text
    assert "<bdi>cod\ufffdgpj.exe</bdi>" in text


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("https://me:canary@cdn.example/a/b.jpg?X-Signature=canary#canary", "b.jpg"),
        ("data:image/png;base64,canary/canary", "data: URL"),
        ("https://cdn.example/?canary", "https://cdn.example/"),
        ("photos/what?.jpg", "what?.jpg"),
    ],
)
def test_a_url_is_named_without_its_secrets_and_without_its_content(tmp_path: Path, path: str, name: str) -> None:
    text = page(tmp_path, row(path))
    assert "canary" not in text
    assert Page(text).paragraphs[2] == name


def test_the_page_loads_nothing_runs_nothing_and_its_policy_forbids_both(tmp_path: Path) -> None:
    text = page(tmp_path, row(cost_usd=1.0))
    shown = Page(text)
    style = re.findall(r"(?s)<style>(.*?)</style>", text)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    policy = next(each["content"] for each in shown.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        f"style-src 'sha256-{digest}'",
    ]
    assert len(style) == 1
    assert "url(" not in style[0]
    assert "@import" not in style[0]
    assert {tag for tag, _ in shown.elements} & {"script", "link", "iframe", "a", "object", "form"} == set()
    assert [name for _, each in shown.elements for name in each if name.startswith("on") or name == "style"] == []


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def rows(count: int) -> Iterator[list[JsonObject]]:
        return ([row(reply="x" * 1000)] for _ in range(count))

    def peak_bytes(count: int) -> int:
        tracemalloc.start()
        try:
            assert write(str(tmp_path / "g.html"), "t", "s", rows(count), lambda _: JPEG * 1000) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(1)
    few, many = peak_bytes(10), peak_bytes(300)
    assert many < few + 200_000
    assert (tmp_path / "g.html").stat().st_size > 300 * 22_000


def test_a_failure_keeps_the_older_page_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "captions.html"
    path.write_text("older")

    def thumbnail(_: JsonObject) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(str(path), "t", "s", [[row()]], thumbnail)
    assert path.read_text() == "older"
    assert [each.name for each in tmp_path.iterdir()] == ["captions.html"]


def test_every_destination_that_cannot_work_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    refused = {
        "out.csv": "name the gallery .html",
        "out": "name the gallery .html",
        "-": "name the gallery .html",
        "folder.html": "is a folder or a device",
        "missing/out.html": "No such file or directory; fix that, or give it another name",
        "file/out.html": "Not a directory",
        "nul\0.html": "cannot be written",
        "x" * 300 + ".html": "cannot be written",
    }
    for name, reason in refused.items():
        with pytest.raises(InputError, match=reason):
            check_destination(str(tmp_path / name))
    for good in ("out.html", "out.HTM", "folder.html/x.html"):
        check_destination(str(tmp_path / good))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder.html"]


def test_no_rows_make_a_page_without_cards(tmp_path: Path) -> None:
    assert Page(page(tmp_path)).all("figure") == []
