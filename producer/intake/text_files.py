"""A text of a command, such as its instructions, may be kept in a file."""

from pathlib import Path

from tidemill.producer.intake.formats import Wanted, WrongFormatError, recognise, text_encoding
from tidemill.producer.intake.lines import encoding_error
from tidemill.producer.intake.records import Input

MOST_BYTES = 16 * 2**20


def read_text(name: str) -> str:
    """The text in a file, without line ends at its end.

    Raises:
        InputError: there is no such file, or it is no text, empty or too long; the sentence begins with its name.
    """
    input_ = Input(name, skip_bad_rows=False, on_bad_row=lambda _sentence: None)
    try:
        with Path(name).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise input_.fault("does not exist; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise input_.fault(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MOST_BYTES:
        raise input_.fault(f"has more than {MOST_BYTES >> 20} MiB")
    return decoded_text(content, input_)


def decoded_text(content: bytes, input_: Input) -> str:
    """The text that bytes are.

    Raises:
        InputError: they are none.
    """
    if not content.strip():
        raise input_.fault("is empty")
    try:
        recognise(content, "", Wanted("text"))
    except WrongFormatError as error:
        raise input_.fault(str(error)) from None
    name = text_encoding(content)
    if name is None:
        raise input_.fault("is not text: it holds NUL bytes")
    try:
        return content.decode(name).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise encoding_error(input_, error) from error
