"""Rows become jobs, are followed to their end and written out again; what can be done to a batch."""
