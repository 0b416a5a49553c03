"""One decision as plain English: what was asked, what served and why, what happened, what it cost.

It reads a record as `queries.find` returns it, and what `queries.knowledge` found about its route, and states only what
stands there; what is unknown is called unknown. Of a call that the selector decided, its row keeps what was drawn for each
arm and the prices of then; posteriors are those of the newest snapshot, which is what is known now.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.core.learnt import restore
from sidecar.core.memory import UNREADABLE
from sidecar.core.policy import Objective
from sidecar.core.selector import Selector

_WHY = {
    "passthrough": "Nothing was to decide: the call went where the app sent it.",
    "baseline": "The route's baseline served.",
    "stable": "The route's stable arm, {arm}, served: the one promoted last, or the baseline before any was.",
    "canary": "This {unit} belongs to the share that the rollout gives to the canary.",
    "sampled": "The selector drew this arm; arms that look better are drawn more often.",
    "drawn": "The experiment drew this {unit}'s variant by its hash.",
    "over": "The route's experiment is over, or a rule left not all of its variants: nothing was drawn.",
    "sticky": "This {unit} was already bound to this arm and stays with it.",
    "pinned": "The call carries state that lives at this arm, so no other could serve it.",
    "threshold": "A threshold is breached and its action sends the traffic here.",
    "budget": "The budget had no room for another arm, so the cheapest one served.",
    "policy": "A rule of the policy decided.",
    "cascade": "The route's cascade asks its arms in turn; this one's answer was given.",
    "handed on": "The route's cascade asks its arms in turn; the one before failed, and this one's answer was given.",
    "fallback": "The arm that was chosen first ({decided}) failed before its first byte, and the policy lists this one "
    "as its fallback.",
    "fail-open": "Selection was not possible, so the call went to what the app asked for.",
}
_LACKED = {
    "context_tokens": "its context is too small",
    "max_output_tokens": "it cannot answer at that length",
}
_KIND = {
    "exact": "exact",
    "estimate": "an estimate",
    "lower_bound": "a lower bound: the call ended early and the provider may bill more",
}


def explain(
    record: Mapping[str, Any],
    feedback: Sequence[Mapping[str, Any]] = (),
    known: Mapping[str, Any] | None = None,
) -> list[str]:
    """Lines of text for one decision joined with its outcome, the scores that it received, and what is known now."""
    context = record["context"] or {}
    lines = [*_lines(record, context, feedback), *_known(record, context, known or {})]
    return [line if line.isprintable() else line.encode("unicode_escape").decode("ascii") for line in lines]


def _lines(
    record: Mapping[str, Any], context: Mapping[str, Any], feedback: Sequence[Mapping[str, Any]]
) -> Sequence[str]:
    if record["error"] == "refused":
        rules = _rules(record, context)
        why = "A ceiling of the budget" if record["reason"] == "budget" else rules or "A rule of the policy"
        return [
            f"Decision {record['id']} at {record['at']}",
            _asked(record, context),
            *_hidden(context),
            f"Nothing was sent: {why} refused the call with status {record['status']}, on route {record['route']}.",
        ]
    return [
        f"Decision {record['id']} at {record['at']}",
        _asked(record, context),
        *_hidden(context),
        _served(record),
        _WHY.get(_reason(record, context), "Reason: {reason}.").format(
            reason=record["reason"],
            arm=record["arm"],
            unit=context.get("unit", "request"),
            decided=context.get("decided") or "unnamed",
        ),
        *_stages(context),
        *_chance(record, context),
        *_left_out(record, context),
        *([f"Taken out of the choice: by {_rules(record, context)}."] if context.get("rules") else []),
        *_drawn(context),
        *_rollout(record),
        _ended(record),
        *_clocks(record),
        _tokens(record),
        _cost(record),
        *_quality(record, context, feedback),
    ]


def _reason(record: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """A canary route's `baseline` is its stable arm, which a promotion replaces; cascades and experiments have reasons
    of their own."""
    if "stages" in context and record["reason"] in ("policy", "fallback"):
        return "handed on" if record["reason"] == "fallback" else "cascade"
    if record["mode"] == "ab" and record["reason"] in ("sampled", "policy"):
        return "drawn" if record["reason"] == "sampled" else "over"
    stable = record["reason"] == "baseline" and record["mode"] == "canary"
    return "stable" if stable else str(record["reason"])


def _rules(record: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """The rules that denied the call or took arms out, as the policy names them; nothing where the row has none."""
    names = [str(name) for name in context.get("rules") or ()]
    if not names:
        return ""
    version = f" of policy {record['policy_version']}" if record["policy_version"] else ""
    return f"{'rules' if len(names) > 1 else 'rule'} {', '.join(names)}{version}"


def _asked(record: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    how = "a stream" if record["stream"] else "one answer"
    model = record["requested_model"] or "no model that could be read"
    size = f", {context['input_bytes']} bytes" if context.get("input_bytes") else ""
    tools = ", with tools" if context.get("tools") else ""
    endpoint = context.get("endpoint", "call")
    return f"Asked: {record['dialect']} {endpoint} for {model}, {how}{size}{tools} (service {record['service']})."


def _hidden(context: Mapping[str, Any]) -> list[str]:
    """Why tags and task are not known."""
    return [f"Tags and task: {context['sealed']}."] if context.get("sealed") else []


def _served(record: Mapping[str, Any]) -> str:
    what = f"{record['upstream']}/{record['model'] or 'the model as asked'}"
    arm = "no arm of the policy" if record["arm"] is None else f"arm {record['arm']}"
    policy = f", policy {record['policy_version']}" if record["policy_version"] else ""
    return f"Served: {what}, {arm}, on route {record['route']} in mode {record['mode']}{policy}."


def _stages(context: Mapping[str, Any]) -> list[str]:
    """What the cascade asked before, and why that was not given."""
    lines = []
    for one in context.get("stages") or ():
        cost = "cost unknown" if one["cost_nusd"] is None else f"${_dollars(one['cost_nusd'])}"
        lines.append(
            f"Before it: arm {one['arm']}, not given because of {one['why']}; {cost}, {_seconds(one['duration_s'])}."
        )
    return lines


def _chance(record: Mapping[str, Any], context: Mapping[str, Any]) -> list[str]:
    share = f"{100 * record['propensity']:.4g} %"
    lines = [f"Probability of this choice: {share}, per {context.get('unit', 'request')}."]
    arms = record["eligible"] or []
    chosen = context.get("decided", record["arm"])
    others = [arm for arm in arms if arm != chosen]
    if others and record["propensity"] >= 1.0:  # by a rollout, say, that has not begun or was rolled back
        lines.append(f"Also able to serve it, but without a chance here: {', '.join(others)}.")
    elif others:
        lines.append(f"Also eligible: {', '.join(others)}.")
    elif arms:
        lines.append("No other arm was eligible.")
    return lines


def _left_out(record: Mapping[str, Any], context: Mapping[str, Any]) -> list[str]:
    """Arms that could not serve the call, as far as the catalogue and the policy know."""
    left_out = context.get("left_out")
    if not isinstance(left_out, Mapping):
        return []
    shut = [str(arm) for arm, why in left_out.items() if why == "breaker"]
    lines = [f"Not offered, breaker: {', '.join(shut)} (too many calls there had failed)."] if shut else []
    left_out = {arm: why for arm, why in left_out.items() if why != "breaker"}
    if not left_out:
        return lines
    size = f"about {context['needs'][1]} tokens" if "needs" in context else "its size unknown"
    lines += [
        f"Left out because they cannot serve this call ({size}): "
        + "; ".join(f"{arm} ({_LACKED.get(str(why), f'no {why}')})" for arm, why in left_out.items())
        + "."
    ]
    crowded = [arm for arm in record["eligible"] or () if arm in left_out]
    if crowded:
        lines.append(
            f"{', '.join(crowded)} was asked all the same: nobody has more room, or the call's state is there."
        )
    return lines


def _rollout(record: Mapping[str, Any]) -> list[str]:
    if record["rollout_id"] is None:
        return []
    experiment, _, variant = str(record["rollout_id"]).partition(":")
    if variant:
        return [
            f"Experiment {experiment} gave it the variant {variant}, by its shares number {record['rollout_step']}."
        ]
    step = "at an unknown step" if record["rollout_step"] is None else f"at {record['rollout_step']} %"
    rollout, _, attempt = str(record["rollout_id"]).partition(".")
    return [f"Rollout {rollout} stood {step}{attempt and f', in attempt {attempt}'}."]


def _ended(record: Mapping[str, Any]) -> str:
    status = "no response" if record["status"] is None else f"status {record['status']}"
    error = "" if record["error"] is None else f", error {record['error']}"
    return f"Outcome: {record['outcome']} with {status}{error}."


def _clocks(record: Mapping[str, Any]) -> list[str]:
    names = {
        "sent_s": "request sent",
        "ttfb_s": "first byte",
        "ttfe_s": "first event",
        "ttft_s": "first token",
        "ttfa_s": "first answer token",
        "duration_s": "end",
    }
    known = [f"{word} {_seconds(record[name])}" for name, word in names.items() if record[name] is not None]
    lines = [f"Clock: {', '.join(known)}."] if known else []
    if record["itl_s"] is not None:
        lines.append(f"Inter-token latency: {_seconds(record['itl_s'])} on average.")
    return lines


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def _tokens(record: Mapping[str, Any]) -> str:
    names = {
        "input_tokens": "input",
        "cached_input_tokens": "of them cached",
        "cache_write_tokens": "written to the cache",
        "output_tokens": "output",
        "reasoning_tokens": "of them reasoning",
    }
    known = [f"{record[name]} {word}" for name, word in names.items() if record[name] is not None]
    if not known:
        return "Tokens: unknown."
    source = "as the provider reports" if record["usage_source"] == "provider" else "estimated"
    return f"Tokens: {', '.join(known)} ({source})."


def _cost(record: Mapping[str, Any]) -> str:
    nano = record["cost_nusd"]
    if nano is None:
        return "Cost: unknown (no usage, or the model has no price here)."
    source = {"policy": "the policy's own price", "provider": "as the provider states it"}.get(
        record["price_version"], f"price list {record['price_version']}"
    )
    return f"Cost: ${_dollars(nano)}, {_KIND.get(record['cost_kind'], 'of unknown kind')}, {source}."


def _dollars(nano: int) -> str:
    return f"{nano // 10**9}.{nano % 10**9:09d}".rstrip("0").ljust(4, "0")


def _quality(record: Mapping[str, Any], context: Mapping[str, Any], feedback: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    if context.get("failed"):
        lines.append(f"The answer did not pass: {', '.join(context['failed'])}.")
    if record["quality"] is not None:
        lines.append(f"Quality: {record['quality']:.3g} by {record['quality_source'] or 'unknown'}.")
    lines += [f"Feedback: {score['score']:.3g} by {score['source']} at {score['at']}." for score in feedback]
    if not lines:
        lines.append("Quality: no evidence.")
    if record["reward"] is None and record["arm"] is not None and record["outcome"] == "completed":
        lines.append("Reward: none; nothing was known of its quality when it ended.")
    elif record["reward"] is None:
        lines.append("Reward: none; this exchange taught the selector nothing.")
    else:
        lines.append(f"Reward: {record['reward']:.3g}.")
    return lines


def _drawn(context: Mapping[str, Any]) -> list[str]:
    """What the selector drew for this call, best first, and the prices that it reckoned with."""
    lines = []
    scores, prices = context.get("scores"), context.get("prices")
    if isinstance(scores, Mapping) and scores:
        known = {arm: worth for arm, worth in scores.items() if worth is not None}
        best_first = sorted(known.items(), key=lambda one: -float(one[1]))
        drawn = ", ".join(f"{arm} {float(worth):.4g}" for arm, worth in best_first)
        lines.append(f"Drawn for this call: {drawn} (quality less what the arm's cost and time are priced at).")
    if isinstance(prices, Mapping) and prices:
        lines.append(f"Prices then: {_prices(prices)}.")
    return lines


def _prices(prices: Mapping[str, Any]) -> str:
    names = {"quality": "for what the objective minimises", "money": "for cost beside it, because of the ceiling"}
    told = ", ".join(f"{float(value):.4g} {names.get(name, name)}" for name, value in prices.items())
    return f"{told} (in points of quality, for as much as a call of the baseline costs)"


def _known(record: Mapping[str, Any], context: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """What stands in the store besides the row: the rollout as it is now, the newest snapshot's posteriors."""
    lines, rollout = [], known.get("rollout")
    if rollout is not None:
        step = "" if rollout["step"] is None else f" at {rollout['step']} %"
        lines.append(f"That rollout now: {rollout['phase']}{step} since {rollout['at']}: {rollout['message']}")
    if known.get("sealed"):
        lines.append(f"What is known now: {known['sealed']}.")
    route = known.get("route")
    if not isinstance(route, Mapping):
        return lines
    try:
        return lines + _posteriors(record, context, route, str(known.get("at")))
    except UNREADABLE:
        return [*lines, "The stored state of this route cannot be read by this version."]


def _posteriors(record: Mapping[str, Any], context: Mapping[str, Any], route: Mapping[str, Any], at: str) -> list[str]:
    beliefs: Mapping[str, Mapping[str, Any]] = route["beliefs"]
    selector = Selector(tuple(beliefs), Objective())
    for arm, belief in beliefs.items():
        restore(selector, arm, belief)
    means, variances = selector.quality()
    task = context.get("task", "")
    here, spread = selector.model.moments(task)
    lines = [f"Known now (state of {at}):"]
    for place, (arm, known) in enumerate(selector.beliefs.items()):
        on_task = f", on task {task} {here[place]:.3f} ± {spread[place] ** 0.5:.3f}" if task else ""
        lines.append(
            f"  {arm}: quality {means[place]:.3f} ± {variances[place] ** 0.5:.3f}{on_task}, {known.samples} labels, "
            f"answers {known.answered.moments()[0]:.1%}"
        )
    for arm, past in (route["staging"].get("resting") or {}).items() if "staging" in route else ():
        if past["rest"] is not None:
            lines.append(f"Out of the choice now: {arm} is {past['rest']['kind']} ({past['rest']['cause']}).")
    if isinstance(prices := route.get("prices"), Mapping):
        lines.append(f"Prices now: {_prices(prices)}.")
    told = {*(record["eligible"] or beliefs), *(context.get("left_out") or ())}
    out = [arm for arm in beliefs if arm not in told]
    if out:
        by = _rules(record, context)
        taken = f"taken out by {by}" if by else "a rule that the row does not name"
        why = f"another dialect, or {taken}"
        lines.append(f"Not eligible for this call: {', '.join(out)} ({why}).")
    return lines
