"""Embeddings and token counts of the simulated provider: one unit vector per text, the same for the same text."""

import base64
from collections.abc import Mapping

import numpy as np
import orjson

from sidecar.sim.ask import Ask, Refused, member


def vector(text: object, size: int) -> np.ndarray:
    """A unit vector of float32 that depends on the end of the text only."""
    seed = int.from_bytes(orjson.dumps(text)[-64:], "little")
    drawn = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    drawn /= np.linalg.norm(drawn)
    return drawn


def openai_embeddings(ask: Ask, size: int) -> bytes:
    """OpenAI's list of embeddings; base64 of float32 where the request asks for that."""
    given = orjson.loads(bytes(ask.input))
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    rows = []
    for at, text in enumerate(inputs):
        found = vector(text, ask.dimensions or size)
        packed = ask.encoding_format == "base64"
        value = base64.b64encode(found.tobytes()).decode() if packed else found.tolist()
        rows.append({"object": "embedding", "index": at, "embedding": value})
    tokens = max(1, len(ask.input) // 4)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"object": "list", "data": rows, "model": ask.model, "usage": usage})


def gemini_embeddings(tree: object, size: int, *, many: bool) -> bytes:
    """Gemini's embedding of one content, or of each request of a batch.

    Raises:
        Refused: there is no content.
    """
    requests = member(tree, "requests") if many else [tree]
    if not isinstance(requests, list) or not all(isinstance(member(item, "content"), Mapping) for item in requests):
        raise Refused("* EmbedContentRequest.content: contents is not specified\n")
    rows = []
    for request in requests:
        wanted = member(request, "outputDimensionality")
        found = vector(member(request, "content"), wanted if isinstance(wanted, int) else size)
        rows.append({"values": found.tolist()})
    return orjson.dumps({"embeddings": rows} if many else {"embedding": rows[0]})


def anthropic_count(body: bytes) -> bytes:
    """Anthropic's count of a request's tokens: a quarter of its bytes."""
    return orjson.dumps({"input_tokens": max(1, len(body) // 4)})


def gemini_count(body: bytes) -> bytes:
    """Gemini's count of a request's tokens: a quarter of its bytes."""
    count = max(1, len(body) // 4)
    details = [{"modality": "TEXT", "tokenCount": count}]
    return orjson.dumps({"totalTokens": count, "promptTokensDetails": details})
