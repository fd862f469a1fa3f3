"""What a fine-tune measured is read from every form that servers send it in."""

import base64

import pytest

from tidemill.models.metrics import Point, merge, point_of_event, points_of

PLAIN = b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,2.5,0.25,,\n2,1.5,0.5,1.75,0.375\n"
POINTS = [Point(1, train_loss=2.5, train_accuracy=0.25), Point(2, 1.5, 0.5, 1.75, 0.375)]
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.rstrip(),
        PLAIN.replace(b"\n", b"\r\n"),
        BOM + PLAIN,
        b"\n\n" + PLAIN + b"\n,,,,\n",
        PLAIN.replace(b",train", b", Train").replace(b"step", b'"Step"'),
        base64.b64encode(PLAIN),
        base64.encodebytes(BOM + PLAIN),
        b'"' + base64.b64encode(PLAIN) + b'"\n',
    ],
    ids=["plain", "no-last-newline", "crlf", "bom", "blank-lines", "names", "base64", "base64-lines", "base64-quoted"],
)
def test_a_result_file_is_read_however_it_is_packed(content: bytes) -> None:
    assert points_of(content) == POINTS


def test_columns_are_known_by_every_name_and_others_are_passed_over() -> None:
    header = b"reward,full_valid_loss,step,train_mean_token_accuracy,full_valid_mean_token_accuracy\n"
    assert points_of(header + b"9,0.5,3,0.75,0.25\n") == [
        Point(3, train_accuracy=0.75, full_valid_loss=0.5, full_valid_accuracy=0.25)
    ]
    assert points_of(b"step,valid_loss,validation_mean_token_accuracy\n7.0,1,0.5\n") == [
        Point(7, valid_loss=1, valid_accuracy=0.5)
    ]


def test_what_is_no_finite_number_is_none_and_a_row_without_numbers_is_no_point() -> None:
    rows = b"1,nan,0.5\n2,inf,-Infinity\n3,n/a,\n4\n5,1e999,0.25\n"
    assert points_of(b"step,train_loss,train_accuracy\n" + rows) == [
        Point(1, train_accuracy=0.5),
        Point(5, train_accuracy=0.25),
    ]
    assert points_of(b"step,train_loss\n") == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "neither CSV with a column named step nor"),
        (b"\x89PNG\r\n\x1a\n\0\xff", "it begins"),
        (b'{"error": "no such file"}', 'it begins \'{"error"'),
        (base64.b64encode(base64.b64encode(PLAIN)), "neither CSV"),
        (b"footstep,train_loss\n1,2\n", "neither CSV"),
        (b"step,train_loss\n1,2\nabc,3\n", "Line 3 of the result file has no whole number as its step: 'abc'"),
        (b"step,train_loss\n1.5,2\n", "Line 2 "),
        (b"step,train_loss\n-1,2\n", "Line 2 "),
        (b"train_loss,step\n1\n", "Line 2 "),
        (b"step,train_loss\n1," + b"9" * 200_000 + b"\n", "not sound CSV"),
    ],
)
def test_what_is_no_result_file_is_refused_in_one_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]*\.\Z") as refused:
        points_of(content)
    assert sentence in str(refused.value)
    assert len(str(refused.value)) < 200


def test_an_event_may_hold_text_and_lack_what_it_likes() -> None:
    assert point_of_event({"step": 5, "train_loss": 0.5, "train_mean_token_accuracy": 1, "total_steps": 9}) == Point(
        5, train_loss=0.5, train_accuracy=1
    )
    assert point_of_event({"step": "5", "valid_loss": "0.25", "full_valid_loss": None}) == Point(5, valid_loss=0.25)
    assert point_of_event({"step": 5.0, "train_loss": float("nan"), "valid_loss": [1]}) is None
    for data in ({}, {"train_loss": 1.0}, {"step": None, "train_loss": 1.0}, {"step": True, "train_loss": 1.0}):
        assert point_of_event(data) is None


def test_points_of_one_step_become_one_and_later_numbers_stand() -> None:
    first = [Point(2, train_loss=1.0), Point(1, train_loss=3.0), Point(2, train_loss=0.5, valid_loss=4.0)]
    assert merge([*first, Point(2, train_accuracy=0.0)]) == [
        Point(1, train_loss=3.0),
        Point(2, train_loss=0.5, train_accuracy=0.0, valid_loss=4.0),
    ]
    assert merge([]) == []
