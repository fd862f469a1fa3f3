"""What producer and worker agree on: tables, transitions, the broker's app, the provider, settings and errors."""
