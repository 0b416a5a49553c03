"""The soak's arrivals and its judgement: what is flat passes, what grows is named, however wild single readings are."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.soak import NAMES, Sample, Soak, arrivals
from bench.soak_report import (
    BEGIN,
    END,
    LIMIT_MIB,
    WEEK_H,
    as_json,
    judge,
    picture,
    put_into,
    show,
    theil_sen,
    trends,
)
from bench.stats import median

LENGTH_S = 1200.0
Grown = Callable[[float], float]


def seen(
    memory: Grown = lambda _: 0.0,
    descriptors: Grown = lambda _: 0.0,
    added: Grown = lambda _: 0.0,
    end_s: float = LENGTH_S,
) -> Soak:
    """A soak of 26 calls a second whose readings scatter, and grow by what the functions of the second say."""
    chance, made = np.random.default_rng(3), Soak(seed=1, speed=10.0)
    for at in np.arange(2.0, end_s, 2.0).tolist():
        made.samples.append(
            Sample(
                at_s=at,
                rss_mib=90.0 + float(chance.normal(0.0, 0.3)) + memory(at),
                descriptors=60 + int(chance.integers(0, 12)) + int(descriptors(at)),
                threads=8,
                tasks=1,
                exchanges=0,
                open_calls=0,
                database_mib=4.0 + float(chance.normal(0.0, 0.01)),
                calls=int(26 * at),
            )
        )
        made.added += [(at, float(chance.gamma(2.0, 0.2)) + added(at)) for _ in range(20)]
    made.calls, made.long_whole, made.long_s = made.samples[-1].calls, True, end_s
    made.ends["whole: 200"] = made.calls
    return made


def test_the_slope_does_not_follow_wild_points() -> None:
    """A quarter of the points far off: the slope is that of the others, and lies in its interval."""
    points = [(float(x), 3.0 * x + (500.0 if x % 4 == 0 else 0.0)) for x in range(40)]
    slope, low, high = theil_sen(points)
    assert slope == pytest.approx(3.0)
    assert low <= slope <= high
    with pytest.raises(ValueError, match="three points"):
        theil_sen(points[:2])


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Noise around a line of slope 2: about 95 of 100 intervals hold it."""
    chance = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        found = theil_sen([(float(x), 2.0 * x + float(noise)) for x, noise in enumerate(chance.normal(0.0, 9.0, 30))])
        held += found[1] <= 2.0 <= found[2]
    assert 0.91 <= held / 300 <= 0.985


def test_what_is_flat_is_not_broken() -> None:
    """Noise alone, and one peak of a minute in each reading."""

    def peak(height: float) -> Grown:
        return lambda at: height if 600 < at < 660 else 0.0

    assert judge(seen()) == []
    assert judge(seen(memory=peak(40.0), descriptors=peak(200.0), added=peak(50.0))) == []


@pytest.mark.parametrize(
    ("grown", "what"),
    [
        ({"memory": lambda at: at * 9.0 / 3600}, ["memory"]),
        ({"descriptors": lambda at: at * 300 / 3600}, ["descriptors"]),
        ({"added": lambda at: at * 6.0 / 3600}, ["added p50", "added p99"]),
    ],
)
def test_what_grows_is_named(grown: dict[str, Grown], what: list[str]) -> None:
    """INC-46: a leak of 100 bytes a call, of a descriptor in 300 calls, 6 ms an hour: each alone is found in 20 minutes."""
    broken = judge(seen(**grown))  # type: ignore[arg-type] # one of the functions
    assert [one.partition(" grows by ")[0] for one in broken] == what


def test_what_hangs_and_what_ends_badly_is_told() -> None:
    soak = seen()
    soak.samples[-1] = Sample(LENGTH_S, 90.0, 60, 8, 1, exchanges=4, open_calls=2, database_mib=4.0, calls=soak.calls)
    soak.exit_status, soak.long_whole = 1, False
    cut = "the stream that was as long as the soak did not end whole"
    assert judge(soak) == ["2 calls and 4 exchanges hang", cut, "the process ended with 1"]
    assert judge(seen(end_s=30.0)) == ["the soak was too short to judge: give it at least 60 s"]
    assert judge(Soak(seed=1, speed=10.0)) == ["the soak was too short to judge: give it at least 60 s"]


def test_a_soak_that_answers_little_is_no_good_soak() -> None:
    """A sidecar that sheds, or that fails what it should have answered, grows by nothing."""
    shed, failed = seen(), seen()
    shed.ends["stream: 503"], shed.ends["whole: 200"] = 1, shed.calls - 1
    assert judge(shed) == ["1 calls were shed"]
    failed.ends["whole: 502"], failed.ends["whole: 200"] = failed.calls, 0
    (broken,) = judge(failed)
    assert broken.startswith(f"{failed.calls} of {failed.calls} calls were not answered")
    failed.ends["whole: 502"] = failed.calls // 10
    failed.ends["whole: 200"] = failed.calls - failed.calls // 10
    assert judge(failed) == []


def test_tables_and_picture() -> None:
    """The bound of memory is a week's; the picture is small enough for the docs; the JSON has every reading."""
    soak = seen()
    memory = trends(soak)[0]
    assert memory.bound == pytest.approx((LIMIT_MIB - soak.samples[-1].rss_mib) / WEEK_H)
    assert memory.typical == pytest.approx(median([one.rss_mib for one in soak.samples]), abs=0.2)
    assert f"| memory | {memory.typical:.2f} MiB |" in show(soak)
    assert "| whole | " in show(soak)
    assert len(picture(soak).svg()) < 40_000
    page = put_into(f"# Page\n{BEGIN}\nold\n{END}\nrest\n", soak)
    assert page.startswith("# Page\n")
    assert page.endswith("rest\n")
    assert "old" not in page
    assert put_into(page, soak) == page
    with pytest.raises(ValueError, match="soak begin"):
        put_into("# Page\n", soak)
    told = as_json(soak)
    assert len(told["samples"]) == len(soak.samples)  # type: ignore[arg-type] # a list
    assert told["ends"] == {"whole: 200": soak.calls}


def test_arrivals_repeat_the_traces(tmp_path: Path) -> None:
    """Both one after the other and again, ten times as fast, never backwards."""
    for number, name in enumerate(NAMES):
        with gzip.open(tmp_path / name, "wt") as target:
            target.write(f"t_s,input_tokens,output_tokens\n0.0,{number},1\n5.0,{number},2\n10.0,{number},3\n")
    found = arrivals(10.0, 3.5, tmp_path)
    assert [one.tokens_in for one in found] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1]
    assert [one.at_s for one in found] == sorted(one.at_s for one in found)
    assert found[-1].at_s == pytest.approx(3.5, abs=0.51)
