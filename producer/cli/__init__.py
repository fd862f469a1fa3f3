"""The command line: it parses what was typed and says how it ended; the work is in the rooms below."""

import gc

gc.set_threshold(150_000, 20, 20)
"""So many objects are made by a command's imports. Python's 700 between two looks for garbage, of which there is none,
would cost a seventh of the CPU of a start."""
