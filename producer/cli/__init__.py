"""The command line: it parses what was typed and says how it ended; the work is in the rooms below."""
