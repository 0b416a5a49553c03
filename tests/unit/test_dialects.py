"""docs/dialects.md says what the code does."""

from tests import dialects


def test_the_page_is_fresh() -> None:
    """GW-32, GW-33: what is dropped, mapped or refused is on the page; write it again with `python -m tests.dialects`."""
    assert dialects.PAGE.read_text(encoding="utf-8") == dialects.page()


def test_the_page_can_tell_all_three() -> None:
    """Each verdict is the one that the Report gives: a schema is exact, a budget mapped for chat, a bias refused."""
    cells = {client: dict(dialects.request_rows(client)) for client in dialects.CLIENTS}
    assert cells["chat"]["JSON schema output"][0] == "exact"
    assert cells["messages"]["thinking budget"][0] == "mapped"
    assert cells["chat"]["logit bias"][1] == "refused"
    assert cells["chat"]["film"][0] == "-"


def test_each_wait_is_listed() -> None:
    """The writers that hold something back say so."""
    assert {"messages/writer", "generate/stream_writer"} <= {name for name, _ in dialects.waits()}
