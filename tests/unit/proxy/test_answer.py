"""Answers of our own are errors that each SDK understands, and well-formed HTTP."""

import orjson
import pytest

from sidecar.proxy.answer import error_body, response


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 418, 421, 429, 431, 500, 502, 503, 504, 505])
def test_every_dialect_has_its_shape(status: int) -> None:
    """The member that the SDK reads the message from."""
    openai = orjson.loads(error_body("openai", status, "code", "what"))
    assert (openai["error"]["message"], openai["error"]["code"]) == ("what", "code")
    anthropic = orjson.loads(error_body("anthropic", status, "code", "what"))
    assert (anthropic["type"], anthropic["error"]["message"]) == ("error", "what (code)")
    assert anthropic["error"]["type"].endswith("error") or status == 413
    gemini = orjson.loads(error_body("gemini", status, "code", "what"))
    assert (gemini["error"]["code"], gemini["error"]["message"]) == (status, "what (code)")
    assert gemini["error"]["status"].isupper()


def test_a_response_is_whole() -> None:
    """Length, our lines and the close, in this order; HEAD has no body but its length."""
    made = response(404, b"{}", headers=b"x-a: 1\r\n", close=True)
    assert made == (
        b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
        b"x-a: 1\r\nconnection: close\r\n\r\n{}"
    )
    assert response(599, b"{}", head_only=True).endswith(b"content-length: 2\r\n\r\n")
    assert response(599, b"").startswith(b"HTTP/1.1 599 Status\r\n")
