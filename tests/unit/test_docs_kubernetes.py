"""The pages about Kubernetes say what is: the rendered pod, the annotations, the commands, the chart's values.

After a change of the injector: `python -m tests.unit.test_docs_kubernetes` writes the rendered pod anew.
"""

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import yaml

from sidecar.cli import build_parser
from sidecar.config.policy import load_file
from sidecar.inject.options import ANNOTATIONS, PREFIX, Defaults, read_options
from sidecar.inject.pod import inject
from sidecar.inject.tree import Place

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MAIN = DOCS / "kubernetes.md"
PAGES = sorted([*DOCS.glob("kubernetes*.md"), DOCS / "troubleshooting.md", DOCS / "alerts.md"])
VALUES: dict[str, Any] = yaml.safe_load((ROOT / "k8s" / "chart" / "values.yaml").read_text(encoding="utf-8"))
FREE = {"sidecar.env", "standalone.policies.files", "standalone.secretFiles", "daemon.secretFiles",
        "standalone.extraEnv", "podMonitor.labels", "prometheusRule.labels"}  # fmt: skip


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str, first: str = "") -> list[str]:
    """The fenced blocks of a language that begin with this line; without it."""
    return re.findall(rf"^```{language}\n{first}(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


def between(page: Path, what: str) -> str:
    """What stands between two comments of a page."""
    found = re.search(rf"<!-- {what}: begin[^>]*-->\n(.*?)<!-- {what}: end -->", text_of(page), re.DOTALL)
    assert found is not None, what
    return found[1]


def rendered() -> str:
    """The pod of the page as the injector makes it with the chart's values, for the page."""
    pod = yaml.safe_load(between(MAIN, "before").replace("```yaml", "").replace("```", ""))
    metadata = pod["metadata"]
    usual = Defaults(image_pull_policy=VALUES["image"]["pullPolicy"], log_level=VALUES["sidecar"]["logLevel"])
    options = read_options(metadata["annotations"], metadata["labels"], usual, replicas=3)
    made = inject(Place(pod), "shop", options)
    patched = jsonpatch.apply_patch(json.loads(json.dumps(pod)), [asdict(one) for one in made.operations])
    return f"```yaml\n{yaml.dump(patched, Dumper=_Dumper, sort_keys=False, width=150, default_flow_style=None)}```\n"


class _Dumper(yaml.SafeDumper):
    """Lists set in, as people write them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def commands(page: Path) -> list[list[str]]:
    """Every command of the shell blocks, in words; pipes end one."""
    text = "\n".join(blocks(page, "sh"))
    words = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    return [one for one in words if one]


def _values_named(tree: Any, path: str = "") -> set[str]:
    """The paths of values in a piece of YAML, down to what is free."""
    if not isinstance(tree, dict) or not tree or path in FREE:
        return {path}
    return {found for key, inner in tree.items() for found in _values_named(inner, f"{path}.{key}".lstrip("."))}


def _is_value(path: str) -> bool:
    node: Any = VALUES
    for key in re.sub(r"\[\d+\]", "", path).split("."):
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True


def test_the_rendered_pod_is_the_injectors() -> None:
    """When this fails, run `python -m tests.unit.test_docs_kubernetes` and look at the difference."""
    assert between(MAIN, "after") == rendered()


def test_the_table_of_annotations_is_whole_and_its_examples_hold() -> None:
    """Each annotation but the status is in it once, and can be written as it stands there."""
    rows = [line.split(" | ") for line in between(MAIN, "annotations").splitlines()[2:]]
    names = [row[0].strip("| `") for row in rows]
    assert sorted(names) == sorted(ANNOTATIONS - {"status"})
    for name, row in zip(names, rows, strict=True):
        taken = read_options({f"{PREFIX}{name}": row[1].strip('`"')}, {}, Defaults())
        assert name in {"mode"} or taken != read_options({}, {}, Defaults()), name


def test_the_ports_of_the_table_are_the_defaults() -> None:
    """And those of the chart."""
    table, ports = between(MAIN, "annotations"), VALUES["sidecar"]["ports"]
    defaults = Defaults()
    assert (defaults.port, defaults.health_port, defaults.admin_port) == tuple(ports.values())
    assert all(f"`{port}`, moved if taken" in table for port in ports.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_annotations_that_are_named_exist(page: Path) -> None:
    """Or are the namespace's label."""
    named = set(re.findall(r"\bllm-sidecar\\?\.io/([a-z-]+[a-z])", text_of(page)))
    assert named <= ANNOTATIONS | {"injection"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    """Each `llm-sidecar` command, also behind `kubectl exec ... --`, has a verb and options that exist."""
    texts = [shlex.split(one) for one in re.findall(r"`([^`\n]* -- llm-sidecar [^`]*)`", text_of(page))]
    for words in [*commands(page), *texts]:
        if "llm-sidecar" not in words or words[0] == "helm" or words[:2] == ["docker", "push"]:
            continue
        at = words.index("--") + 1 if "--" in words else 0
        if words[at].rpartition("/")[2] == "llm-sidecar":
            ours = words[at + 1 :]
            ends = [number for number, word in enumerate(ours) if word in ("|", ">", "&&")]
            assert build_parser().parse_args(ours[: min(ends, default=len(ours))]).verb


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_values_that_are_set_exist(page: Path) -> None:
    """`--set NAME=...` of every helm command, and every block of YAML that is for `values.yaml`."""
    for words in (words for words in commands(page) if words[0] == "helm"):
        given = [words[at + 1] for at, word in enumerate(words) if word in ("--set", "--set-string", "--set-file")]
        assert [one for one in given if not _is_value(one.partition("=")[0])] == []
        assert words[1] in ("install", "upgrade", "uninstall", "test", "template", "get", "status", "list")
    for text in blocks(page, "yaml", "# values.yaml\n"):
        assert [path for path in _values_named(yaml.safe_load(text)) if not _is_value(path)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_values_that_are_named_exist(page: Path) -> None:
    """`injector.webhook.failurePolicy` and its like in text."""
    roots = "|".join(VALUES)
    named = re.findall(rf"`((?:{roots})(?:\.\w+)+)(?:[:=][^`]*)?`", text_of(page))
    assert [one for one in named if not _is_value(one) and not any(one.startswith(f"{free}.") for free in FREE)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sections_that_are_linked_exist(page: Path) -> None:
    """Of this page, and of others."""
    for name, section in re.findall(r"\]\(([\w-]+\.md)?#([\w-]+)\)", text_of(page)):
        file = DOCS / name if name else page
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert section.lower() in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_policies_load(page: Path, tmp_path: Path) -> None:
    """A policy that a reader copies is valid, also one in a ConfigMap's key."""
    for text in blocks(page, "yaml", "version: 1\n"):
        file = tmp_path / "policy.yaml"
        file.write_text(f"version: 1\n{text}")
        assert load_file(file, {}).policy.routes


if __name__ == "__main__":
    whole = MAIN.read_text(encoding="utf-8")
    begin, end = re.findall(r"<!-- after: \w+.*?-->", whole)
    head, tail = whole.split(begin)[0], whole.split(end)[1]
    MAIN.write_text(f"{head}{begin}\n{rendered()}{end}{tail}", encoding="utf-8")
