"""The webhook: one POST of JSON, retries, and an address that is never printed beyond its host."""

from collections.abc import Iterator

import pytest

from distil_ray.config import NightlyConfig
from distil_ray.errors import SettingsError
from distil_ray.nightly import webhook
from tests.support.webhook_server import WebhookServer, webhook_server

SECRET = "T0K3N"


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebhookServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(webhook, "RETRY_PAUSE_S", 0.01)
    with webhook_server(f"/hooks/{SECRET}?key={SECRET}") as found:
        yield found


BODY = {"text": "2026-11-22.1 done: für alle", "figures": {"wer": None}}


def test_the_body_is_posted_unchanged(listener: WebhookServer) -> None:
    assert webhook.post(listener.url, BODY, 5, 3) is None
    assert listener.bodies == [BODY]


def test_transient_errors_are_retried(listener: WebhookServer) -> None:
    listener.statuses = [503, 429]

    assert webhook.post(listener.url, BODY, 5, 3) is None
    assert listener.bodies == [BODY] * 3


@pytest.mark.parametrize(
    ("statuses", "tries", "words"),
    [
        ([500] * 3, 3, "did not accept the report in 3 tries: HTTP status 500"),
        ([404], 1, "did not accept the report in 1 try: HTTP status 404"),
        ([302], 1, "did not accept the report in 1 try: HTTP status 302"),
    ],
)
def test_a_refusal_is_reported_without_the_secret(
    listener: WebhookServer, statuses: list[int], tries: int, words: str
) -> None:
    listener.statuses = statuses
    problem = webhook.post(listener.url, BODY, 5, 3)

    assert problem == f"the webhook at 127.0.0.1 {words}"
    assert len(listener.bodies) == tries


def test_an_unreachable_server_is_reported_without_the_secret(listener: WebhookServer) -> None:
    nobody = f"http://127.0.0.1:1/{SECRET}"

    assert (
        webhook.post(nobody, BODY, 5, 2)
        == "the webhook at 127.0.0.1 did not accept the report in 2 tries: ConnectionRefusedError"
    )


@pytest.mark.parametrize("url", [f"ftp://host/{SECRET}", f"file:///etc/{SECRET}", f"{SECRET}", f"http://[{SECRET}"])
def test_an_invalid_address_is_an_error_that_does_not_show_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(webhook.URL_VARIABLE, url)
    for config, where in (
        (NightlyConfig(), webhook.URL_VARIABLE),
        (NightlyConfig(webhook_url=url), "nightly.webhook_url"),
    ):
        with pytest.raises(SettingsError, match=where) as caught:
            webhook.resolve_url(config)
        assert SECRET not in str(caught.value)


def test_the_setting_takes_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert webhook.resolve_url(NightlyConfig()) is None
    monkeypatch.setenv(webhook.URL_VARIABLE, "https://example.com/a")
    assert webhook.resolve_url(NightlyConfig()) == "https://example.com/a"
    assert webhook.resolve_url(NightlyConfig(webhook_url="https://example.com/b")) == "https://example.com/b"


def test_the_address_is_neither_stored_nor_printed() -> None:
    config = NightlyConfig(webhook_url=f"https://example.com/{SECRET}")

    assert SECRET not in repr(config)
    assert SECRET not in str(config.model_dump(mode="json"))
