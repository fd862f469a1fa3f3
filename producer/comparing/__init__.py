"""Comparing before paying: two batches of the same rows, or a changed question for a sample of one."""
