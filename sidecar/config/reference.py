"""The reference of the policy file as Markdown tables, made from the classes that read it: it cannot be stale."""

import dataclasses
from typing import cast

from sidecar.config.kinds import Kind
from sidecar.config.written import SECTIONS

# Where in the file each class stands, as a reader would write its key path.
PLACES = {
    "PolicyFile": "The file",
    "Upstream": "`upstreams.<name>`",
    "ApiKey": "`upstreams.<name>.api_key`",
    "Price": "`upstreams.<name>.price`",
    "Route": "`routes[]`",
    "Match": "`routes[].match`",
    "Arm": "`routes[].baseline` and `routes[].arms[]`",
    "Capabilities": "`routes[].baseline.capabilities` and `routes[].arms[].capabilities`",
    "Prior": "`routes[].baseline.prior` and `routes[].arms[].prior`",
    "Context": "`routes[].context`",
    "Objective": "`routes[].objective`",
    "Weights": "`routes[].objective.weights`",
    "Rollout": "`routes[].rollout`",
    "Promote": "`routes[].rollout.promote`",
    "Guardrails": "`routes[].rollout.guardrails`",
    "Fallback": "`routes[].fallback`",
    "Budget": "`routes[].budget`",
    "Quality": "`routes[].quality`",
    "Source": "`routes[].quality.sources.<name>`",
    "Implicit": "`routes[].quality.implicit`",
    "Judge": "`routes[].quality.judge`",
    "Shadow": "`routes[].shadow`",
    "Cascade": "`routes[].cascade`",
    "Experiment": "`routes[].experiment`",
    "Variant": "`routes[].experiment.variants[]`",
    "System": "`routes[].experiment.variants[].system`",
    "Threshold": "`routes[].thresholds[]`",
    "Drift": "`routes[].drift`",
    "Anomalies": "`routes[].anomalies`",
    "Tuning": "`routes[].tuning`",
    "Knob": "`routes[].tuning.<parameter>`",
    "Changes": "`routes[].changes`",
    "Rule": "`rules[]`",
}


def tables() -> str:
    """One section for each map of the file: its sentence, and a row for each key with type, default and meaning."""
    return "\n".join(_section(cls) for cls in SECTIONS)


def _section(cls: type) -> str:
    rows = [_row(field) for field in dataclasses.fields(cls) if field.metadata]
    head = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([f"### {PLACES[cls.__name__]}", "", cls.__doc__ or "", "", *head, *rows, ""])


def _row(field: "dataclasses.Field[object]") -> str:
    kind = cast("Kind[object]", field.metadata["kind"])
    if field.default is not dataclasses.MISSING:
        default = "-" if field.default is None else f"`{kind.show(field.default)}`"
    else:
        default = "**required**" if field.default_factory is dataclasses.MISSING else "`{}`"
    return f"| `{field.name.rstrip('_')}` | {kind.label} | {default} | {field.metadata['doc']} |"
