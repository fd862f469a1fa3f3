"""Addresses of one server are one name."""

import pytest

from tidemill.models.server_names import is_same_host, server_name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "api.openai.com/v1"),
        ("HTTPS://API.OpenAI.com:443/v1/", "api.openai.com/v1"),
        ("http://api.openai.com./v1", "api.openai.com/v1"),
        ("http://user:secret@gateway:4000//openai//v1", "gateway:4000/openai/v1"),
        ("http://localhost:8000/v1", "127.0.0.1:8000/v1"),
        ("http://[::1]:8000/v1", "127.0.0.1:8000/v1"),
        ("http://0.0.0.0:8000/v1", "127.0.0.1:8000/v1"),
        ("http://[2001:DB8::1]:80/v1", "[2001:db8::1]/v1"),
        ("http://vllm:8000", "vllm:8000/"),
        ("vllm:8000/v1", "vllm:8000/v1"),
        ("vllm", "vllm/"),
    ],
)
def test_what_says_nothing_of_who_answers_does_not_count(url: str, name: str) -> None:
    assert server_name(url) == name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a:8000/v1", "http://a:8001/v1"),
        ("http://a/v1", "http://b/v1"),
        ("http://a/v1", "http://a/vllm/v1"),
        ("http://a/V1", "http://a/v1"),
        ("http://a/v1", "http://a"),
        (f"http://a/{'x' * 300}/1", f"http://a/{'x' * 300}/2"),
    ],
)
def test_another_host_port_or_path_is_another_server(one: str, other: str) -> None:
    assert server_name(one) != server_name(other)
    assert max(len(server_name(one)), len(server_name(other))) <= 200


def test_no_host_is_no_name() -> None:
    with pytest.raises(ValueError, match="names no host"):
        server_name("http:///v1")
    assert not is_same_host("", "a/v1")
    assert is_same_host("LOCALHOST:1", "127.0.0.1:1/v1")
