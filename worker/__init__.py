"""Runs jobs: claims them, calls the provider, settles what came back."""

if __name__ == "worker":  # in a checkout, by the name that it had before
    raise ImportError("Start workers with `tidemill worker`, or with `celery -A tidemill.worker.app worker`.")
