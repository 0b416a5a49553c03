"""All rows of the goal table, by family: those that are replayed job by job, and those that are made in one go."""

from typing import Final

from bench import (
    day,
    router_arms,
    router_ceilings,
    router_curve,
    router_drop,
    router_others,
    router_prices,
    router_promise,
    router_speed,
)
from bench.router_row import Alone, Family

FAMILIES: Final[dict[str, Family]] = {
    family.name: family
    for family in (
        router_curve.FAMILY,
        router_promise.PROMISE,
        router_ceilings.FAMILY,
        router_drop.FAMILY,
        router_prices.FAMILY,
        router_arms.FAMILY,
        router_promise.SPARSE,
        day.FAMILY,
    )
}
ALONE: Final[dict[str, Alone]] = {
    one.name: one
    for one in (*router_others.EXPERIMENTS, router_others.VERDICTS, router_others.DRIFT, router_speed.ALONE)
}
