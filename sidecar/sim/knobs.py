"""The knobs of the simulated provider: what each model is like, what goes wrong, and how both are read from YAML.

A file is a mapping with the members of `SimConfig`; `models` maps a model's name to the members of `SimulatedModel`,
and `default` describes every model that is not listed. A distribution is a number (constant) or
`{kind: lognormal, mean: 0.4, cv: 0.5, low: 0.05, high: 5}`; `cv` is deviation divided by mean. Seconds everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np
import yaml

from sidecar.errors import ConfigError

Kind = Literal[
    "status",  # answers `status` in the dialect, with Retry-After and rate-limit headers
    "reset_before",  # resets the connection instead of answering
    "reset_after",  # resets it after `after_bytes` bytes of the answer
    "stall",  # falls silent after `after_tokens` tokens (0: before the head) and keeps the connection open
    "truncate",  # closes the connection after `after_tokens` tokens, without the end that framing asks for
    "no_done",  # ends well-formed after `after_tokens` tokens, without the dialect's terminal event
    "error_event",  # sends the dialect's error event after `after_tokens` tokens, then ends well-formed
    "drip",  # sends `drip_bytes` bytes every `interval_s`
    "garbage_head",  # sends bytes that are not HTTP
    "garbage_body",  # sends a well-formed head and a body or an event that is not JSON
    "slow",  # adds `extra_s` before the first token
    "wrong",  # answers wrongly: quality falls by `rate`
]


@dataclass(frozen=True, slots=True)
class Distribution:
    """A positive quantity: its mean, and its coefficient of variation unless it is constant; clipped to low..high."""

    mean: float
    kind: Literal["constant", "lognormal", "gamma"] = "constant"
    cv: float = 0.5
    low: float = 0.0
    high: float = 1e9

    def sample(self, rng: np.random.Generator, size: int) -> list[float]:
        """`size` draws. A mean of 0 is constant whatever the kind."""
        if self.kind == "constant" or self.mean <= 0 or self.cv <= 0:
            return [min(max(self.mean, self.low), self.high)] * size
        if self.kind == "lognormal":
            sigma2 = float(np.log1p(self.cv**2))
            drawn = rng.lognormal(np.log(self.mean) - sigma2 / 2, sigma2**0.5, size)
        else:
            drawn = rng.gamma(1 / self.cv**2, self.mean * self.cv**2, size)
        clipped: list[float] = np.clip(drawn, self.low, self.high).tolist()
        return clipped


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """What one model is like. Times are after the read that completed the request."""

    ttft: Distribution = Distribution(0.0)  # first token; a constant is kept to 0.3 ms
    ttfb: Distribution | None = None  # response head; None: with the first event
    ttfe: Distribution | None = None  # first event (role, message_start); None: with the first token
    itl: Distribution = Distribution(0.0)  # between token chunks
    output_tokens: Distribution = Distribution(24)  # of the answer, without reasoning
    reasoning_tokens: Distribution = Distribution(0)
    reasoning_visible: bool = False  # reasoning is streamed (reasoning_content, thinking), not only counted
    quality: float = 1.0  # true probability that a sum in the answer is right; leaves only inside the answer's text
    skills: Mapping[str, float] = field(default_factory=dict)  # instead of it, where the request has this word
    quality_concentration: float | None = None  # Beta(q k, (1-q) k) per answer, so that sums of one answer are alike
    sums: int = 1  # arithmetic results in an answer
    malformed: float = 0.0  # probability that tool arguments or schema output break their schema
    refusal: float = 0.0  # probability that the model says no
    filtered: float = 0.0  # probability that a content filter ends the answer after half of its tokens
    blocked: float = 0.0  # probability that a content filter refuses the prompt: no token is generated
    tool_rate: float = 1.0  # probability of a tool call when tools are given and none has answered yet
    tool_calls: int = 1  # calls at once, over the given tools in turn; one where the request forbids more
    tool_pieces: int = 4  # tokens in which the arguments are streamed
    tokens_per_chunk: int = 1
    cached_fraction: float = 0.0  # of the prompt's tokens that are reported as cached
    version: str = ""  # the model's name in answers (Azure's deployments, dated snapshots); empty: as it was asked for
    # chat completions as Mistral writes them; None: by the name (mistral-*, codestral-*...)
    mistral: bool | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with probability `rate`, for `models` (empty: all)."""

    kind: Kind
    rate: float = 1.0
    models: tuple[str, ...] = ()
    status: int = 503
    retry_after_s: float | None = None  # sent as Retry-After in whole seconds, at least 1; Gemini says it in the body
    after_tokens: int = 0
    after_bytes: int = 0
    drip_bytes: int = 1
    interval_s: float = 0.001
    extra_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SimConfig:
    """One simulated provider. Two with the same seed and the same requests in the same order answer the same."""

    models: Mapping[str, SimulatedModel] = field(default_factory=dict)
    default: SimulatedModel = SimulatedModel()
    known_models_only: bool = False  # a model that is not listed is a 404
    keys: tuple[str, ...] = ()  # accepted credentials; empty: none asked
    faults: tuple[Fault, ...] = ()
    seed: int = 1
    requests_kept: int = 0  # raw requests kept for fidelity tests; 0: none
    sent_kept: int = 65536  # first-token times and aborts kept
    max_body_bytes: int = 64 * 1024 * 1024
    embedding_dimensions: int = 8

    @classmethod
    def load(cls, file: Path | None, overrides: Sequence[str] = ()) -> "SimConfig":
        """The file's configuration (none: defaults) with overrides on top.

        An override is `key=value` for a member of SimConfig, `default:key=value` or `MODEL:key=value` for a model's
        knob; values are YAML. Raises ConfigError naming the file and the key path.
        """
        where = "overrides" if file is None else str(file)
        try:
            text = "" if file is None else file.read_text(encoding="utf-8")
            tree = yaml.safe_load(text) or {}
            if not isinstance(tree, dict):
                raise ConfigError(f"{where}: a mapping is needed here; see sidecar/sim/knobs.py for its keys")
            for override in overrides:
                _override(tree, override)
            return parse(tree, cls, where)
        except OSError as error:
            raise ConfigError(f"{where}: cannot be read: {error.strerror}; name a YAML file with --config") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: cannot be read: {error}") from error


T = TypeVar("T")


def parse(value: object, type_: type[T], where: str) -> T:
    """A value of plain JSON types as a `type_`: numbers become constant distributions, unknown keys are errors."""
    try:
        return msgspec.convert(_distributions(_known(value, type_)), type_)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}; see sidecar/sim/knobs.py for the keys and their types") from error


_DISTRIBUTIONS = frozenset({"ttft", "ttfb", "ttfe", "itl", "output_tokens", "reasoning_tokens"})


def _distributions(value: object) -> object:
    """Writes `ttft: 0.2` out as `ttft: {mean: 0.2}`, at any depth."""
    if isinstance(value, dict):
        return {
            key: {"mean": item}
            if key in _DISTRIBUTIONS and isinstance(item, int | float) and not isinstance(item, bool)
            else _distributions(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_distributions(item) for item in value]
    return value


def _known(value: object, type_: object) -> object:
    """The value itself; raises msgspec.ValidationError on a key that the dataclass lacks (msgspec would ignore it)."""
    if type_ is SimConfig and isinstance(value, dict):
        for name, model in (value.get("models") or {}).items():
            _check_keys(model, SimulatedModel, f"models.{name}")
        _check_keys(value.get("default"), SimulatedModel, "default")
        for at, fault in enumerate(value.get("faults") or ()):
            _check_keys(fault, Fault, f"faults[{at}]")
    if isinstance(type_, type):
        _check_keys(value, type_, type_.__name__)
    return value


def _check_keys(value: object, type_: type[object], where: str) -> None:
    fields = getattr(type_, "__dataclass_fields__", None)
    if isinstance(value, dict) and fields is not None:
        for key in value:
            if key not in fields:
                raise msgspec.ValidationError(f"{where}: unknown key {key!r}, known are {', '.join(fields)}")


def _override(tree: dict[str, object], text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text!r}: write key=value")
    model, colon, key = path.rpartition(":")
    target: object = tree
    if colon and model == "default":
        target = tree.setdefault("default", {})
    elif colon:
        models = tree.setdefault("models", {})
        target = models.setdefault(model, {}) if isinstance(models, dict) else None
    if not isinstance(target, dict):
        raise ConfigError(f"--set {text!r}: {path!r} is no mapping in the file")
    target[key if colon else path] = yaml.safe_load(value)
