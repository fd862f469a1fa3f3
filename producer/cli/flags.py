"""What `ask` and `describe` have in common on the command line is written once."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str | None, typer.Option(help="The model to ask.", show_default="gpt-6-luna, or TIDEMILL_MODEL")]
System = Annotated[str | None, typer.Option(help="Instructions that go before every prompt.")]
Temperature = Annotated[float | None, typer.Option(min=0, max=2, help="Randomness of the answers, 0 to 2.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer in tokens. Set it: it also buys speed.")]
ReasoningEffort = Annotated[str | None, typer.Option(help="none, low, medium, high: as the model takes it.")]
Param = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Any other field of the request's body; may be repeated."),
]
Schema = Annotated[Path | None, typer.Option(metavar="FILE", help="JSON schema that every answer must satisfy.")]
Endpoint = Annotated[str | None, typer.Option(help="chat or responses.", show_default="chat")]
Transport = Annotated[
    str | None,
    typer.Option(help="sdk: the official client. http: plain HTTP, a quarter of the CPU.", show_default="sdk"),
]
Assistant = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Whose instructions, model and options fill what is not said here."),
]
NoAssistant = Annotated[bool, typer.Option("--no-assistant", help="Ask without the default assistant.")]
OfAssistant = Annotated[str | None, typer.Option("--assistant", metavar="NAME", help="Only of this assistant.")]
OfBatch = Annotated[str | None, typer.Option("--batch", help="Only of this batch.")]
OfSentiment = Annotated[str | None, typer.Option("--sentiment", help="positive, negative, neutral or unknown.")]
AssistantName = Annotated[str, typer.Argument(help="Name of an assistant, as `list` shows it.", metavar="NAME")]
Window = Annotated[int | None, typer.Option(min=1, max=10_000, help="Calls in flight at once.", show_default="256")]
Rpm = Annotated[
    int | None, typer.Option(min=1, help="Requests a minute at most. Learned from the provider if not said.")
]
Tpm = Annotated[int | None, typer.Option(min=1, help="Tokens a minute at most. Learned from the provider if not said.")]
Name = Annotated[str | None, typer.Option(help="What to call the batch; the same name finds it again.")]
Priority = Annotated[int, typer.Option(help="Higher goes first.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many rows: a taste before the whole.")]
New = Annotated[bool, typer.Option("--new", help="Ask again, even what has been answered already.")]
Detach = Annotated[bool, typer.Option("--detach", help="Submit only; workers or a later run do the work.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count rows, tokens and price; send and store nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write all rows to a .jsonl, .csv or .parquet file; - is stdout."
    ),
]
Batch = Annotated[str, typer.Argument(help="Id of a batch, the beginning of one, or `latest`.", metavar="BATCH")]
FineTune = Annotated[
    str,
    typer.Argument(
        help="Id of a fine-tune or the beginning of one, the provider's id, the model's name, or `latest`.",
        metavar="JOB",
    ),
]
