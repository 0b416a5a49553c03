"""What the injector is told: by its installation (`Defaults`, a YAML file) and by one pod (`Options`, its annotations).

As written -> validated: an unknown key or annotation, or one with a wrong value, is a ConfigError that names it and says
how to fix it. An annotation wins over the installation. Not known here: what is in the pod besides.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from sidecar import __version__
from sidecar.config import units
from sidecar.config.document import Node, Problems, nearest, quoted, read_document
from sidecar.config.kinds import Wrong, choice, key, list_of, map_of, scalar, struct
from sidecar.config.settings import Settings
from sidecar.errors import ConfigError
from sidecar.inject import texts
from sidecar.inject.texts import Resources

T = TypeVar("T")
PREFIX = "llm-sidecar.io/"
STATUS = f"{PREFIX}status"
MODES = ("auto", "native", "plain")
LOG_LEVELS = ("debug", "info", "warning", "error")
RESERVED = frozenset(  # of the sidecar's variables: those that place it in the pod
    {
        *("SERVICE_ID", "MODE", "NODE_NAME", "SIDECAR_DB", "SIDECAR_POLICIES", "SIDECAR_PRIORS", "SIDECAR_REPLICAS"),
        *("SIDECAR_LISTEN", "SIDECAR_HEALTH_LISTEN", "SIDECAR_ADMIN_LISTEN", "SIDECAR_LOG_LEVEL"),
    }
)
_EMPTY = Node("", 1, "null")
_name = scalar("name of an object", texts.object_name)
_port = scalar("port", texts.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What the installation says for every pod whose annotations say nothing else."""

    image: str = field(
        default=f"llm-sidecar:{__version__}",
        metadata=key(scalar("image", texts.image), "the sidecar's image; the version that the injector has itself"),
    )
    image_pull_policy: str | None = field(
        default=None,
        metadata=key(
            choice("Always", "IfNotPresent", "Never"),
            "when the image is pulled; unset: Kubernetes' own rule, by its tag",
        ),
    )
    log_level: str | None = field(
        default=None, metadata=key(choice(*LOG_LEVELS), "the sidecar's log level; unset: its own default")
    )
    mode: str = field(
        default="auto", metadata=key(choice(*MODES), "native where the cluster can, else plain; or always one of them")
    )
    resources: Resources = field(
        default=Resources(), metadata=key(scalar("resources", texts.resources), "the sidecar's requests and limits")
    )
    port: int = field(default=9090, metadata=key(_port, "where the app finds the sidecar, on localhost"))
    health_port: int = field(default=9091, metadata=key(_port, "where the kubelet and Prometheus find it"))
    admin_port: int = field(default=9092, metadata=key(_port, "where `kubectl port-forward` finds it"))
    policies: str | None = field(
        default=None, metadata=key(_name, "ConfigMap with policies, in each pod's namespace; unset: observe only")
    )
    priors: str | None = field(
        default=None, metadata=key(_name, "ConfigMap with a `state export` in its key priors.json, in each namespace")
    )
    upstream_secrets: tuple[str, ...] = field(
        default=(), metadata=key(list_of(_name), "Secrets with upstream keys, in each pod's namespace")
    )
    state_size: str = field(
        default="1Gi",
        metadata=key(scalar("size", texts.size), "limit of the volume: the database, its WAL and two copies fit"),
    )
    env: Mapping[str, str] = field(
        default_factory=dict,
        metadata=key(
            map_of(scalar("value of a variable", texts.variable), "variables"), "further variables of the sidecar"
        ),
    )
    fixed_user: bool = field(
        default=True,
        metadata=key(
            scalar("true or false", units.flag),
            "run as the image's user 10001; false where the namespace gives the numbers, as on OpenShift",
        ),
    )
    strict: bool = field(
        default=False,
        metadata=key(
            scalar("true or false", units.flag), "refuse a pod whose annotations are wrong, where else it goes without"
        ),
    )
    node: Node = field(default=_EMPTY, repr=False, compare=False)

    @classmethod
    def read(cls, text: str) -> "Defaults":
        """The defaults of a YAML file's text; an empty one is all defaults. Raises ConfigError with every problem."""
        problems = Problems("inject")
        tree = read_document(text, problems)
        problems.check()
        if tree is None or tree.is_empty:
            return cls()
        try:
            made = struct(cls, "the injector's configuration").read(tree, problems)
        except Wrong:
            raise ConfigError("\n".join(problems.told())) from None
        if len({made.port, made.health_port, made.admin_port}) < 3:
            problems.add(tree, "gives two listeners one port", "give port, health_port and admin_port a number each")
        for name in made.env:
            if name in RESERVED:
                problems.add(tree.find("env", name), "is set by the injector", "remove it: keys and annotations say it")
            elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name, re.ASCII):
                problems.add(tree.find("env", name), "is not the name of a variable", "use letters, digits and _")
        problems.check()
        _check_settings(made, tree, problems)
        problems.check()
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What holds for one pod. `wanted` is what its label or annotation `inject` says, None when they say nothing.

    `ports` are those that annotations give by hand ("port", "health-port", "admin-port"); `resources_said` tells whether
    the pod has resources of its own for the sidecar; `native` whether the cluster knows native sidecars; `replicas` the
    pods that run this policy, None when nobody knows.
    """

    defaults: Defaults
    native: bool
    wanted: bool | None = None
    service: str | None = None
    image: str = ""
    log_level: str | None = None
    mode: str = "auto"
    resources: Resources = field(default_factory=Resources)
    resources_said: bool = False
    policies: str | None = None
    priors: str | None = None
    secrets: tuple[str, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    replicas: int | None = None
    containers: tuple[str, ...] | None = None


Port = Literal["port", "health-port", "admin-port"]
PORTS: tuple[Port, ...] = ("port", "health-port", "admin-port")
ANNOTATIONS = frozenset(
    {
        *("inject", "status", "service", "image", "log-level", "mode", "resources", "policies", "priors"),
        *("upstream-secrets", "replicas", "containers", *PORTS),
    }
)


def opted_out(annotations: Mapping[str, object], labels: Mapping[str, object]) -> bool:
    """Whether the pod says by label or annotation that it wants no sidecar: that is heard before all else."""
    said = (annotations.get(f"{PREFIX}inject"), labels.get(f"{PREFIX}inject"))
    return any(one in ("false", "disabled") for one in said)


def read_options(
    annotations: Mapping[str, object],
    labels: Mapping[str, object],
    defaults: Defaults,
    replicas: int | None = None,
    native: bool = True,
) -> Options:
    """The options of a pod with these annotations and labels.

    Raises:
        ConfigError: an annotation of ours is unknown or has a wrong value; every such one is named.
    """
    said = _Said(annotations)
    for name in said.unknown():
        said.problems.append(f"annotation {PREFIX}{name} is not known; {nearest(name, ANNOTATIONS)}")
    resources = said.read("resources", lambda text: texts.resources(text, defaults.resources))
    label = _Said(labels, "label", said.problems).read("inject", texts.wanted)
    wanted = said.read("inject", texts.wanted)
    made = Options(
        defaults=defaults,
        native=native,
        wanted=label if wanted is None else wanted,
        service=said.read("service", texts.service),
        image=said.read("image", texts.image) or defaults.image,
        log_level=said.read("log-level", _one_of(LOG_LEVELS)) or defaults.log_level,
        mode=said.read("mode", _one_of(MODES)) or defaults.mode,
        resources=resources or defaults.resources,
        resources_said=resources is not None,
        policies=said.read("policies", texts.object_name) or defaults.policies,
        priors=said.read("priors", texts.object_name) or defaults.priors,
        secrets=_secrets(defaults.upstream_secrets, said.read("upstream-secrets", texts.secret_names)),
        ports=said.ports(),
        replicas=said.read("replicas", texts.replicas) or _countable(replicas),
        containers=said.read("containers", texts.container_names),
    )
    if said.problems:
        raise ConfigError("\n".join(said.problems))
    return made


def _secrets(common: tuple[str, ...], own: tuple[str, ...] | None) -> tuple[str, ...]:
    """The installation's and the pod's own: what all pods need is not lost by naming one more."""
    return tuple(dict.fromkeys((*common, *(own or ()))))


def _countable(replicas: int | None) -> int | None:
    """An owner's number as the sidecar's setting takes it: what it refuses at its start keeps the app from starting."""
    return None if replicas is None else min(max(1, replicas), texts.MAX_REPLICAS)


def _check_settings(made: Defaults, tree: Node, problems: Problems) -> None:
    """A variable that the sidecar refuses would keep every app from starting: better the injector keeps its old file.

    Not looked at where the kubelet fills in a part of one: what it will say is not known here.
    """
    if any("$(" in text for text in made.env.values()):
        return
    listens = {
        "SIDECAR_LISTEN": f"localhost:{made.port}",
        "SIDECAR_HEALTH_LISTEN": f":{made.health_port}",
        "SIDECAR_ADMIN_LISTEN": f"127.0.0.1:{made.admin_port}",
    }
    try:
        Settings.load({**made.env, **listens})
    except ConfigError as error:
        for line in str(error).splitlines():
            what, _, fix = line.removeprefix("environment: ").rpartition("; ")
            problems.add(tree.find("env"), what, fix)


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"is not one of {', '.join(words)}; {nearest(text, words)}")
        return text

    return parse


class _Said:
    """The annotations (or labels) that are ours, read one by one; what is wrong with them gathers in `problems`."""

    def __init__(
        self, found: Mapping[str, object], kind: str = "annotation", problems: list[str] | None = None
    ) -> None:
        self.problems: list[str] = [] if problems is None else problems
        self._kind = kind
        self._found = {name.removeprefix(PREFIX): text for name, text in found.items() if name.startswith(PREFIX)}

    def unknown(self) -> list[str]:
        return sorted(self._found.keys() - ANNOTATIONS)

    def read(self, name: str, parse: Callable[[str], T]) -> T | None:
        """What `parse` makes of the text; None when it is absent, empty or wrong."""
        text = self._found.get(name, "")
        if not isinstance(text, str):
            self.problems.append(f"{self._kind} {PREFIX}{name}: is not a text; put it in quotes")
            return None
        if not text.strip():
            return None
        try:
            return parse(text.strip())
        except ValueError as error:
            what, _, fix = str(error).partition("; ")
            self.problems.append(f"{self._kind} {PREFIX}{name}: {quoted(text)} {what}; {fix}")
            return None

    def ports(self) -> dict[str, int]:
        """The ports that are given by hand, each a different one."""
        given: dict[str, int] = {}
        for name in PORTS:
            number = self.read(name, texts.port)
            if number is None:
                continue
            if number in given.values():
                self.problems.append(f"{self._kind} {PREFIX}{name}: is the port of another listener; choose another")
            given[name] = number
        return given
