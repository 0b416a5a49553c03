"""What is known of each provider fits the formats and the neutral request."""

from typing import get_args

import pytest

from sidecar.core.types import Dialect
from sidecar.wire.neutral import Format, Request
from sidecar.wire.providers import BY_DIALECT, FORMATS, PROVIDERS, STANDARD, format_at, provider_of
from sidecar.wire.spokes import SPOKES
from sidecar.wire.target import join_target


def test_every_dialect_and_every_format_is_known() -> None:
    assert set(BY_DIALECT) >= set(get_args(Dialect))
    assert set(SPOKES) == set(get_args(Format))
    assert {form for provider in PROVIDERS.values() for form in provider.paths} == set(SPOKES)


def test_what_clients_speak_can_be_read_and_written() -> None:
    for form in FORMATS.values():
        spoke = SPOKES[form]
        assert spoke.format == form
        assert spoke.read_request and spoke.write_response and spoke.stream_writer and spoke.write_problem  # noqa: PT018
        assert STANDARD[form].startswith("/v1")


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_an_entry_is_well_formed(name: str) -> None:
    provider = PROVIDERS[name]
    fields = {*Request.__struct_fields__}
    assert provider.lacks <= fields - {"format", "model", "messages", "stream"}
    assert provider.paths
    assert set(provider.streams) <= set(provider.paths)
    for path in (*provider.paths.values(), *provider.streams.values()):
        joined = join_target("/v1" if path.startswith("/v1/") else "", path.replace("{model}", "m").encode())
        assert joined == path.replace("{model}", "m").encode()
    assert provider.key_field == provider.key_field.lower()
    assert not provider.headers or provider.headers.endswith(b"\r\n")


@pytest.mark.parametrize("name", ["google", "vertex", "bedrock"])
def test_streams_are_asked_for_at_another_path(name: str) -> None:
    """Where neither the model nor the stream is in the body."""
    provider = PROVIDERS[name]
    (form,) = provider.paths
    assert provider.paths[form] != provider.streams[form]
    assert "{model}" in provider.paths[form]
    assert "{model}" in provider.streams[form]


def test_a_provider_is_found_by_its_name_where_it_speaks_the_dialect() -> None:
    assert provider_of("groq", "openai") is PROVIDERS["groq"]
    assert provider_of("vertex", "gemini") is PROVIDERS["vertex"]
    assert provider_of("anthropic", "openai") is BY_DIALECT["openai"]
    assert provider_of("somebody", "openai") is BY_DIALECT["openai"]
    assert provider_of(None, "bedrock") is PROVIDERS["bedrock"]


def test_the_clients_own_format_comes_first() -> None:
    assert format_at(PROVIDERS["openai"], "responses") == "responses"
    assert format_at(PROVIDERS["mistral"], "responses") == "chat"
    assert format_at(PROVIDERS["openai"], "messages") == "chat"
    assert format_at(PROVIDERS["bedrock"], "chat") == "converse"
