"""What a policy file says of calls beside and behind a call: more classes of the kind that `written` describes."""

from dataclasses import dataclass, field, replace

from sidecar.config import kinds
from sidecar.config.document import Node, Problems
from sidecar.config.kinds import Kind, key, list_of, struct, within
from sidecar.core import policy as core

_JUDGE, _SHADOW = core.Judge("", ""), core.Shadow("")
_SAMPLE = within(kinds.FRACTION, 0.0001, 1.0)
_DOLLARS = replace(kinds.MONEY, show=lambda nusd: f"{nusd / 1e9:g}")
_DAILY = within(_DOLLARS, 1_000, 10**15)  # a millionth of a dollar at least: less admits no call
_MINUTE = within(kinds.INTEGER, 1, 10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model that grades a sample of finished answers, off the app's path."""

    node: Node
    upstream: str = field(metadata=key(kinds.NAME, "One of `upstreams`; it needs a key of its own on another host."))
    model: str = field(metadata=key(kinds.TEXT, "The model that grades."))
    sample: float = field(
        default=_JUDGE.sample,
        metadata=key(_SAMPLE, "Share of the answers that is graded; of arms with few scores up to four times as many."),
    )
    daily_usd: int = field(
        default=_JUDGE.daily_nusd, metadata=key(_DAILY, "Most it may cost in a UTC day, all pods together.")
    )
    per_minute: int = field(default=_JUDGE.per_minute, metadata=key(_MINUTE, "Most grades in a minute, each pod."))
    criteria: str | None = field(
        default=None, metadata=key(kinds.TEXT, "What makes an answer good, in a sentence or two.")
    )


def read_judge(node: Node, problems: Problems) -> Judge | str:
    """The id of an arm, or a judge; raises Wrong when it is neither."""
    return kinds.NAME.read(node, problems) if node.kind == "scalar" else struct(Judge, "a judge").read(node, problems)


JUDGE = Kind("judge or id of an arm", read_judge)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """A model that gets copies of a sample of finished calls; nobody gets its answers."""

    node: Node
    arm: str = field(metadata=key(kinds.NAME, "One of `arms`."))
    sample: float = field(default=_SHADOW.sample, metadata=key(_SAMPLE, "Share of the finished calls that is copied."))
    daily_usd: int = field(
        default=_SHADOW.daily_nusd, metadata=key(_DAILY, "Most the copies may cost in a UTC day, all pods together.")
    )
    per_minute: int = field(default=_SHADOW.per_minute, metadata=key(_MINUTE, "Most copies in a minute, each pod."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """Whole answers (no streams) are checked before the app gets them; what fails is asked of the next model."""

    node: Node
    arms: tuple[str, ...] = field(metadata=key(list_of(kinds.NAME), "Ids of arms, the weakest first; two at least."))
    on: tuple[str, ...] = field(
        default=(), metadata=key(list_of(kinds.NAME), "Checks, as in `quality.validators`; one that fails escalates.")
    )
    min_confidence: float | None = field(
        default=None,
        metadata=key(
            within(kinds.FRACTION, 0.0001, 1.0),
            "Least mean token probability (geometric), where the app asked for `logprobs`.",
        ),
    )
