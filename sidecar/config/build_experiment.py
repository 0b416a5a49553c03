"""A route's experiment, from as written to as loaded: its variants, their prompts, and what they need."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from sidecar.config import written
from sidecar.config.document import Node, Problems, nearest
from sidecar.config.files import fault
from sidecar.config.written_experiment import MAX_PROMPT, Experiment, System, Variant
from sidecar.core import policy as core
from sidecar.core.variants import Compress, Constraints, Edit, FewShotTrim, Replace, Structure

_TAKEN = {"model": "the arm", "stream": "the app", "stream_options": "`usage` of the upstream"}


def with_experiment(route: core.Route, one: written.Route, replicas: int, problems: Problems) -> core.Route:
    """`route` with its experiment; what is wrong with that is told."""
    spec = one.experiment
    if spec is None:
        if one.mode == "ab":
            problems.add(one.node.find("mode"), "ab has nothing to compare", "add `experiment` with its variants")
        return route
    if one.mode != "ab":
        problems.warn(spec.node, f"means nothing in mode {one.mode}", "use mode ab")
    if not 2 <= len(spec.variants) <= 5:
        what = f"{len(spec.variants)} variants cannot be compared"
        problems.add(spec.node.find("variants"), what, "write two to five; the first is the control")
    _check_ids(spec, problems)
    return replace(
        route,
        experiment=core.ExperimentSpec(
            variants=tuple(_variant(variant, route, problems) for variant in spec.variants),
            metric=cast("Literal['quality', 'cost', 'latency', 'ttft', 'error_rate']", spec.metric),
            allocation=cast("Literal['uniform', 'adaptive']", spec.allocation),
            alpha=spec.alpha,
            min_samples=spec.min_samples,
            min_effect=spec.min_effect,
            max_duration_s=spec.max_duration,
            on_winner=cast("Literal['report', 'promote']", spec.on_winner),
            replicas=replicas,
        ),
    )


def _check_ids(spec: Experiment, problems: Problems) -> None:
    first: dict[str, Variant] = {}
    for variant in spec.variants:
        other = first.setdefault(variant.id, variant)
        if other is not variant:
            what = f"variant {variant.id!r} exists already (line {other.node.line})"
            problems.add(variant.node.find("id"), what, "give each variant its own id")
        elif ":" in variant.id:
            problems.add(variant.node.find("id"), "has a colon", "use letters, digits and . _ -")


def _variant(one: Variant, route: core.Route, problems: Problems) -> core.Variant:
    known = [arm.id for arm in route.all_arms]
    arm = one.arm or route.baseline.id
    if arm not in known:
        problems.add(one.node.find("arm"), f"arm {arm!r} is not in this route", nearest(arm, known))
    for name in sorted(_TAKEN.keys() & one.params.keys()):
        problems.add(one.node.find("params", name), f"is decided by {_TAKEN[name]}", "remove it")
    params = tuple((name, json.dumps(value, separators=(",", ":")).encode()) for name, value in one.params.items())
    system = () if one.system is None else tuple(_edits(one.system, problems))
    return core.Variant(one.id, arm, params, system, one.weight)


def _edits(one: System, problems: Problems) -> list[Edit]:
    if one.text is not None and one.file is not None:
        problems.add(one.node, "has both `text` and `file`", "keep one of them")
    if one.text is None and one.file is None and not one.generate:
        problems.add(one.node, "changes nothing", "write `text`, `file` or `generate`")
    for key, name in (("keep", "few_shot_trim"), ("constraints", "constraints")):
        if key in one.node.entries and name not in one.generate:
            problems.add(one.node.find(key), f"means nothing without `generate: {name}`", f"add {name} to `generate`")
    edits: list[Edit] = []
    if one.text is not None:
        edits.append(Replace(one.text))
    elif one.file is not None:
        edits.append(Replace(_prompt(one.file, one.node.find("file"), problems)))
    for name in one.generate:
        if name == "constraints" and not one.constraints:
            problems.add(one.node.find("generate"), "constraints has nothing to add", "add `constraints`: a list")
        made: dict[str, Edit] = {
            "compress": Compress(),
            "structure": Structure(),
            "few_shot_trim": FewShotTrim(one.keep),
            "constraints": Constraints(one.constraints),
        }
        edits.append(made[name])
    return edits


def _prompt(file: str, node: Node, problems: Problems) -> str:
    path = Path(problems.file).parent / file
    try:
        text = problems.content(file).decode("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        problems.add(node, f"{path} {fault(error)}", "name a readable UTF-8 text file")
        return ""
    if not text.strip() or len(text) > MAX_PROMPT:
        problems.add(node, f"{path} has {len(text)} characters", f"a prompt has 1 to {MAX_PROMPT}")
    return text
