"""The governance language: one job, to say whether an expression over facts holds, does not hold, or cannot be known.

    expression := and ("||" and)*          and := unary ("&&" unary)*        unary := "!" unary | comparison
    comparison := value (("==" | "!=" | "<" | "<=" | ">" | ">=") value | ["!"] "in" "[" literal ("," literal)* "]")?
    value      := name | number | 'text' | "text" | true | false | "(" expression ")"

Names: `daily_cost`, `monthly_cost` (US dollars that this service spent in the present UTC day or month), `request.*`
(see REQUEST_FACTS), `user.*` (the request's tags), `model.*` (the arm's facts of the policy, and `id`, `name`,
`upstream`), `change.*` (`kind`, `route`, `arm`, and what the change itself says, as `step`: `core.cycle`).

Logic is Kleene's strong three-valued one (S. C. Kleene, Introduction to Metamathematics, 1952, section 64): a fact
that is not known makes a comparison unknown, `false && unknown` is false, `true || unknown` is true, everything else
with unknown is unknown. So an unknown fact matters only where it could change the answer; a deny rule then denies.

Tags are text: against a number, text that reads as a number is compared as that number, against true/false the words
`true` and `false` are; any other comparison of different kinds is unknown, never quietly false. An expression has at
most MAX_TEXT characters and nests at most MAX_DEPTH deep, so that a policy file cannot exhaust the parser.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne

Value = str | float | bool
Env = Mapping[str, Value]
Node = Callable[[Env], Value | None]

MAX_TEXT = 4096
MAX_DEPTH = 32
REQUEST_FACTS = (
    "request.model",
    "request.endpoint",
    "request.dialect",
    "request.path",
    "request.stream",
    "request.tools",
    "request.max_tokens",
    "request.input_tokens_estimate",
)
PLAIN_NAMES = ("daily_cost", "monthly_cost", *REQUEST_FACTS)
OPEN_ROOTS = ("user", "model", "change")

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?\d+(?:\.\d+)?) | (?P<text>'[^']*'|"[^"]*") | (?P<name>[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)
    | (?P<op>\|\||&&|==|!=|<=|>=|[<>!()\[\],]) )""",
    re.VERBOSE,
)
_COMPARE: Mapping[str, Callable[[Value, Value], bool]] = {
    "==": eq,
    "!=": ne,
    "<": lt,
    "<=": le,
    ">": gt,
    ">=": ge,
}
_HINTS = {
    "=": "use == to compare",
    "&": "use && for and",
    "|": "use || for or",
    "'": "close the quotation mark",
    '"': "close the quotation mark",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed condition. `names` are all facts that it mentions."""

    text: str
    names: frozenset[str]
    node: Node

    def evaluate(self, env: Env) -> bool | None:
        """True, False, or None when facts that `env` lacks decide. A value that is no truth value is unknown."""
        value = self.node(env)
        return value if isinstance(value, bool) else None

    @property
    def asks_model(self) -> bool:
        """Whether the answer depends on the arm, so that the rule can filter arms before it denies the request."""
        return any(name.startswith("model.") for name in self.names)

    @property
    def asks_change(self) -> bool:
        """Whether the rule is about changes (rollout steps, tuning) and not about requests."""
        return any(name.startswith("change.") for name in self.names)

    @property
    def asks_request(self) -> bool:
        """Whether the answer depends on one request."""
        return any(name.startswith(("request.", "user.")) for name in self.names)


def parse(text: str) -> Expression:
    """The expression that `text` says. Raises ValueError with the position (from 1) and how to repair it."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"longer than {MAX_TEXT} characters; split it into several rules")
    parser = _Parser(text)
    node = parser.disjunction(0)
    if parser.kind != "end":
        raise parser.error(f"unexpected {parser.token!r}", "join conditions with && or ||")
    return Expression(text, frozenset(parser.names), node)


class _Parser:
    """Recursive descent over one expression, one token ahead."""

    def __init__(self, text: str) -> None:
        self.text, self.names, self.next = text, set[str](), 0
        self.kind, self.token, self.start = "end", "", 0
        self.advance()

    def error(self, what: str, hint: str) -> ValueError:
        return ValueError(f"position {self.start + 1}: {what}; {hint}")

    def advance(self) -> None:
        """Reads the next word into `kind` and `token`; raises ValueError at a sign that the language does not have."""
        found = _TOKEN.match(self.text, self.next)
        if found is not None:
            self.kind, self.token = str(found.lastgroup), found[str(found.lastgroup)]
            self.start, self.next = found.start(str(found.lastgroup)), found.end()
            return
        rest = self.text[self.next :]
        self.start = self.next + len(rest) - len(rest.lstrip())
        if rest.strip():
            sign = rest.strip()[0]
            raise self.error(f"cannot read {sign!r}", _HINTS.get(sign, "see the grammar of rules in the docs"))
        self.kind, self.token = "end", "the end"

    def take(self, operator: str) -> bool:
        if self.kind == "op" and self.token == operator:
            self.advance()
            return True
        return False

    def require(self, operator: str) -> None:
        if not self.take(operator):
            raise self.error(f"unexpected {self.token!r}", f"expected {operator!r}")

    def disjunction(self, depth: int) -> Node:
        node = self.conjunction(depth)
        while self.take("||"):
            node = _either(node, self.conjunction(depth))
        return node

    def conjunction(self, depth: int) -> Node:
        node = self.unary(depth)
        while self.take("&&"):
            node = _both(node, self.unary(depth))
        return node

    def unary(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self.error("nested too deep", f"at most {MAX_DEPTH} levels; split the rule")
        if self.take("!"):
            return _negated(self.unary(depth + 1))
        return self.comparison(depth)

    def comparison(self, depth: int) -> Node:
        """One value, or two with a sign between them, or a value `in` a list; raises ValueError for anything else."""
        left = self.value(depth)
        if self.kind == "op" and self.token in _COMPARE:
            operator = _COMPARE[self.token]
            self.advance()
            return _compared(left, operator, self.value(depth))
        if self.kind == "name" and self.token == "in":  # noqa: S105 - a word of the language
            self.advance()
            return _member(left, self.literals())
        return left

    def literals(self) -> tuple[Value, ...]:
        self.require("[")
        found = [self.literal()]
        while self.take(","):
            found.append(self.literal())
        self.require("]")
        return tuple(found)

    def literal(self) -> Value:
        kind, token = self.kind, self.token
        if kind not in ("number", "text") and token not in ("true", "false"):
            raise self.error(f"unexpected {token!r}", "a list holds numbers, 'texts', true and false")
        self.advance()
        if kind == "number":
            return float(token)
        return token[1:-1] if kind == "text" else token == "true"  # noqa: S105 - as above

    def value(self, depth: int) -> Node:
        """A fact, a constant, or an expression in brackets; raises ValueError for anything else."""
        if self.take("("):
            node = self.disjunction(depth + 1)
            self.require(")")
            return node
        if self.kind == "name" and self.token not in ("true", "false"):
            return _named(self.name())
        if self.kind in ("op", "end"):
            raise self.error(f"unexpected {self.token!r}", "expected a name, a number or a 'text'")
        return _constant(self.literal())

    def name(self) -> str:
        """A known fact's name, noted in `names`; raises ValueError, with the nearest name, for an unknown one."""
        name = self.token
        root, _, rest = name.partition(".")
        if name not in PLAIN_NAMES and not (root in OPEN_ROOTS and rest):
            from difflib import get_close_matches  # for a mistake alone

            near = get_close_matches(name, [*PLAIN_NAMES, *(f"{root}." for root in OPEN_ROOTS)], 1)
            hint = f"did you mean {near[0]}" if near else "text needs quotation marks; facts are user.*, model.*, "
            raise self.error(f"unknown fact {name!r}", hint if near else hint + ", ".join(PLAIN_NAMES))
        self.names.add(name)
        self.advance()
        return name


def _constant(value: Value) -> Node:
    return lambda _env: value


def _named(name: str) -> Node:
    return lambda env: env.get(name)


def _truth(value: Value | None) -> bool | None:
    return value if isinstance(value, bool) else None


def _negated(node: Node) -> Node:
    def negation(env: Env) -> bool | None:
        value = _truth(node(env))
        return None if value is None else not value

    return negation


def _both(left: Node, right: Node) -> Node:
    def conjunction(env: Env) -> bool | None:
        first = _truth(left(env))
        if first is False:
            return False
        second = _truth(right(env))
        if second is False:
            return False
        return True if first and second else None

    return conjunction


def _either(left: Node, right: Node) -> Node:
    def disjunction(env: Env) -> bool | None:
        first = _truth(left(env))
        if first is True:
            return True
        second = _truth(right(env))
        if second is True:
            return True
        return None if first is None or second is None else False

    return disjunction


def _compared(left: Node, operator: Callable[[Value, Value], bool], right: Node) -> Node:
    def comparison(env: Env) -> bool | None:
        pair = _alike(left(env), right(env))
        return None if pair is None else operator(*pair)

    return comparison


def _member(left: Node, members: tuple[Value, ...]) -> Node:
    def membership(env: Env) -> bool | None:
        value = left(env)
        pairs = [_alike(value, member) for member in members]
        if any(pair is not None and pair[0] == pair[1] for pair in pairs):
            return True
        return None if any(pair is None for pair in pairs) else False

    return membership


def _alike(left: Value | None, right: Value | None) -> tuple[Value, Value] | None:
    """Both values as one kind (numbers, truth values or texts), or None when that is impossible."""
    if left is None or right is None:
        return None
    if type(left) is type(right):
        return left, right
    if isinstance(left, str):
        other = _as_kind_of(right, left)
        return None if other is None else (other, right)
    if isinstance(right, str):
        other = _as_kind_of(left, right)
        return None if other is None else (left, other)
    if isinstance(left, bool) or isinstance(right, bool):
        return None
    return float(left), float(right)


def _as_kind_of(sample: Value, text: str) -> Value | None:
    if isinstance(sample, bool):
        return {"true": True, "false": False}.get(text)
    try:
        return float(text)
    except ValueError:
        return None
