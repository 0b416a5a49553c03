"""From the policy as written to the policy as loaded: every check of one value against another stands here.

What is accepted but not acted on by this version, and what probably is not what the writer meant, is a warning.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from sidecar.config import written
from sidecar.config.address import Address, Origin, is_loopback, is_ourselves, parse_origin
from sidecar.config.build_route import RouteBuilder, once
from sidecar.config.document import Node, Problems, quoted
from sidecar.core import policy as core
from sidecar.core import rules
from sidecar.core.catalogue import EMPTY, Catalogue
from sidecar.core.types import Spoken
from sidecar.secrecy import guarded

# Whose price list applies, by host: the names that price lists use.
PROVIDERS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "google",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks",
    "api.cerebras.ai": "cerebras",
    "openrouter.ai": "openrouter",
}
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
MODEL_FACTS = ("model.id", "model.name", "model.upstream")  # known of every arm


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a policy is checked against besides itself: the environment's names, and our own listeners."""

    environ: Mapping[str, str]
    listeners: Sequence[Address] = ()
    catalogue: Catalogue = EMPTY


def build_policy(file: written.PolicyFile, version: str, around: Surroundings, problems: Problems) -> core.Policy:
    """The loaded policy. Valid only when `problems` has no errors afterwards."""
    upstreams = {name: upstream(name, one, around, problems) for name, one in file.upstreams.items()}
    once(file.routes, "name", "route", problems)
    once(file.rules, "id", "rule", problems)
    usable = {name: one for name, one in upstreams.items() if one is not None}
    routes = tuple(RouteBuilder(one, usable, file, problems, around.catalogue).route() for one in file.routes)
    made = tuple(filter(None, routes))
    _warn_of_shadowed(file, problems)
    return core.Policy(
        service=file.service,
        version=version,
        upstreams=usable,
        routes=made,
        rules=tuple(filter(None, (_rule(one, made, problems) for one in file.rules))),
        replicas=file.replicas,
    )


def upstream(name: str, one: written.Upstream, around: Surroundings, problems: Problems) -> core.Upstream | None:
    """The upstream, or None when its URL or key cannot be used."""
    try:
        origin = parse_origin(one.base_url)
    except ValueError as error:
        what, _, fix = str(error).partition("; ")
        problems.add(one.node.find("base_url"), f"{quoted(one.base_url)} {what}", fix)
        return None
    if is_ourselves(origin, around.listeners):
        what = f"{quoted(one.base_url)} is this sidecar itself: its requests would come back for ever"
        problems.add(one.node.find("base_url"), what, "name the server that the calls are for")
    key, ref = _key(one.api_key, around, problems)
    if key != "client" and origin.scheme == "http" and not is_loopback(origin.host):
        problems.warn(one.node.find("base_url"), "the key goes over the network unencrypted", "use https://")
    return core.Upstream(
        name=name,
        dialect=cast("Spoken", one.dialect),
        scheme=origin.scheme,
        host=origin.host,
        port=origin.port,
        prefix=origin.prefix,
        provider=_provider(one.provider, origin),
        price=one.price,
        key=key,
        key_ref=ref,
        usage=cast("Literal['ask', 'never']", one.usage),
        ca_file=one.ca_file,
    )


def _provider(name: str | None, origin: Origin) -> str | None:
    return {"gemini": "google"}.get(name, name) if name else PROVIDERS.get(origin.host)


def _key(
    key: written.ApiKey | None, around: Surroundings, problems: Problems
) -> tuple[Literal["client", "file", "env"], str]:
    if key is None:
        return "client", ""
    given = [value for value in (key.from_, key.file, key.env) if value is not None]
    if len(given) != 1:
        what = "names no key" if not given else "names more than one key"
        problems.add(key.node, what, "write one of {from: client}, {file: PATH}, {env: NAME}")
    if key.file is not None:
        return "file", key.file
    if key.env is not None:
        if not _VARIABLE.fullmatch(key.env):
            problems.add(
                key.node.find("env"), "is not the name of an environment variable", "write its name, not the key"
            )
        elif key.env.startswith("SIDECAR_"):
            what = "begins with SIDECAR_, as settings do: no sidecar starts with one that is none"
            problems.add(key.node.find("env"), what, "give the variable another name")
        elif not around.environ.get(key.env):
            named = guarded(key.env)
            what = f"the environment variable {named} is not set here: calls to this upstream will be refused"
            problems.warn(key.node.find("env"), what, "set it where the sidecar runs, or use {file: PATH}")
        return "env", key.env
    return "client", ""


def _rule(one: written.Rule, routes: Sequence[core.Route], problems: Problems) -> core.Rule | None:
    try:
        when = rules.parse(one.when)
    except ValueError as error:
        what, _, fix = str(error).partition("; ")
        problems.add(one.node.find("when"), what, fix or "see docs/policies.md for the grammar")
        return None
    if one.action == "deny":
        _warn_of_unknown_facts(one, when.names, routes, problems)
    action = cast("Literal['deny', 'filter', 'log']", one.action)
    if action == "filter" and not when.asks_model:
        problems.add(
            one.node.find("action"), "filter needs a condition on the arm", "ask for a model.* fact, or use deny"
        )
    return core.Rule(one.id, when, one.when, action, one.message or f"refused by the rule {one.id}")


def _warn_of_unknown_facts(
    one: written.Rule, names: Iterable[str], routes: Sequence[core.Route], problems: Problems
) -> None:
    for name in sorted(names):
        root, _, fact = name.partition(".")
        if root == "user":
            what = f"requests without the tag {fact!r} are denied: a deny rule denies what it cannot know"
            problems.warn(one.node.find("when"), what, f"make sure that the app sends `x-sidecar-tags: {fact}=...`")
        without = [f"{route.name}/{arm.id}" for route in routes for arm in route.all_arms if fact not in arm.facts]
        if root == "model" and name not in MODEL_FACTS and (without or not routes):
            what = f"no arm's {name} is known" if not routes else f"{name} is not known of {', '.join(without)}"
            fix = f"write `facts: {{{fact}: ...}}` on these arms; until then they are denied"
            problems.warn(one.node.find("when"), what, fix)


def _warn_of_shadowed(file: written.PolicyFile, problems: Problems) -> None:
    for index, route in enumerate(file.routes[:-1]):
        match = route.match
        if match is None or not (match.models or match.paths or match.tags or match.tenant):
            what = f"matches everything, so the routes after it never serve ({file.routes[index + 1].name}, ...)"
            problems.warn(route.node, what, "move it to the end, or write `match`")


def canonical(node: Node) -> object:
    """The content of a file without its layout: files that differ in comments and order of keys only are equal."""
    if node.kind == "map":
        return {name: canonical(below) for name, below in node.entries.items()}
    if node.kind == "list":
        return [canonical(item) for item in node.items]
    if node.is_empty:
        return None
    return [node.tag, node.text] if node.tag in ("int", "float", "bool") else node.text
