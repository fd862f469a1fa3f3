"""A URL means the same to Celery and to redis-py, and one that cannot work is refused with one sentence."""

import ssl
from pathlib import Path

import pytest

from tests.conftest import RunCli, UseEnvironment
from tidemill.models.errors import SettingsError
from tidemill.models.servers import read_url
from tidemill.models.settings import settings


@pytest.mark.parametrize(
    ("url", "celery", "redis"),
    [
        ("redis://", "redis://localhost/0", "redis://localhost/0"),
        ("valkey://h", "redis://h/0", "redis://h/0"),
        ("redis://h:7000/3", "redis://h:7000/3", "redis://h:7000/3"),
        ("valkeys://h:7000/3", "rediss://h:7000/3", "rediss://h:7000/3"),
        ("rediss://u:p%40%23@h?db=2", "rediss://u:p%40%23@h/2", "rediss://u:p%40%23@h/2"),
        ("redis://h/0?password=p&username=u", "redis://u:p@h/0", "redis://u:p@h/0"),
        ("redis://:p@ss@[::1]:7000", "redis://:p%40ss@[::1]:7000/0", "redis://:p%40ss@[::1]:7000/0"),
        ("redis+socket:///s?virtual_host=/2", "redis+socket:///s?virtual_host=2", "unix:///s?db=2"),
        ("unix:///s?db=2", "redis+socket:///s?virtual_host=2", "unix:///s?db=2"),
    ],
)
def test_a_redis_is_the_same_to_celery_and_to_redis_py(url: str, celery: str, redis: str) -> None:
    for what in ("broker", "limits"):
        server = read_url(url, what)
        assert (server.celery_url, server.redis_url) == (celery, redis)


@pytest.mark.parametrize(
    ("url", "celery"),
    [
        ("memory://", "memory://"),
        ("amqp://", "amqp://localhost/"),
        ("pyamqp://u:p@h//", "amqp://u:p@h//"),
        ("amqps://u:p%2F@h:5671/jobs", "amqps://u:p%2F@h:5671/jobs"),
    ],
)
def test_a_broker_is_named_as_celery_wants_it(url: str, celery: str) -> None:
    assert read_url(url, "broker").celery_url == celery


def test_certificates_are_verified_unless_the_url_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    redis, rabbit = read_url("rediss://h/0", "broker"), read_url("amqps://h//", "broker")
    assert redis.celery_tls == redis.redis_tls == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    assert rabbit.celery_tls == {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "h"}
    options = f"ssl_ca_certs={tmp_path}/ca.pem&ssl_check_hostname=false"
    redis, rabbit = read_url(f"rediss://h/0?{options}", "limits"), read_url(f"amqps://h//?{options}", "broker")
    assert redis.redis_tls["ssl_ca_certs"] == f"{tmp_path}/ca.pem"
    assert redis.redis_tls["ssl_check_hostname"] is False
    assert rabbit.celery_tls == {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": f"{tmp_path}/ca.pem"}
    for spelling in ("none", "CERT_NONE"):
        redis = read_url(f"rediss://h/0?ssl_cert_reqs={spelling}", "limits")
        assert redis.redis_tls == {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}


BAD = {
    "sentinel://h:26379": "Redis Sentinel or Redis Cluster, which are not supported",
    "redis+sentinel://h:26379": "Redis Sentinel or Redis Cluster, which are not supported",
    "redis+cluster://h": "Redis Sentinel or Redis Cluster, which are not supported",
    "rediss+cluster://h": "Redis Sentinel or Redis Cluster, which are not supported",
    "valky://h": "is not the URL of a ",
    "localhost:6379": "is not the URL of a ",
    "redis:/h": "is not the URL of a ",
    "redis://h:65536/0": "has a host or a port that is none",
    "redis://h:0/0": "has a host or a port that is none",
    "redis://u:secret/x@h/0": "has a host or a port that is none",
    "redis://[::1/0": "has a host or a port that is none",
    "redis://u:secret\N{CARE OF}@h/0": "has a host or a port that is none",
    "redis://h/secret": "names no database of a Redis, which is a number",
    "redis://h/0?secret=1": "has an option that is not known",
    "redis://u:p?secret@h/0": "has a host or a port that is none",
    "redis://u:se#cret@h/0": "has a # in it",
    "redis://h/0?ssl_cert_reqs=none": "options of TLS without TLS",
    "rediss://h/0?ssl_cert_reqs=maybe": "none of required, optional, none",
    "rediss://h/0?ssl_check_hostname=maybe": "neither true nor false",
    "rediss://h/0?ssl_ca_certs=/no/ca.pem": "ssl_ca_certs=/no/ca.pem",
    "redis+socket://secret": "is not the path of a socket",
}


@pytest.mark.parametrize("url", BAD)
@pytest.mark.parametrize("variable", ["TIDEMILL_BROKER_URL", "TIDEMILL_LIMITS_URL"])
def test_a_url_that_cannot_work_is_refused_and_shows_no_secret(
    url: str, variable: str, use_environment: UseEnvironment
) -> None:
    use_environment({variable: url})
    with pytest.raises(SettingsError) as caught:
        settings()
    assert str(caught.value).startswith(f"{variable}: ")
    assert BAD[url] in str(caught.value)
    assert "secret" not in str(caught.value)


def test_limits_are_kept_in_a_redis_and_nowhere_else(use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_LIMITS_URL": "amqp://h//"})
    with pytest.raises(SettingsError, match="TIDEMILL_LIMITS_URL: is not the URL of a Redis"):
        settings()


@pytest.mark.parametrize("command", ["ask", "worker", "doctor"])
def test_commands_and_workers_refuse_it_at_the_door(command: str, run_cli: RunCli) -> None:
    arguments = [command, "Hello"] if command == "ask" else [command]
    for url in ("sentinel://h:26379", "redis+cluster://h"):
        ran = run_cli(arguments, {"TIDEMILL_BROKER_URL": url})
        assert ran.returncode == 2
        assert ran.stderr.startswith("tidemill: TIDEMILL_BROKER_URL: names Redis Sentinel or Redis Cluster")
        assert ran.stderr.count("\n") == 1
