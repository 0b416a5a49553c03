"""A person is forgotten: no snapshot holds their conversation's key any more, and nobody else's is lost."""

from dataclasses import replace

import orjson
import pytest

from sidecar.core.engine import Engine
from sidecar.core.memory import free_unit, without
from sidecar.core.sticky import key_of, salt_of
from tests.unit.core.engines import MINI, NANO, NOW, ROUTE, engine, facts, outcome, policy, promoted

MINE, OTHER = 0xABCDEF0123456789, 0x123456789ABCDEF0
POOL = replace(ROUTE, mode="optimize", arms=(MINI, NANO))


def talked(made: Engine) -> Engine:
    for key in (MINE, OTHER):
        decision = made.decide(facts(key), NOW)
        made.settle(facts(key), decision, outcome("failed"), NOW)
    return made


def keys_in(snapshot: bytes) -> tuple[set[int], set[int]]:
    """Keys of conversations, and of units that brakes know."""
    state = orjson.loads(snapshot)
    bound = {key ^ salt_of("support") for *_, keys in state["bindings"] for key in keys}
    brake = state["routes"]["support"]["staging"]["brake"]
    return bound, {unit[0] for _, _, units in brake.values() for unit in units}


def test_a_running_engine_forgets_one_conversation() -> None:
    """Its arm, and how its newest call ended; the next call is assigned as that of a new conversation."""
    made = talked(promoted(policy(POOL)))
    assert keys_in(made.snapshot()) == ({MINE, OTHER}, {MINE, OTHER})
    made.free(MINE)
    assert keys_in(made.snapshot(bindings=False)) == ({OTHER}, {OTHER})
    assert made.decide(facts(MINE), NOW).reason != "sticky"
    assert made.decide(facts(OTHER), NOW).reason == "sticky"


def test_what_waits_for_its_route_is_forgotten_too() -> None:
    """The policy is without the route for a while: its conversations are free, the rest of it waits."""
    made = talked(promoted(policy(POOL)))
    made.apply(policy(replace(POOL, name="another", match=replace(POOL.match, models=("other",)))), NOW)
    made.free(MINE)
    assert keys_in(made.snapshot()) == (set(), {OTHER})


def test_a_stored_snapshot_forgets_one_conversation() -> None:
    """As the engine does; all else of it is as it was, and an engine takes it over whole."""
    made = talked(promoted(policy(POOL)))
    before = made.snapshot()
    after = without(before, MINE)
    made.free(MINE)
    assert keys_in(after) == keys_in(made.snapshot()) == ({OTHER}, {OTHER})
    told, kept = orjson.loads(after)["routes"]["support"], orjson.loads(before)["routes"]["support"]
    assert {name for name in kept if told[name] != kept[name]} == {"staging"}
    assert without(after, MINE) == after
    taken = engine(policy(POOL))
    assert [one.kind for one in taken.restore(after, NOW) if one.kind == "state.ignored"] == []
    assert taken.decide(facts(OTHER), NOW).reason == "sticky"


@pytest.mark.parametrize(
    "part", [None, {}, {"staging": {"brake": {"mini": None, "nano": [0, 0, ["x", [MINE + 1, 1.0, True]]]}}}]
)
def test_what_cannot_be_read_stays(part: object) -> None:
    before = orjson.dumps(part)
    free_unit(part, MINE)
    assert orjson.dumps(part) == before


def test_keys_as_rows_name_them() -> None:
    assert key_of(f"{MINE:016x}") == MINE
    assert [key_of(text) for text in ("", "0" * 16, "x" * 16, "A" * 16, "1" * 17)] == [None] * 5
