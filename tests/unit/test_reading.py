"""The reading verbs as a person calls them: replay's report, its refusals and its JSON; explain with what is known now."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import main
from tests.fixtures import logs
from tests.fixtures.logs import MINI, policy

ALL = f"{MINI}, {logs.NANO}"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "s.db"
    logs.store(path, units=1500, scored=4)
    return path


@pytest.fixture
def asked(tmp_path: Path, db: Path) -> Any:
    """A policy's text and options -> the exit code of `replay`."""

    def ask(text: str, *options: str) -> int:
        file = tmp_path / "new.yaml"
        file.write_text(text, encoding="utf-8")
        return main(["replay", "--db", str(db), "--policy", str(file), *options])

    return ask


def test_a_person_reads_shares_estimates_and_the_self_check(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(policy("canary", MINI), "--step", "25") == 0
    shown = capsys.readouterr().out
    for part in (
        "on 1500 logged calls of 1500 units",
        "mini    ",
        "25.0%",
        "quality ",
        "cost_usd",
        "self-check quality: logged 0.8",
        ": inside",
        "95 % intervals, cluster-robust by unit",
    ):
        assert part in shown


def test_a_program_reads_one_object_a_line(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """First what was asked, then the arms, then the outcomes with their estimates."""
    assert asked(policy("observe"), "--json") == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert lines[0]["calls"] == 1500
    arms = {line["arm"]: line["target_share"] for line in lines if "arm" in line}
    assert arms == {"gpt-4o": 1.0, "mini": 0.0, "nano": 0.0}
    cost = next(line for line in lines if line.get("outcome") == "cost_usd")
    assert cost["dr"]["value"] == pytest.approx(1e-6, rel=0.01)
    assert cost["change"]["low"] > 0
    assert cost["self_check"]["low"] <= cost["self_check"]["logged"] <= cost["self_check"]["high"]
    assert captured.err == ""


def test_what_the_log_cannot_answer_is_refused_with_exit_1(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(policy("canary", "{id: opus, upstream: up, model: opus}")) == 1
    told = capsys.readouterr().err
    assert "the log cannot answer for this policy" in told
    assert "serve a small share first" in told


def test_outcomes_without_enough_evidence_are_named(asked: Any, capsys: pytest.CaptureFixture[str], db: Path) -> None:
    """One thin log: nothing can be said of any outcome, which is exit 1 too."""
    thin = db.with_name("thin.db")
    logs.store(thin, units=60)
    assert asked(policy("observe"), "--db", str(thin)) == 1
    assert "quality: no answer: the effective sample size is" in capsys.readouterr().out
    assert asked(policy("observe"), "--db", str(thin), "--json") == 1
    assert any("refused" in json.loads(line) for line in capsys.readouterr().out.splitlines())


def test_the_span_and_the_route_select(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The log is of another time, so the last week of it is nothing; no route has that name."""
    assert asked(policy("observe"), "--route", "nowhere") == 1
    assert "decided by chance: no row" in capsys.readouterr().err
    assert asked(policy("observe"), "--since", "7d") == 0


def test_another_service_has_no_rows(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(policy("observe").replace("service: bot", "service: other")) == 1
    assert asked(policy("observe").replace("service: bot", 'service: "*"')) == 0


def test_a_frozen_learner_needs_a_stored_state(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(policy("optimize", MINI), "--learner", "frozen") == 1
    assert "holds no learnt state of service 'bot'" in capsys.readouterr().err


def test_a_policy_of_list_prices_is_evaluated_with_them(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """An optimize policy whose prices come from the list, learnt along the log; progress goes to standard error."""
    text = policy("optimize", ALL).replace(
        'base_url: "http://127.0.0.1:9/v1", price: free', 'base_url: "https://api.openai.com"'
    )
    assert asked(text) == 0
    assert "nano" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--set", "prices=/no/prices.json"], 2, "/no/prices.json"),
        (["--set", "catalogue=/no/models.yaml"], 2, "/no/models.yaml"),
        (["--set", "service=shop", "--learner", "frozen"], 1, "of service 'shop'"),
    ],
)
def test_a_replay_has_the_settings_of_its_options(
    asked: Any, capsys: pytest.CaptureFixture[str], options: list[str], code: int, told: str
) -> None:
    """Price list and catalogue, and whose state it is where the policy is for all."""
    assert asked(policy("optimize", MINI).replace("service: bot", 'service: "*"'), *options) == code
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--step", "0"], ["--step", "101"], ["--since", "soon"], ["--learner", "none"]])
def test_wrong_options_are_exit_2(asked: Any, option: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        asked(policy("observe"), *option)
    assert ended.value.code == 2


def test_explain_tells_what_is_known_now(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = next(iter(logs.exchanges(units=1)))
    assert main(["explain", one.id, "--db", str(db)]) == 0
    assert f"Decision {one.id}" in capsys.readouterr().out
    assert main(["explain", one.id, "--db", str(db), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["known"] == {"rollout": None, "at": None, "route": None}
    assert [score["source"] for score in told["feedback"]] == ["user"]


def test_a_policy_of_another_service_is_told_so(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Not "no row": the log has rows, of other services."""
    assert asked(policy("observe").replace("service: bot", "service: elsewhere")) == 1
    assert "no row is of service 'elsewhere'; write `service` as the log has it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["export", "--since", "7d"], "--since: '7d' is no time; write one in UTC, like 2026-01-31"),
        (["export", "--until", "2026-11-23T06:00+02:00"], "--until: '2026-11-23T06:00+02:00' is no time"),
        (["export", "--since", "2026-13"], "--since: '2026-13' is no time"),
        (["export", "--since", "2026-02-30"], "--since: '2026-02-30' is no time"),
        (["export", "--until", "2026-11-23T24"], "--until: '2026-11-23T24' is no time"),
        (["replay", "--policy", "p.yaml", "--since", "yesterday"], "--since: 'yesterday' is not a duration; write"),
        (["feedback", "x", "--score", "good"], "--score: 'good' is not a number"),
        (["demo", "--seconds", "-1"], "--seconds: -1 does not lie between 0"),
        (["run", "--workers", "2.9"], "--workers: 2.9 is not a whole number"),
        (["simulate-provider", "--port", "1.5"], "--port: 1.5 is not a whole number"),
        (["replay", "--policy", "p.yaml", "--step", "5.5"], "--step: 5.5 is not a whole number"),
    ],
)
def test_an_option_that_cannot_be_read_is_no_empty_answer(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "since",
    ["", "2", "2026", "2026-0", "2026-1", "2026-11-3", "2026-11-20", "2026-11-20T1", "2026-11-20T10:00:00.5Z"],
)
def test_a_time_may_be_cut_off_anywhere(since: str, db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--db", str(db), "--since", since]) == 0
    shown = capsys.readouterr().out
    assert main(["export", "--db", str(db)]) == 0
    newer = [line for line in capsys.readouterr().out.splitlines() if json.loads(line)["at"] >= since.removesuffix("Z")]
    assert shown.splitlines() == newer
