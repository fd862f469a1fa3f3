"""How much of a file of answers is read at once."""

from tidemill.worker.collecting import BULK_BYTES, BULK_LINES, next_lines


def test_small_lines_are_read_by_number() -> None:
    file = iter([b'{"custom_id": "1.1"}\n'] * (BULK_LINES + 1))
    assert [len(next_lines(file)) for _ in range(3)] == [BULK_LINES, 1, 0]


def test_large_lines_are_read_by_size() -> None:
    line = b'{"custom_id": "1.1", "pad": "' + b"x" * (BULK_BYTES // 2) + b'"}\n'
    file = iter([line] * 5)
    assert [len(next_lines(file)) for _ in range(4)] == [2, 2, 1, 0]


def test_blank_lines_and_one_that_breaks_off_are_none() -> None:
    assert next_lines(iter([b"\n", b'{"custom_id": "1.1"}\n', b"  \n", b'{"custom_id": "2'])) == [
        b'{"custom_id": "1.1"}\n'
    ]
