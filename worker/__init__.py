"""Runs jobs: claims them, calls the provider, settles the results."""
