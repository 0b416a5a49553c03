"""What an arm can do: what the catalogue says of its model, and what the policy says instead."""

from collections.abc import Sequence
from typing import Final

from sidecar.config import written
from sidecar.config.document import Problems
from sidecar.config.written_catalogue import Capabilities as Written
from sidecar.core import policy as core
from sidecar.core.abilities import NEEDS, UNKNOWN, Capabilities
from sidecar.core.catalogue import Catalogue

_WARNED: Final = ("tools", "json_schema", "thinking")


def capabilities_of(arm: written.Arm, upstream: core.Upstream | None, catalogue: Catalogue) -> Capabilities:
    """What is known of this arm; the policy's word stands before the catalogue's. `upstream` None: it cannot be used."""
    listed = UNKNOWN if upstream is None else catalogue.lookup(upstream.provider or _alone(upstream), arm.model)
    return listed if arm.capabilities is None else stated(arm.capabilities).over(listed)


def _alone(upstream: core.Upstream) -> str | None:
    """The provider where the dialect alone says whose models they are: nobody else's server is known to speak it."""
    return {"cohere": "cohere", "bedrock": "aws"}.get(upstream.dialect)


def stated(one: Written) -> Capabilities:
    """The capabilities as loaded."""
    return Capabilities(
        **{name: bool(value) for name in NEEDS if (value := getattr(one, name)) is not None},
        context_tokens=one.context_tokens,
        max_output_tokens=one.max_output_tokens,
        languages=one.languages,
        regions=one.regions,
    )


def warn_of_gaps(arms: Sequence[written.Arm], built: Sequence[core.Arm], problems: Problems) -> None:
    """A warning for each arm that can never serve a kind of call which the baseline (the first) is known to serve.

    Images, documents and audio are left out: most apps send none, and `status` says which arms take them.
    """
    able = [name for name in _WARNED if getattr(built[0].capabilities, name)]
    for one, arm in zip(arms[1:], built[1:], strict=True):
        missing = [name for name in able if getattr(arm.capabilities, name) is False]
        if missing:
            what = f"{arm.model!r} cannot serve calls that need {' or '.join(missing)}, which the baseline can"
            fix = "such calls stay with the other arms; where it is wrong write `capabilities: {...: true}` on the arm"
            problems.warn(one.node, what, fix)
