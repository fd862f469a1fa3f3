"""Runs jobs: claims them, calls the provider, settles what came back."""
