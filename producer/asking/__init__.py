"""Prompts become rows: what they are asked with, which dialogue they continue, what they will cost."""
