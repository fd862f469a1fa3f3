"""What a person sees while something runs, and after it: the display, tables, JSON."""
