"""README.md and docs/: what they name exists. `python -m tests.unit.test_docs` writes the list of files anew."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from sidecar.cli import build_parser
from sidecar.config.policy import load_file
from sidecar.config.settings import Settings
from sidecar.config.sources import Sources
from tests.unit.test_docs_cli import verbs

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- files: begin -->\n", "<!-- files: end -->"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = [ROOT / "README.md", ROOT / "docs" / "getting-started.md"]
VARIABLES = {"OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"}  # the SDKs' own


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Every command of the shell blocks, in words, continuation lines joined."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def sources() -> list[str]:
    """Every file under sidecar/, as the docs name it."""
    return sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "sidecar").rglob("*.py"))


def sentence(name: str) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.])\s(?=[A-Z`])", first)[0].rstrip(".")


def listing() -> str:
    """The list of files as docs/architecture.md shows it."""
    return "".join(f"* `{name}`: {sentence(name)}.\n" for name in sources())


def test_every_file_is_listed_and_every_listed_file_exists() -> None:
    """When this fails, run `python -m tests.unit.test_docs`."""
    shown = ARCHITECTURE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    lines = re.findall(r"^\* `([^`]+)`: (.+)\.$", shown, re.MULTILINE)
    assert [name for name, _ in lines] == sources()
    assert all(len(text) > 10 for _, text in lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links name files that exist."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def headings(page: Path) -> set[str]:
    """What `#...` may name on a page: its headings, as GitHub and most renderers write them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", found.strip().lower()).replace(" ", "-")
        for found in re.findall(r"^#+ (.*)$", text, re.M)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_headings(page: Path) -> None:
    """The part behind `#` too, on this page or another."""
    links = re.findall(r"\]\((?!https?:)([^)#]*[.]md)?#([^)]+)\)", page.read_text(encoding="utf-8"))
    wrong = [f"{at}#{to}" for at, to in links if to not in headings(page.parent / at if at else page)]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    """`sidecar/...`, `docs/...`, `policies/...`, `k8s/...` in code spans."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:sidecar|docs|policies|k8s|tests|bench)/[\w./-]+)`", text)
    named += [
        f"sidecar/{name}"
        for name in re.findall(r"`((?:core|wire|proxy|store|config|control|telemetry|sim|demo)/\w+\.py)`", text)
    ]
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_variables_that_are_named_are_settings(page: Path) -> None:
    """A variable that the text invents would be refused at start."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:SIDECAR_[A-Z_]+[A-Z]|[A-Z]+_BASE_URL|[A-Z]+_UPSTREAM|SERVICE_ID)\b", text))
    assert named - set(Sources(Settings).variables) - VARIABLES == set()


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    """Every `llm-sidecar` command has a verb and options that exist; every `make` target is in the Makefile."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    seen = 0
    for words in commands(page):
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        if words[0].endswith("llm-sidecar"):
            assert build_parser().parse_args(words[1:]).verb
        elif words[0] == "make":
            assert words[1] in targets
        else:
            continue
        seen += 1
    assert seen >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_verbs_that_are_named_exist(page: Path) -> None:
    """`llm-sidecar VERB` in text."""
    named = set(re.findall(r"`llm-sidecar ([a-z-]+)", page.read_text(encoding="utf-8")))
    assert named <= set(verbs())


def test_the_container_line_is_the_contract() -> None:
    """The documented way to open the port to a bridge, as one command."""
    line = next(words for words in commands(ROOT / "README.md") if words[0] == "docker")
    assert line[:4] == ["docker", "run", "-p", "127.0.0.1:9090:9090"]
    environ = dict(word.split("=") for word in line if word.startswith("SIDECAR_"))
    assert Settings.load(environ).listen == (("0.0.0.0", 9090),)


@pytest.mark.parametrize("number", range(len(blocks(ROOT / "docs" / "policies.md", "yaml"))))
def test_policies_in_the_docs_load(number: int, tmp_path: Path) -> None:
    """A policy that a reader copies is valid."""
    text = blocks(ROOT / "docs" / "policies.md", "yaml")[number]
    file = tmp_path / "policy.yaml"
    file.write_text(text, encoding="utf-8")
    assert load_file(file, {}).policy.routes


if __name__ == "__main__":
    before, rest = ARCHITECTURE.read_text(encoding="utf-8").split(BEGIN)
    ARCHITECTURE.write_text(f"{before}{BEGIN}{listing()}{END}{rest.split(END)[1]}", encoding="utf-8")
