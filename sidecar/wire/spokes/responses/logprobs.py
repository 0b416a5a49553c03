"""OpenAI Responses: log probabilities of an output's tokens, both ways.

What it promises: a list that cannot be read whole is None, never an error; what is written has all members that the SDK's
types want, bytes of a token that nobody told are those of its text.
"""

from typing import Any

from sidecar.wire.members import is_number, is_whole
from sidecar.wire.neutral import Json, TokenLogprob


def read_logprobs(items: Any) -> list[TokenLogprob] | None:  # noqa: ANN401 - whatever JSON holds
    """A list of tokens; None where it is none, is empty, or one of them cannot be read."""
    if not isinstance(items, list) or not items:
        return None
    found = [_read_token(item) for item in items]
    return None if None in found else [one for one in found if one is not None]


def _read_token(item: Any) -> TokenLogprob | None:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(item, dict):
        return None
    token, logprob, spelled, number = item.get("token"), item.get("logprob"), item.get("bytes"), item.get("id")
    top = item.get("top_logprobs") or []
    if not isinstance(token, str) or not is_number(logprob) or not isinstance(spelled, list | None):
        return None
    rivals = read_logprobs(top) if top else []
    if rivals is None:
        return None
    number = number if is_whole(number) else None
    return TokenLogprob(token=token, logprob=logprob, bytes=spelled, number=number, top=rivals)


def write_logprobs(tokens: list[TokenLogprob]) -> list[Json]:
    """The list `logprobs` of a text."""
    return [{**_write_token(one), "top_logprobs": [_write_token(rival) for rival in one.top]} for one in tokens]


def _write_token(one: TokenLogprob) -> Json:
    spelled = list(one.token.encode("utf-8", "replace")) if one.bytes is None else one.bytes
    number = {} if one.number is None else {"id": one.number}
    return {**number, "token": one.token, "bytes": spelled, "logprob": one.logprob}
