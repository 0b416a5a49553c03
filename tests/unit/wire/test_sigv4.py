"""AWS signatures: equal to those that botocore 1.41 makes for the same requests at the same time (made once, kept here)."""

import pytest

from sidecar.wire.sigv4 import Credentials, Place, credentials, sign

_SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
_HOST = "bedrock-runtime.eu-west-1.amazonaws.com"
_COLON = "/model/anthropic.claude-haiku-4-5-20251001-v1%3A0/converse"
_ARN = "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Fx/converse-stream"
_QUERY = "/model/m/converse?b=2&a=1&c"
_ALIKE = "/model/m/converse?a-b=1&a=1&a=0"  # the names in their order, whatever stands behind them


@pytest.mark.parametrize(
    ("target", "token", "signature"),
    [
        (_COLON, "", "21a3f0ae67d9a2b599cbed4790e617abf0e241b175ff1ddeaadf2d9ce17aa3ae"),
        (_COLON, "TOKEN/+==", "a0995e9e8710b31b02ce939fef616350609b5c3894a9e7a814675976dd8fdaf7"),
        (_ARN, "", "d6488f8657583618a005b8c249845455087e5cb9dc4e7cb7edcd968e803ceb2b"),
        (_ARN, "TOKEN/+==", "4be1eee183c6182fb0e05d274222c39ba8962240fe27c95d5936222586d3ba6d"),
        (_QUERY, "", "49cad75512507d4c2b15f5f3fcadb1e457be5fbda822b35fcf7ceed9579e79f3"),
        (_ALIKE, "", "4b7ef8b1f24f5c66166d4a34b441d41e107b9a19cd02c4734dc7c9b286b712a5"),
        (_QUERY, "TOKEN/+==", "d8898ed4550ca7ec460a9c001c886062b930e35bf1bdaf6503ed66b44c409a76"),
    ],
)
def test_signature_is_botocores(target: str, token: str, signature: str) -> None:
    """Paths are encoded once more, queries sorted, session tokens signed."""
    who = Credentials("AKIDEXAMPLE", _SECRET, token)
    made = dict(sign(who, Place("eu-west-1", "bedrock", _HOST), target, b'{"messages":[]}', stamp="20261121T093000Z"))
    assert made["authorization"].endswith(f"Signature={signature}")
    assert made["authorization"].startswith(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261121/eu-west-1/bedrock/aws4_request, "
    )
    assert made.get("x-amz-security-token", "") == token
    assert made["x-amz-date"] == "20261121T093000Z"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"AKID:SECRET\n", Credentials("AKID", "SECRET")),
        (b"AKID:SECRET:TO:KEN", Credentials("AKID", "SECRET", "TO:KEN")),
        (b"bedrock-api-key-abc", None),
        (b"AKID:", None),
    ],
)
def test_credentials(text: bytes, found: Credentials | None) -> None:
    """Two or three parts; anything else is a bearer key."""
    assert credentials(text) == found
