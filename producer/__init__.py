"""Accepts jobs and shows them."""

if __name__ == "producer":  # in a checkout, by the name that it had before
    raise ImportError("Import from tidemill instead: `from tidemill import ask`.")
