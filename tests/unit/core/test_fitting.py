"""Arms that fit: no arm is offered a request that it is known not to serve; where nobody has room, the roomiest is."""

from dataclasses import replace
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as change

from sidecar.control.logged import calls_of
from sidecar.core.abilities import IMAGES, NEEDS, TOOLS, UNKNOWN, Capabilities, Limits
from sidecar.core.fitting import RESERVE, Fitting, lost_at, unable, untranslatable
from sidecar.core.policy import Arm, Fallback, Route
from sidecar.core.record import COLUMNS, row
from sidecar.core.types import Decision, Facts
from tests.fixtures.settled import settled
from tests.unit.core.engines import (
    BASE,
    HAIKU,
    MINI,
    NANO,
    NOW,
    ROUTE,
    UPSTREAMS,
    engine,
    facts,
    policy,
    promoted,
    rule,
)

BLIND = replace(
    MINI, capabilities=Capabilities(images=False, tools=True, context_tokens=8_192, max_output_tokens=2_048)
)
WIDE = replace(NANO, capabilities=Capabilities(tools=False, context_tokens=1_000_000, max_output_tokens=64_000))
THREE = replace(ROUTE, arms=(BLIND, WIDE), mode="optimize", sticky="request")


def fitting(*arms: Arm, **changes: Any) -> Fitting:
    return Fitting(replace(ROUTE, arms=arms, **changes), UPSTREAMS)


def asking(needs: int = 0, context: int = 100, output: int = 0, **fields: Any) -> Facts:
    return facts(needs=needs, context_tokens=context, output_tokens=output, **fields)


def test_without_limits_nothing_is_compared() -> None:
    """Arms of whom nothing bad is known serve everything in their dialect."""
    free = fitting(MINI, HAIKU)
    assert not free.limited
    assert free.arms(asking(TOOLS | IMAGES, 10**9, 10**9)) == ("gpt-4o", "mini")
    assert free.arms(facts(dialect="anthropic")) == ("haiku",)


def test_a_need_that_is_not_met() -> None:
    """Leaves the arm out, with the name of what it lacks; a request without needs is offered to all."""
    some = fitting(BLIND, WIDE)
    assert some.limited
    assert some.arms(asking(IMAGES)) == ("gpt-4o", "nano")
    assert some.arms(asking(TOOLS)) == ("gpt-4o", "mini")
    assert some.arms(asking(TOOLS | IMAGES)) == ("gpt-4o",)
    assert some.arms(asking()) == some.arms(facts()) == ("gpt-4o", "mini", "nano")


def test_why_not() -> None:
    """The needs by name before the sizes."""
    limits = Capabilities(tools=False, images=False, context_tokens=5_000, max_output_tokens=500).limits
    assert unable(limits, asking(TOOLS | IMAGES, 10**6)) == "tools, images"
    assert unable(limits, asking(0, 100, 501)) == "max_output_tokens"
    assert unable(limits, asking(0, 4_501, 500)) == "context_tokens"
    assert unable(limits, asking(0, 4_500, 500)) == ""
    assert unable(limits, asking(0, 4_501)) == "context_tokens"  # leaves room for as much as it can answer
    assert unable(Limits(0, 5_000), asking(0, 5_000 - RESERVE)) == ""
    assert unable(Limits(0, 5_000), asking(0, 5_001 - RESERVE)) == "context_tokens"
    assert unable(Limits(0, 5), asking(0, 0, 0)) == ""  # of unknown size


def test_room() -> None:
    """A long request goes to the arms with room; where nobody has room to the one with the most."""
    some = fitting(BLIND, WIDE)
    assert some.arms(asking(0, 8_000)) == ("gpt-4o", "nano")
    base = replace(BASE, capabilities=Capabilities(context_tokens=128_000, max_output_tokens=4_096))
    all_three = fitting(BLIND, WIDE, baseline=base)
    assert all_three.arms(asking(0, 50_000)) == ("gpt-4o", "nano")
    assert all_three.arms(asking(0, 500_000)) == ("nano",)
    assert all_three.arms(asking(0, 2_000_000)) == ("nano",)
    assert all_three.arms(asking(TOOLS, 2_000_000)) == ("gpt-4o",)  # the roomiest of those with tools
    assert all_three.arms(asking(0, 100, 100_000)) == ("nano",)  # the longest answer
    assert all_three.arms(asking(TOOLS, 100, 100_000)) == ("gpt-4o",)


def test_nobody_is_able() -> None:
    """Then no arm is offered, and what the app asked for is done."""
    blind = fitting(BLIND, baseline=replace(BASE, capabilities=Capabilities(images=False)))
    assert blind.arms(asking(IMAGES)) == ()


def test_a_call_that_carries_state() -> None:
    """Goes to its arm, able or not; an able one at the same upstream is better."""
    some = fitting(BLIND, WIDE)
    assert some.arms(asking(IMAGES, pinned="mini")) == ("mini",)
    assert some.arms(asking(TOOLS, pinned="nano")) == ("gpt-4o",)
    assert some.arms(asking(TOOLS, pinned="mini")) == ("gpt-4o", "mini")
    assert some.arms(asking(TOOLS, pinned="gone")) == ("gpt-4o", "mini")


def test_translated_arms_are_compared_too() -> None:
    """An arm of another dialect fits when the request can be said there and its model can serve it."""
    haiku = replace(HAIKU, capabilities=Capabilities(images=False))
    some = fitting(haiku)
    assert some.arms(asking(TOOLS, lost={"claude": ()})) == ("gpt-4o", "haiku")
    assert some.arms(asking(IMAGES, lost={"claude": ()})) == ("gpt-4o",)
    assert some.arms(asking(IMAGES)) == ("gpt-4o",)  # it is not asked at all
    assert some.arms(asking(TOOLS, lost={"claude": ("seed",)})) == ("gpt-4o",)
    assert fitting(haiku, allow_loss=True).arms(asking(TOOLS, lost={"claude": ("seed",)})) == ("gpt-4o", "haiku")


def test_what_is_lost_may_depend_on_the_model() -> None:
    """What is known of the arm's model holds before what is known of its upstream."""
    of_model = {"claude": ("top_k",), f"claude\n{HAIKU.model}": ()}
    assert fitting(HAIKU).arms(asking(lost=of_model)) == ("gpt-4o", "haiku")
    assert lost_at(asking(lost=of_model), "claude", HAIKU.model) == ()
    assert lost_at(asking(lost=of_model), "claude", "other") == ("top_k",)
    assert lost_at(asking(lost=of_model), "openai", "other") is None


def test_a_refusal_names_at_most_eight() -> None:
    """And counts the rest."""
    assert "cannot say: a, b;" in untranslatable(("a", "b")).message
    assert "and 2 more" in untranslatable(tuple("abcdefghij")).message


def test_a_decision_says_who_was_left_out() -> None:
    """With the reasons; where all can serve it stays the same object."""
    some = fitting(BLIND, WIDE)
    made = Decision(
        route="r", mode="canary", arm="gpt-4o", upstream="openai", model=None, reason="baseline", propensity=1.0
    )
    assert some.note(made, asking()) is made
    assert some.note(made, facts()) is made
    assert some.note(made, asking(IMAGES | TOOLS)).left_out == (("mini", "images"), ("nano", "tools"))


# ---- through the engine


def test_the_engine_wants_to_know_only_where_it_matters() -> None:
    """Some arm is limited, and the route chooses: other services pay nothing."""
    assert engine(policy(THREE)).wants.needs
    assert not engine(policy(ROUTE)).wants.needs
    assert not engine(policy(THREE, mode="observe")).wants.needs


def test_the_selector_draws_among_those_that_fit() -> None:
    """And the decision names the others, and what is known of the arm that serves."""
    ready = promoted(policy(THREE))
    seen = set()
    for key in range(1, 200):
        made = ready.decide(asking(IMAGES, key=0, draw=key), NOW)
        seen.add(made.arm)
        assert made.eligible == ("gpt-4o", "nano")
        assert made.left_out == (("mini", "images"),)
        assert (
            made.can
            is ready.policy.routes[0].all_arms[[None, "gpt-4o", "mini", "nano"].index(made.arm) - 1].capabilities
        )
    assert seen == {"gpt-4o", "nano"}


def test_a_conversation_that_outgrows_its_arm_moves() -> None:
    """To one with room, and stays there; with a small request again it would have stayed anyway."""
    ready = promoted(policy(THREE, sticky="conversation"))
    key = next(key for key in range(1, 500) if ready.decide(asking(key=key), NOW).arm == "mini")
    assert ready.decide(asking(0, 3_000, key=key), NOW).reason == "sticky"
    moved = ready.decide(asking(0, 9_000, key=key), NOW)
    assert moved.arm in ("gpt-4o", "nano")
    assert moved.left_out == (("mini", "context_tokens"),)
    assert ready.decide(asking(0, 100, key=key), NOW).arm == moved.arm


def test_fallbacks_fit_too() -> None:
    """The arm that cannot serve the request is no fallback for it."""
    route = replace(THREE, fallback=Fallback(("mini", "nano", "gpt-4o"), ("5xx",), 2))
    made = promoted(policy(route)).decide(asking(IMAGES), NOW)
    assert "mini" not in made.fallbacks
    assert len(made.fallbacks) == 1


def test_nobody_able_fails_open_as_asked() -> None:
    """The app's own model serves, and the decision says who could not."""
    blind = replace(BASE, capabilities=Capabilities(images=False))
    made = promoted(policy(THREE, baseline=blind, arms=(BLIND,))).decide(asking(IMAGES), NOW)
    assert (made.reason, made.upstream, made.model) == ("fail-open", "openai", None)
    assert [arm for arm, _ in made.left_out] == ["gpt-4o", "mini"]


def test_rules_are_asked_about_those_that_fit() -> None:
    """A rule that takes out the only one with room denies: it fails closed."""
    made = promoted(policy(THREE, rule("model.id == 'nano'"), arms=(BLIND, WIDE)))
    assert made.decide(asking(0, 100_000), NOW).arm == "gpt-4o"


CAN = st.builds(
    Capabilities,
    **{name: st.sampled_from([None, True, False]) for name in NEEDS},
    context_tokens=st.none() | st.integers(1, 10**6),
    max_output_tokens=st.none() | st.integers(1, 10**5),
)


@given(
    st.tuples(CAN, CAN, CAN),
    st.integers(0, 63),
    st.integers(0, 10**6),
    st.integers(0, 10**5),
    st.integers(0, 50),
    st.sampled_from(["request", "conversation"]),
)
def test_no_eligible_arm_lacks_a_need(
    can: tuple[Capabilities, ...], needs: int, context: int, output: int, key: int, sticky: str
) -> None:
    """Whatever the arms can: who serves and who may is able; an arm without room is alone, and nobody has room then."""
    base, one, two = (replace(arm, capabilities=what) for arm, what in zip((BASE, MINI, NANO), can, strict=True))
    route: Route = replace(THREE, baseline=base, arms=(one, two), sticky=sticky)  # type: ignore[arg-type]
    arms = {arm.id: arm.capabilities.limits for arm in route.all_arms}
    asked = asking(needs, context, output, key=key)
    made = promoted(policy(route)).decide(asked, NOW)
    assert not any(needs & arms[arm].lacks for arm in made.eligible)
    if made.reason == "fail-open":
        assert all(needs & limits.lacks for limits in arms.values())
        return
    assert made.arm in made.eligible
    crowded = [arm for arm in made.eligible if unable(arms[arm], asked)]
    if crowded:
        assert made.eligible == (crowded[0],)
        assert all(unable(limits, asked) for limits in arms.values())
    assert dict(made.left_out) == {arm: why for arm, limits in arms.items() if (why := unable(limits, asked))}


def test_unknown_arms_are_unlimited() -> None:
    """What the policy and the catalogue do not say is taken for able."""
    assert Arm("a", "u", "m").capabilities is UNKNOWN


def test_the_row_keeps_what_replay_needs() -> None:
    """Needs, sizes and who was left out stand in the row's context, and come back as facts."""
    one = settled(1)
    known = change(one.facts, needs=TOOLS, context_tokens=70, output_tokens=9)
    asked = change(one, facts=known, decision=change(one.decision, left_out=(("nano", "tools"),)))
    record = dict(zip(COLUMNS, row(asked, "bot"), strict=True))
    context = orjson.loads(str(record["context"]))
    assert (context["needs"], context["left_out"]) == ([TOOLS, 70, 9], {"nano": "tools"})
    assert "needs" not in orjson.loads(str(row(one, "bot")[COLUMNS.index("context")]))
    call = calls_of([{**record, "context": context, "eligible": ["gpt-4o", "mini"]}]).kept[0]
    assert (call.facts.needs, call.facts.context_tokens, call.facts.output_tokens) == (TOOLS, 70, 9)


def test_a_pin_that_its_arm_cannot_serve() -> None:
    """Through the engine: an able arm at the same upstream, else the arm itself."""
    ready = promoted(policy(THREE))
    assert ready.decide(asking(TOOLS, pinned="nano", stateful=True), NOW).arm == "gpt-4o"
    kept = ready.decide(asking(IMAGES, pinned="mini", stateful=True), NOW)
    assert (kept.arm, kept.reason, kept.left_out) == ("mini", "pinned", (("mini", "images"),))
