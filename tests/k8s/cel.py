"""A MutatingAdmissionPolicy at work: its CEL expressions by a real implementation of CEL, a pod in, RFC 6902 operations out.

The language is real: parser, macros and operators are those of the package common-expression-language (Rust). Simulated is
what the API server adds to it:

* `JSONPatch{...}` and `Object.spec...{...}` are rewritten into map literals with the same members. So the names of types
  are not checked here, nor that lists and maps hold one type: the Rust implementation checks no types.
* Kubernetes' functions on texts and lists that the package lacks (FUNCTIONS) are Python, as the CEL documentation has them.
* `variables.NAME` is one name here, evaluated when it is first asked for, as the API server does.

What the API server lets an expression see is held by `faults`. Not simulated: cost limits, matchConstraints, bindings. The
same expressions were once run through cel-go with the patch types of Kubernetes 1.36.2 and 1.37 beta: equal operations.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import cel

Json = dict[str, Any]
TOKEN: Final = re.compile(
    r"""(?P<space>\s+|//[^\n]*)|(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<name>[A-Za-z_]\w*)|(?P<other>\d+|[^\s\w])""",
    re.DOTALL,
)
_PATCH_TYPES: Final = ("JSONPatch", "Object")


def _flatten(found: list[Any]) -> list[Any]:
    return [item for one in found for item in (one if isinstance(one, list) else [one])]


def _last_index_of(found: Any, wanted: Any) -> int:
    if isinstance(found, str):
        return found.rfind(wanted)
    return max((index for index, item in enumerate(found) if item == wanted), default=-1)


def _find(text: str, pattern: str) -> str:
    hit = re.search(pattern, text)
    return hit[0] if hit else ""


FUNCTIONS: Final = {
    "distinct": lambda found: list(dict.fromkeys(found)),
    "find": _find,
    "flatten": _flatten,
    "join": lambda found, between: between.join(found),
    "jsonpatch.escapeKey": lambda key: key.replace("~", "~0").replace("/", "~1"),
    "lastIndexOf": _last_index_of,
    "lists.range": lambda count: list(range(count)),
    "split": lambda text, at: text.split(at),
    "substring": lambda text, *between: text[slice(*between)] if len(between) == 2 else text[between[0] :],
    "trim": lambda text: text.strip(),
}


class CelError(Exception):
    """An expression that the API server could not evaluate either; names the expression."""


class Policy:
    """A rendered MutatingAdmissionPolicy. `operations` may be asked for any number of pods, all of one namespace."""

    def __init__(self, policy: Json, namespace: Json | None = None) -> None:
        """`namespace`: labels and annotations of the pods' namespace."""
        self._namespace = {"metadata": {"name": "shop"} | (namespace or {})}
        spec = policy["spec"]
        self._conditions = {one["name"]: _program(one["expression"]) for one in spec["matchConditions"]}
        self._variables = {one["name"]: _program(one["expression"]) for one in spec["variables"]}
        (mutation,) = spec["mutations"]
        self._mutation = _program(mutation["jsonPatch"]["expression"])

    def operations(self, pod: Json) -> list[Json] | None:
        """What the mutation makes of the pod; None where a matchCondition keeps the policy out. Raises CelError."""
        scope = _Scope(pod, self._variables, self._namespace)
        if not all(scope.value(name, program) is True for name, program in self._conditions.items()):
            return None
        made: list[Json] = scope.value("the mutation", self._mutation)
        return made


def evaluate(expression: str, pod: Json) -> Any:
    """The value of one expression without variables, such as a validation's."""
    return _Scope(pod, {}).value("the expression", _program(expression))


class _Scope:
    """One pod's evaluation: every variable once, when it is needed."""

    def __init__(self, pod: Json, variables: dict[str, Any], namespace: Json | None = None) -> None:
        self._variables, self._known = variables, dict[str, Any]()
        self._broken: CelError | None = None
        self._context = cel.Context({"object": pod, "namespaceObject": namespace}, FUNCTIONS)
        self._context.set_variable_resolver(self._variable)

    def value(self, name: str, program: Any) -> Any:
        try:
            return program.execute(self._context)
        except Exception as error:
            raise self._broken or CelError(f"{name}: {error}") from error

    def _variable(self, asked: str) -> Any:
        name = asked.removeprefix("variables_")
        if name not in self._known and name in self._variables:
            try:
                self._known[name] = self.value(name, self._variables[name])
            except CelError as error:  # the package would only say that there is no such variable
                self._broken = error
                raise
        return self._known.get(name)


def _program(expression: str) -> Any:
    return cel.compile("".join(_plain(expression)).replace("variables.", "variables_"))


def tokens(expression: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of each token, without space and comments."""
    for found in TOKEN.finditer(expression):
        if found.lastgroup != "space":
            yield str(found.lastgroup), found[0]


def _plain(expression: str) -> Iterator[str]:
    """The expression with message literals as map literals: `Object.a{b: 1}` is `{"b": 1}`."""
    found = list(tokens(expression))
    braces: list[bool] = []  # of each open bracket, whether it is a message's
    at = 0
    while at < len(found):
        kind, text = found[at]
        if kind == "name" and text in _PATCH_TYPES and (at == 0 or found[at - 1][1] != "."):
            while found[at][1] != "{":
                at += 1
            braces.append(True)
            yield "{"
        elif text in ("{", "[", "("):
            braces.append(False)
            yield text
        elif text in ("}", "]", ")"):
            braces.pop()
            yield text
        elif kind == "name" and braces and braces[-1] and found[at - 1][1] in ("{", ",") and found[at + 1][1] == ":":
            yield f'"{text}"'
        else:
            yield f" {text} " if kind == "name" and text == "in" else text
        at += 1


def faults(policy: Json) -> list[str]:
    """Each expression that asks for more than the API server lets it see.

    Variables and matchConditions know neither JSONPatch nor Object; matchConditions know no variables; a variable knows
    those before it.
    """
    spec = policy["spec"]
    said = [
        f"{one['name']} builds a patch"
        for one in (*spec["variables"], *spec["matchConditions"])
        if {text for kind, text in tokens(one["expression"]) if kind == "name"} & set(_PATCH_TYPES)
    ]
    before: set[str] = set()
    for one in spec["variables"]:
        said += [f"{one['name']} uses {name} before it is there" for name in _used(one["expression"]) - before]
        before.add(one["name"])
    said += [f"{one['name']} uses variables" for one in spec["matchConditions"] if _used(one["expression"])]
    mutation = spec["mutations"][0]["jsonPatch"]["expression"]
    return said + [f"the mutation uses {name}, which is not there" for name in _used(mutation) - before]


def _used(expression: str) -> set[str]:
    found = [text for _, text in tokens(expression)]
    return {found[at + 2] for at, text in enumerate(found[:-2]) if text == "variables" and found[at + 1] == "."}
