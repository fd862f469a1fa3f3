"""The table of languages is unpacked once; whatever befalls its copy, languages are named all the same."""

from pathlib import Path
from typing import Any

import pytest

from tidemill.worker.languages import load_identifier


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _name: str(tmp_path / "cache"))
    return tmp_path / "cache" / "languages.npz"


def named(identifier: Any) -> list[tuple[str, float]]:
    return [
        identifier.rank(text)[0] for text in ("Das ist eine gute Antwort.", "Quelle belle journée !", "これは本です。")
    ]


def test_the_copy_is_made_once_and_names_languages_as_the_table_itself(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = load_identifier()
    assert [language for language, _ in named(unpacked)] == ["de", "fr", "ja"]
    assert [each.name for each in copy.parent.iterdir()] == [copy.name]
    monkeypatch.setattr("lzma.open", None)  # nothing is unpacked any more
    assert named(load_identifier()) == named(unpacked)


def test_a_copy_of_another_table_or_a_broken_one_is_made_anew(copy: Path) -> None:
    expected = named(load_identifier())
    whole = copy.read_bytes()
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 1
    for content in (b"", whole[: len(whole) // 2], bytes(spoilt)):
        copy.write_bytes(content)
        assert named(load_identifier()) == expected
        assert copy.stat().st_size == len(whole)


def test_where_no_copy_can_be_kept_the_table_is_unpacked_each_time(copy: Path) -> None:
    copy.parent.write_bytes(b"a file where the folder would be")
    assert named(load_identifier())[0][0] == "de"
