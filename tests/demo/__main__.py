"""`make demo` asks a real small model real prompts, through the command line that users type.

Nothing is staged: the command is printed before it runs, and the table is read from the file that it wrote.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.demo.model_server import MODEL, SLOTS, DemoError, model_server
from tidemill.models.text import one_line

HOME = Path(".demo")
ANSWERS = HOME / "answers.jsonl"
MAX_TOKENS = 48

_INTERRUPTED = 130
_PIPED_WIDTH = 120
_WIDEST_PROMPT = 36
_OTHER_COLUMNS = 23  # sentiment, tokens and the space between columns
_COLOURS = {"positive": "green", "negative": "red", "unknown": "yellow"}


def main() -> int:
    """Run the demo; returns the exit code."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)
    try:
        return _demo(console)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (DemoError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _demo(console: Console) -> int:
    prompts = Path(os.path.relpath(Path(__file__).with_name("prompts.csv")))
    program = Path(os.path.relpath(Path(sys.executable).with_name("tidemill")))
    if not program.exists():
        raise DemoError(f"{program} is not installed: make demo")
    HOME.mkdir(exist_ok=True)
    ANSWERS.unlink(missing_ok=True)
    _say(console, f"Starting {MODEL} on this machine, a real model, if a very small one: some seconds")
    with model_server(HOME / "model.log") as base_url:
        code = _ask(console, program, prompts, base_url)
    if not ANSWERS.exists():  # stopped, or refused; the command has said why
        return code or 1
    _show(console, [json.loads(line) for line in ANSWERS.read_bytes().splitlines()])
    _show_ways_on(console, program)
    return code


def _ask(console: Console, program: Path, prompts: Path, base_url: str) -> int:
    """Run the command as a user would; returns its exit code."""
    settings = {"OPENAI_BASE_URL": base_url, "TIDEMILL_HOME": str(HOME)}
    # Short answers and few calls in flight, for it runs on one core. --new: a second demo asks again.
    command = [
        *(str(program), "ask", "-i", str(prompts), "-o", str(ANSWERS), "--model", MODEL),
        *("--system", "Answer in one short sentence.", "--temperature", "0"),
        *("--max-tokens", str(MAX_TOKENS), "--window", str(SLOTS), "--new"),
    ]
    _say(console, "")
    _say(console, "$ export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items()), "cyan")
    _say(console, f"$ {shlex.join(command)}", "cyan")
    process = subprocess.Popen(command, env=_environment(settings))
    before = signal.signal(signal.SIGINT, lambda *_: None)  # the terminal tells the command too; it ends by itself
    try:
        return process.wait()
    except KeyboardInterrupt:  # told to end by a signal that only this process got
        process.terminate()
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The user's environment without what would lead away from here: other databases, brokers, keys, a proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEMILL_", "OPENAI_"))}
    here = {"TIDEMILL_BROKER_URL": "memory://", "TIDEMILL_DATABASE_URL": f"sqlite:///{HOME / 'tidemill.db'}"}
    return {**kept, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **here, **settings}


def _show(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the answers as a table; a reply takes two lines at most."""
    prompt_width = min(_WIDEST_PROMPT, console.width // 3)
    reply_width = max(20, console.width - prompt_width - _OTHER_COLUMNS)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("prompt", width=prompt_width)
    table.add_column("reply", width=reply_width)
    table.add_column("sentiment")
    table.add_column("tokens\nin + out", justify="right")
    for row in rows:
        reply = one_line(row["reply"] or row["error"] or row["status"], 2 * reply_width - 15)
        sentiment = row["sentiment"] or ""
        table.add_row(
            Text(one_line(row["prompt"])),
            Text(reply),
            Text(sentiment, _COLOURS.get(sentiment, "dim")),
            f"{row['input_tokens']} + {row['output_tokens']:>2}",
        )
    console.print()
    console.print(table)


def _show_ways_on(console: Console, program: Path) -> None:
    here = f"TIDEMILL_HOME={HOME} {program}"
    _say(console, "")
    _say(console, f"database  {HOME / 'tidemill.db'}   every prompt, reply, sentiment, attempt and token, in SQLite")
    _say(console, f"answers   {ANSWERS}")
    _say(console, "")
    _say(console, "Look further:")
    for command in ("dialogues list --sentiment negative", "dialogues search dogs", "status latest"):
        _say(console, f"  $ {here} {command}", "cyan")
    _say(console, "Ask a stronger model, with a key of your own:")
    _say(console, f"  $ OPENAI_API_KEY=... {program} ask 'Why is the sky blue?'", "cyan")


def _say(console: Console, sentence: str, style: str = "") -> None:
    """Print a line as it is, so that a command can be copied: nothing is broken, coloured by guess, or markup."""
    console.print(Text(sentence, style), soft_wrap=True)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
