"""All that is wrong with training examples is reported in the same way: what, where, and what to do.

A finding has a code. `RULES` says for each code how serious it is, its heading in the report, and the remedy.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tidemill.models.json_types import JsonObject
from tidemill.producer.training.examples import BadRow, Place

LEVELS = ("error", "warning", "note")
KEPT = 1_000  # findings of one code that are kept with their places; all are counted


class Rule(NamedTuple):
    """How serious a finding is (of `LEVELS`), its heading in the report, and what to do about it."""

    level: str
    heading: str
    remedy: str


RULES: dict[str, Rule] = {
    # what the API does not accept
    "bad_row": Rule("error", "row that cannot be used", "fix the row, or take it out"),
    "no_messages": Rule("error", "example without messages", "give it a question and a reply"),
    "bad_message": Rule("error", "malformed message", "write each message as an object with a role and a content"),
    "bad_role": Rule("error", "unknown role", "use system, developer, user, assistant or tool"),
    "bad_output": Rule("error", "malformed preference", "give one preferred and one non-preferred reply"),
    "no_rejected": Rule(
        "error",
        "preference without the reply that is not preferred",
        "add a column non_preferred, or give a file of replies not to give with --negative",
    ),
    "last_turn": Rule("error", "example that does not end with a reply", "let the assistant have the last word"),
    "wrong_order": Rule(
        "error", "messages in an impossible order", "let a user's message come first, and a tool answer its call"
    ),
    "empty_text": Rule("error", "empty message", "fill it in, or take the example out"),
    "bad_name": Rule("error", "name that the API does not take", "use letters, digits, _ and -, at most 64; or none"),
    "bad_weight": Rule("error", "wrong weight", "use 0 or 1, on the assistant's messages only"),
    "bad_tools": Rule("error", "malformed tools", "describe each tool as the API takes it"),
    "bad_tool_call": Rule("error", "malformed call of a tool", "write it as the API returned it"),
    "function_call": Rule(
        "error",
        "call in the old form, function_call",
        "write the call as tool_calls, its result with the role tool, and 'functions' as tools",
    ),
    "bad_image": Rule(
        "error", "picture that cannot be used", "use JPEG, PNG or WEBP up to 10 MB, in the user's message"
    ),
    "too_many_images": Rule("error", "example with more than 10 pictures", "split it"),
    "special_token": Rule(
        "error",
        "text that the model reads as a command",
        "take it out, or write it in another way, such as with a space in it",
    ),
    "bad_text": Rule("error", "text that cannot be written as UTF-8", "remove the broken character"),
    "too_long": Rule("error", "example longer than the model can be trained on", "shorten it, or split the dialogue"),
    "too_few": Rule(
        "error", "too few examples", "collect at least 10 to learn from; 50 to 100 is where it begins to help"
    ),
    "too_large": Rule("error", "more than the provider takes", "take examples out, or train in several steps"),
    "no_split": Rule("error", "nothing to split", "leave out --val, or add examples with other questions"),
    # what costs quality
    "duplicate": Rule("warning", "example that is there already", "take it out, unless it is to count twice"),
    "conflict": Rule("warning", "same prompt with another reply", "keep the better reply; the model cannot learn both"),
    "leak": Rule(
        "warning",
        "validation example that is also trained on, or its beginning",
        "take it out of one of the files: the check would be too good to be true",
    ),
    "cut_off": Rule("warning", "reply that looks cut off", "complete it, or the model learns to stop in mid-sentence"),
    "says_nothing": Rule(
        "warning", "message that looks like an empty cell", "fill it in or take the example out, unless it is meant"
    ),
    "personal": Rule(
        "warning",
        "example with what may be personal data",
        "replace it with a placeholder: a model may repeat what it read",
    ),
    "unused": Rule(
        "warning",
        "something beside the messages that is not used",
        "write it into the prompt, or name its column; take it out if it is not to be learned",
    ),
    "cut_cell": Rule("warning", "cell that a spreadsheet may have cut", "export it again from where it is from"),
    "spoiled": Rule("warning", "text that a wrong encoding has spoiled", "export it again from where it is from"),
    "template": Rule(
        "warning",
        "text that looks like the frame of another model's messages",
        "take it out: the API puts its own frame around each message",
    ),
    "short_reply": Rule("warning", "very short reply among long ones", "check that nothing is missing"),
    "same_replies": Rule("warning", "every reply is the same", "check the column of the replies"),
    "same_outputs": Rule("warning", "preference for the same reply", "take it out: there is nothing to prefer"),
    "odd_order": Rule("warning", "unusual order of messages", "check that no message is missing"),
    # what is only to know
    "teaches_nothing": Rule(
        "note",
        "example that teaches nothing",
        "to teach what not to say, give pairs of a good and a bad reply with --method dpo",
    ),
    "picture": Rule("note", "dialogue about a picture, left out", "nothing: only what was said in words is used"),
    "cut_answer": Rule(
        "note",
        "dialogue with a cut or doubtful answer, left out",
        "ask again, with a higher --max-tokens if it was cut",
    ),
    "read_as": Rule("note", "file that may be two things", "say it with the file's ending, if it is the other one"),
    "no_pair": Rule("note", "row without a pair, left out", "give both a good and a bad reply to the same prompt"),
    "left_out": Rule("note", "example with fields that the API does not know", "nothing: the fields were left out"),
    "nulls": Rule(
        "note",
        "null where other tools have a key",
        "nothing: it was left out, as Arrow and Parquet put it there",
    ),
    "same_columns": Rule("note", "columns with the same name", "rename them, if another one is meant"),
    "few": Rule("note", "few examples", "50 to 100 good ones are where training usually begins to show"),
    "images": Rule("note", "example with pictures", "their tokens are not counted here and come on top of the price"),
}


class Finding(NamedTuple):
    """Something that the check has to say; without a place it is about all of the examples."""

    code: str
    place: Place | None
    what: str

    def to_json(self) -> JsonObject:
        """For scripts."""
        rule = RULES[self.code]
        where = self.place._asdict() if self.place else dict.fromkeys(Place._fields)
        return {"level": rule.level, "code": self.code, **where, "what": self.what, "remedy": rule.remedy}


@dataclass(slots=True)
class Findings:
    """All findings are counted, and the first thousand of each code are kept with their places.

    `bad_rows` counts the rows that cannot be used; one row may have several faults.
    """

    counts: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[Finding]] = field(default_factory=dict)
    bad_rows: int = 0

    def add(self, code: str, place: Place | None, what: str, times: int = 1) -> None:
        """Count a finding, and keep it unless there are too many of its code."""
        self.counts[code] += times
        kept = self.kept.setdefault(code, [])
        if len(kept) < KEPT:
            kept.append(Finding(code, place, what))

    def add_bad(self, bad: BadRow) -> None:
        """Count a row that became no example."""
        self.add(bad.code, bad.place, bad.why, bad.times)
        if RULES[bad.code].level == "error":
            self.bad_rows += bad.times

    def level(self, level: str) -> int:
        """How many findings of a level there are."""
        return sum(count for code, count in self.counts.items() if RULES[code].level == level)

    def codes(self, level: str) -> Iterable[str]:
        """The codes of a level that have findings, in the order of `RULES`."""
        return [code for code, rule in RULES.items() if rule.level == level and self.counts[code]]

    def __iter__(self) -> Iterator[Finding]:
        """What was kept, most serious first."""
        for level in LEVELS:
            for code in self.codes(level):
                yield from self.kept[code]
