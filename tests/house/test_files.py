"""The project is cloned by strangers, so no file of it may name its author's machine."""

import re

from tests.house.sources import DOCUMENTS, document, our_files

# Written so that this file does not hold what it looks for.
PATHS_OF_A_MACHINE = re.compile(rb"(?<![\w.~/-])/(?:root|home|work|Users)/" + rb"[\w.-]")
PACKAGE_INDEX = re.compile(rb"--(?:extra-)?index-" + rb"url|^\s*(?:extra-)?index-" + rb"url\s*=", re.MULTILINE)
MARKETING = re.compile(
    r"\b(blazing(?:ly)?|lightning|seamless(?:ly)?|effortless(?:ly)?|powerful|cutting-edge|world-class|robust|simply"
    r"|next-generation|state-of-the-art|game-chang\w+|supercharge\w*|leverag\w+|delightful|amazing|awesome)\b",
    re.IGNORECASE,
)


def test_no_file_holds_a_path_of_a_machine() -> None:
    found = {
        f"{path.name}: {match[0].decode()}"
        for path in our_files()
        for match in PATHS_OF_A_MACHINE.finditer(path.read_bytes())
    }
    assert found == set()


def test_no_file_names_a_package_index() -> None:
    assert [path.name for path in our_files() if PACKAGE_INDEX.search(path.read_bytes())] == []


def test_the_documents_are_plain() -> None:
    for name in DOCUMENTS:
        assert MARKETING.findall(document(name)) == [], name


def test_the_changelog_begins_with_what_is_not_released_yet() -> None:
    headings = re.findall(r"(?m)^## \[(.+?)\]", document("CHANGELOG.md"))
    assert headings[0] == "Unreleased"
    kinds = set(re.findall(r"(?m)^### (.+)$", document("CHANGELOG.md")))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
