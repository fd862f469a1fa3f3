"""A password in a URL is never shown, wherever it stands and however it is written."""

import pytest

from tidemill.models.urls import shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:hunter2@db:5432/tidemill", "postgresql://db:5432/tidemill"),
        ("postgresql://db/tidemill?password=hunter2&sslmode=require", "postgresql://db/tidemill"),
        ("postgresql:///tidemill?host=/run/postgresql", "postgresql:///tidemill"),
        ("postgresql://me:hunter2@a:1,b:2/tidemill", "postgresql://a:1,b:2/tidemill"),
        ("postgresql://me:hun%40ter2@[::1]:5432/tidemill", "postgresql://[::1]:5432/tidemill"),
        ("redis://:hunter2@queue:6379/0", "redis://queue:6379/0"),
        ("redis+socket:///run/redis.sock?password=hunter2", "redis+socket:///run/redis.sock"),
        ("amqp://queue//", "amqp://queue//"),
        ("sqlite:////home/me/tidemill.db", "sqlite:////home/me/tidemill.db"),
        # not written as a URL wants it: where does the password end?
        ("postgresql://me:hunt@er#1@db/tidemill", "postgresql://***"),
        ("postgresql://me:hunter#1@db/tidemill", "postgresql://***"),
        ("postgresql://me:hunter?1@db/tidemill", "postgresql://***"),
        ("postgresql://me:hunt/er@db/tidemill", "postgresql://db/tidemill"),
        ("simplecache::s3://key:hunter2@bucket/x", "simplecache::s3://bucket/x"),
        ("postgresql://me:hunt@er2@db/tidemill", "postgresql://***"),
        ("postgresql://me:hunter2", "postgresql://***"),
        ("redis://me:hunt er2@db/0", "redis://db/0"),
        ("sentinel://:hunter2@a:1;sentinel://b:2", "sentinel://***"),
        ("me:hunter2@db/tidemill", "***"),
        ("hunter2", "***"),
        ("", "***"),
    ],
)
def test_only_scheme_host_port_and_path_are_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown
