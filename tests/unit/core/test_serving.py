"""What the app asked for, where it lives in another dialect than the app's."""

from dataclasses import replace

from sidecar.core.serving import MAX_PLAIN, Chosen, Serving
from sidecar.core.types import Drawn
from tests.unit.core.engines import HAIKU, MINI, ROUTE, facts, policy

BOTH = replace(ROUTE, arms=(MINI, HAIKU), virtual=("auto",), mode="observe")
HOME = BOTH.baseline.upstream


def serving(*, allow_loss: bool = False) -> Serving:
    route = replace(BOTH, allow_loss=allow_loss)
    return Serving(policy(route), route)


def test_a_virtual_name_is_the_baseline_in_whatever_dialect() -> None:
    """It is translated where it can be said, refused by name where not, and served all the same where loss is allowed."""
    said = facts(dialect="anthropic", endpoint="messages", model="auto", lost={HOME: ()})
    assert serving().as_asked(said).arm == BOTH.baseline.id
    lossy = facts(dialect="anthropic", endpoint="messages", model="auto", lost={HOME: ("top_k", "thinking")})
    refused = serving().as_asked(lossy).refusal
    assert refused is not None
    assert (refused.status, refused.code) == (400, "translation")
    assert "top_k, thinking" in refused.message
    assert serving(allow_loss=True).as_asked(lossy).arm == BOTH.baseline.id


def test_a_name_that_lives_elsewhere_is_asked_there() -> None:
    """An Anthropic app that asks for the OpenAI model: its own name stays, the upstream is the model's."""
    asked = facts(dialect="anthropic", endpoint="messages", model=MINI.model, lost={MINI.upstream: ()})
    made = serving().as_asked(asked)
    assert (made.arm, made.upstream, made.model, made.reason) == (MINI.id, MINI.upstream, None, "passthrough")
    lossy = facts(dialect="anthropic", endpoint="messages", model=MINI.model, lost={MINI.upstream: ("n",)})
    refused = serving().as_asked(lossy).refusal
    assert refused is not None
    assert "n;" in refused.message


def test_other_names_go_to_the_apps_own_provider() -> None:
    """No arm has the name: nothing is translated, whatever could be."""
    other = facts(dialect="anthropic", endpoint="messages", model="claude-x", lost={HOME: ()})
    made = serving().as_asked(other)
    assert (made.arm, made.upstream) == (None, None)


def test_a_virtual_name_that_was_not_read_goes_on_as_it_is() -> None:
    """A call that continues some upstream's state is never translated: its own provider says that it knows no such name."""
    made = serving().as_asked(facts(dialect="anthropic", endpoint="messages", model="auto"))
    assert (made.arm, made.upstream, made.refusal) == (None, None, None)


def test_equal_choices_without_a_draw_share_one_decision() -> None:
    """However many there are: the table is bounded. What the selector drew is of one request alone."""
    one = serving()
    first = one.serve(Chosen("mini", "canary", 0.05), ("gpt-4o", "mini"), "conversation", ("id", 5))
    assert one.serve(Chosen("mini", "canary", 0.05), ("gpt-4o", "mini"), "conversation", ("id", 5)) is first
    assert one.serve(Chosen("mini", "canary", 0.05), ("gpt-4o", "mini"), "conversation", ("id", 25)) != first
    drawn = Chosen("mini", "sampled", 0.05, Drawn(("mini",), (1.0,), 0.0, 0.0))
    assert one.serve(drawn) == one.serve(drawn) is not one.serve(drawn)
    for number in range(MAX_PLAIN):
        one.serve(Chosen("mini", "canary", (number + 1) / 2_000))
    again = one.serve(Chosen("mini", "canary", 0.05), ("gpt-4o", "mini"), "conversation", ("id", 5))
    assert again == first
    assert again is not first
