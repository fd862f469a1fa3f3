"""A line of a file at the provider leads back to where its example is from, as servers name lines."""

import pytest

from tidemill.models.example_places import lines_in, origin_of, runs_of


def test_every_line_leads_to_its_origin() -> None:
    origins = [("a.csv", "row", number) for number in (2, 3, 4, 9, 7, 8)]
    origins += [("b.jsonl", "line", number) for number in (9, 10)] + [("", "dialogue", 11), ("a.csv", "row", 10)]
    places = runs_of(origins)
    found = [origin_of(line, places) for line in range(1, len(origins) + 1)]
    assert found == [f"{file} {unit} {number}".strip() for file, unit, number in origins]
    assert [origin_of(line, places) for line in (-1, 0, len(origins) + 1)] == [None, None, None]
    assert len(runs_of(("a.csv", "row", number) for number in range(1_000))["runs"]) == 1


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        ("Invalid file format. Example 100, message 2 Discriminator 'role' is missing in value", [100]),
        (
            "Example 1273 cannot be parsed. Error: Expecting ',' delimiter: line 1 column 79 (char 78) (line 1273)",
            [1273],
        ),
        ("Example 6174 message contains an invalid token: <|fim_suffix|>.", [6174]),
        ("Invalid file format. Line 4: a message needs content.", [4]),
        ('Invalid file format. Line 4, key "messages": expected a list', [4]),
        ("Flagged lines: 3, 17 and 20. Use the moderation API.", [3, 17, 20]),
        ("Item 3 is malformed", [3]),
        ("row #12 is not valid", [12]),
        ("error in line number 5", [5]),
        ("record at index 0 has no messages", [1]),
        ("Examples [1, 2] are too long; lines 2-6", [1, 2, 6]),
        ("Training file has 7 example(s), but must have at least 10 examples", []),
        ("line 12 column 3", []),
        ("", []),
    ],
)
def test_lines_are_read_from_a_server_s_message(message: str, lines: list[int]) -> None:
    assert lines_in(message) == lines
