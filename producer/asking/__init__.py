"""Prompts become rows: what they are asked with, which dialogue they go on, what they will cost."""
