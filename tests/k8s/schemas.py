"""Whether the API server would take an object: the strict schemas of each Kubernetes version (package kubernetes-validate),
and, for the kinds of operators, schemas of our own that hold the members that the chart writes and nothing else.

What a schema does not know: defaults, immutable members, whether what is named exists, and what admission says.
"""

import functools
import json
from typing import Any, Final

import jsonschema
import kubernetes_validate.utils as package
from referencing import Registry, Resource

OLDEST, NEWEST = 29, 37
VERSIONS: Final = tuple(f"1.{minor}" for minor in range(OLDEST, NEWEST + 1))
Schema = dict[str, Any]
_TEXT: Final[Schema] = {"type": "string", "minLength": 1}
_TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
_DURATION: Final[Schema] = {"type": "string", "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "minLength": 2}


def _closed(required: str = "", **members: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": members}


def _list(items: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": items}


_SELECTOR: Final = _closed(matchLabels=_TEXTS, matchExpressions={"type": "array", "items": {"type": "object"}})
_RULE: Final = _closed(
    "expr", alert=_TEXT, record=_TEXT, expr=_TEXT, labels=_TEXTS, annotations=_TEXTS,
    **{"for": _DURATION, "keep_firing_for": _DURATION},
)  # fmt: skip
_ISSUER: Final = _closed("name", name=_TEXT, kind=_TEXT, group=_TEXT)
_CUSTOM: Final[dict[tuple[str, str], Schema]] = {
    ("monitoring.coreos.com/v1", "PodMonitor"): _closed(
        "selector podMetricsEndpoints",
        selector=_SELECTOR,
        namespaceSelector=_closed(any={"type": "boolean"}, matchNames=_list(_TEXT)),
        podMetricsEndpoints=_list(_closed("port", port=_TEXT, path=_TEXT, interval=_DURATION)),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _closed(
        "groups", groups=_list(_closed("name rules", name=_TEXT, interval=_DURATION, rules=_list(_RULE)))
    ),
    ("cert-manager.io/v1", "Issuer"): {
        **_closed(selfSigned=_closed(), ca=_closed("secretName", secretName=_TEXT)),
        "minProperties": 1,
        "maxProperties": 1,
    },
    ("cert-manager.io/v1", "Certificate"): _closed(
        "secretName issuerRef",
        secretName=_TEXT, issuerRef=_ISSUER, isCA={"type": "boolean"}, commonName={**_TEXT, "maxLength": 64},
        dnsNames=_list(_TEXT), duration=_DURATION, renewBefore=_DURATION,
        usages=_list({"enum": ["digital signature", "server auth", "key encipherment"]}),
        privateKey=_closed(
            algorithm={"enum": ["ECDSA", "RSA"]}, size={"type": "integer"}, rotationPolicy={"enum": ["Always", "Never"]}
        ),
    ),
}  # fmt: skip


def is_custom(one: dict[str, Any]) -> bool:
    """Whether the kind is an operator's, which Kubernetes has no schema of."""
    return (one["apiVersion"], one["kind"]) in _CUSTOM


def faults(one: dict[str, Any], version: str) -> list[str]:
    """Each way in which the object breaks the strict schema of this Kubernetes version."""
    return _faults(json.dumps(one, sort_keys=True), version)


@functools.cache
def _faults(text: str, version: str) -> list[str]:
    one = json.loads(text)
    if is_custom(one):
        validator = jsonschema.Draft202012Validator(_custom(one["apiVersion"], one["kind"]))
    else:
        group = one["apiVersion"].split("/")
        file = "-".join([one["kind"].lower(), group[0].split(".")[0], *group[1:]])
        validator = _validator(file, version)
    return [
        f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"
        for error in validator.iter_errors(one)
    ]


def _custom(version: str, kind: str) -> Schema:
    metadata = _closed("name labels", name=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS)
    return _closed(
        "apiVersion kind metadata spec", apiVersion=_TEXT, kind=_TEXT, metadata=metadata, spec=_CUSTOM[version, kind]
    )


@functools.cache
def _validator(file: str, version: str) -> jsonschema.Draft202012Validator:
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    schema = package.schema_contents(f"{folder}/{file}.json", version)
    registry: Registry[Any] = Resource.from_contents(schema) @ _definitions(folder, version)
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _definitions(folder: str, version: str) -> Any:
    return Resource.from_contents(package.schema_contents(f"{folder}/_definitions.json", version)) @ Registry()
