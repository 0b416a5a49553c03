"""One door to all dialects: a request is read, an answer written, whole or streamed, by the module of its dialect."""

import msgspec

from sidecar.sim.anthropic_messages import messages_body, messages_events
from sidecar.sim.ask import Ask, read_ask
from sidecar.sim.azure_chat import azure_body, azure_events
from sidecar.sim.bedrock_converse import converse_body, converse_events, read_converse
from sidecar.sim.cohere_chat import chat_body as cohere_body
from sidecar.sim.cohere_chat import chat_events as cohere_events
from sidecar.sim.cohere_chat import read_chat
from sidecar.sim.embeddings import anthropic_count, gemini_count, gemini_embeddings, openai_embeddings
from sidecar.sim.gemini_generate import generate_body, generate_events, read_generate
from sidecar.sim.mistral_chat import mistral_body, mistral_events
from sidecar.sim.openai_chat import chat_body, chat_events, completions_body, completions_events
from sidecar.sim.openai_responses import responses_body, responses_events
from sidecar.sim.plan import Events, Manner
from sidecar.sim.routes import Route
from sidecar.sim.speaker import Answer


def read(route: Route, body: bytes) -> Ask:
    """The request in the route's dialect; raises what the dialects' readers raise."""
    match route.endpoint:
        case "generate":
            return read_generate(body, route.model, stream=bool(route.stream))
        case "gemini_count" | "gemini_embed":
            return Ask(model=route.model)
        case "cohere":
            return read_chat(body)
        case "converse":
            return read_converse(body, route.model, stream=bool(route.stream))
    ask = read_ask(body)
    ask.model = route.model or ask.model  # Azure's deployment goes before what the body says
    return ask


def counted(route: Route, ask: Ask, body: bytes, size: int) -> bytes | None:
    """The answer of those endpoints that say nothing; None for the others."""
    match route.endpoint:
        case "embeddings":
            return openai_embeddings(ask, size)
        case "gemini_embed":
            return gemini_embeddings(msgspec.json.decode(body), size, many=route.many)
        case "count_tokens":
            return anthropic_count(body)
        case "gemini_count":
            return gemini_count(body)
    return None


def whole(route: Route, answer: Answer, manner: Manner) -> bytes:
    """A whole answer's body."""
    match route.endpoint, route.dialect:
        case "chat", "azure":
            return azure_body(answer, manner)
        case "chat", "mistral":
            return mistral_body(answer, manner)
        case "chat", _:
            return chat_body(answer, manner.created)
        case "completions", _:
            return completions_body(answer, manner.created)
        case "responses", _:
            return responses_body(answer, manner.created)
        case "generate", _:
            return generate_body(answer, manner)
        case "cohere", _:
            return cohere_body(answer, manner)
        case "converse", _:
            return converse_body(answer, manner)
    return messages_body(answer)


def events(route: Route, ask: Ask, answer: Answer, manner: Manner) -> Events:
    """A streamed answer's events."""
    created, size, pieces = manner.created, manner.tokens_per_chunk, manner.tool_pieces
    match route.endpoint, route.dialect:
        case "chat", "azure":
            return azure_events(answer, ask, manner)
        case "chat", "mistral":
            return mistral_events(answer, manner)
        case "chat", _:
            return chat_events(answer, ask, created, size, pieces)
        case "completions", _:
            return completions_events(answer, ask, created, size)
        case "responses", _:
            return responses_events(answer, created, size, pieces)
        case "generate", _:
            return generate_events(answer, manner)
        case "cohere", _:
            return cohere_events(answer, manner)
        case "converse", _:
            return converse_events(answer, manner)
    return messages_events(answer, size, pieces)
