"""`make` sets up for a minute or more, which must not look as if it hung: what happens is said, then how long it takes.

`python tests/step.py "Fetching this, about a minute" COMMAND ...` says the sentence, runs the command, and says every
ten seconds how long it has been at it. It runs before anything is installed, so it needs Python alone.
"""

import subprocess
import sys
import time

TICK_SECONDS = 10.0


def main(sentence: str, *command: str) -> int:
    """Run the command; returns its exit code."""
    print(f"· {sentence}", flush=True)
    began_at = time.monotonic()
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait(TICK_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"    .. {time.monotonic() - began_at:.0f} s", flush=True)
        except KeyboardInterrupt:
            process.terminate()  # the terminal has told it too, if there is one
            process.wait()
            return 130


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
