"""The catalogue as files: what is shipped is compiled from its sources, a file of one's own extends or replaces it."""

from pathlib import Path

import pytest

from sidecar.cli import main
from sidecar.config.catalogue import bundled_catalogue, compile_catalogue, described, load_catalogue, read_file
from sidecar.config.policy import load_text, load_written
from sidecar.config.settings import Settings
from sidecar.core.abilities import UNKNOWN, Capabilities
from sidecar.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[3] / "policies" / "catalogue"
OWN = """version: 1
date: 2026-11-21
providers:
  openai:
    models:
      GPT-4o: {images: false}
      our-tune*: {tools: false, context_tokens: 4096}
"""
POLICY = """version: 1
service: bot
upstreams:
  openai: {dialect: openai, base_url: "https://api.openai.com/v1"}
  own: {dialect: openai, base_url: "http://127.0.0.1:8000/v1", api_key: {file: /key}}
  cohere: {dialect: cohere, base_url: "https://api.cohere.com", api_key: {file: /key}}
routes:
  - name: all
    mode: optimize
    baseline: {id: base, upstream: openai, model: gpt-4o}
    arms:
      - {id: mini, upstream: openai, model: gpt-4o-mini, facts: {region: EU, tools: "yes"}}
      - {id: own, upstream: own, model: my-model, capabilities: {tools: false, context_tokens: 8192, regions: [EU]}}
      - {id: llama, upstream: own, model: meta-llama/Llama-3.1-8B-Instruct}
      - {id: command, upstream: cohere, model: command-a-03-2025}
"""


def test_what_is_shipped_is_fresh() -> None:
    """When this fails, run `llm-sidecar catalogue compile policies/catalogue`."""
    assert bundled_catalogue().read_bytes() == compile_catalogue(FOLDER)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_each_file_names_its_sources_and_their_date(file: Path) -> None:
    """At its head; the date is the file's own."""
    head = file.read_text("utf-8").partition("version:")[0]
    assert "# Sources: " in head
    assert read_file(file)[0].date in " ".join(head.replace("#", " ").split())


def test_known_models() -> None:
    """One of each kind, as their makers list them."""
    shipped = load_catalogue()
    assert shipped.lookup("openai", "gpt-4o-mini-2024-07-18").context_tokens == 128_000
    assert shipped.lookup("openai", "gpt-3.5-turbo").images is False
    assert shipped.lookup("anthropic", "claude-haiku-4-5-20251001").max_output_tokens == 64_000
    assert shipped.lookup("google", "gemini-2.5-flash").audio is True
    assert shipped.lookup("azure", "gpt-4o") == shipped.lookup("openai", "gpt-4o")
    assert shipped.lookup("bedrock", "eu.anthropic.claude-sonnet-4-5-20250929-v1:0").regions == ("EU",)
    assert shipped.lookup("openrouter", "anthropic/claude-sonnet-4-5").tools is True
    assert shipped.lookup("groq", "llama-3.3-70b-versatile").images is False
    assert shipped.lookup(None, "Qwen/Qwen2.5-7B-Instruct").images is False
    assert shipped.lookup("ollama", "llama3.1:8b").context_tokens == 131_072
    assert shipped.lookup(None, "gpt-4o") is UNKNOWN


def test_an_own_file_extends_or_replaces(tmp_path: Path) -> None:
    """What it says wins; with `replace` nothing else is known."""
    own = tmp_path / "own.yaml"
    own.write_text(OWN)
    both = load_catalogue(own)
    assert both.lookup("openai", "gpt-4o").images is False
    assert both.lookup("openai", "gpt-4o").context_tokens == 128_000
    assert both.lookup("openai", "our-tune-7") == Capabilities(tools=False, context_tokens=4096)
    own.write_text(OWN + "replace: true\n")
    alone = load_catalogue(own)
    assert alone.lookup("openai", "gpt-4o") == Capabilities(images=False)
    assert alone.lookup("openai", "gpt-4o-mini") is UNKNOWN
    assert load_catalogue().lookup("openai", "gpt-4o").images is True


def test_an_own_file_is_read_in_lower_case(tmp_path: Path) -> None:
    """As the names that it is compared with."""
    own = tmp_path / "own.yaml"
    own.write_text(OWN + '  Gateway: {also: [GW], like: [OpenAI], strip: ["Acme/"]}\n')
    assert load_catalogue(own).lookup("gw", "ACME/gpt-4o-mini").context_tokens == 128_000


def test_the_setting_names_it(tmp_path: Path) -> None:
    """SIDECAR_CATALOGUE; policies are built with it."""
    (tmp_path / "own.yaml").write_text(OWN)
    settings = Settings.load({"SIDECAR_CATALOGUE": str(tmp_path / "own.yaml")})
    loaded = load_text(POLICY, tmp_path / "p.yaml", {}, settings)
    assert loaded.policy.routes[0].baseline.capabilities.images is False
    (tmp_path / "own.yaml").unlink()
    assert loaded.written is not None
    assert load_written(loaded.written, {}, settings) == loaded  # in another process, which reads no file


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (OWN.replace("images: false", "image: false"), "providers.openai.models.GPT-4o.image: is not a key here"),
        (OWN.replace("4096", "0"), "outside"),
        (OWN.replace("2026-11-21", "yesterday"), "is not a date"),
        ("providers: [\n", ":"),
    ],
)
def test_a_bad_file_says_where(tmp_path: Path, text: str, told: str) -> None:
    """With line and key path, as policies do."""
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"own\.yaml") as caught:
        load_catalogue(file)
    assert told in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Is named."""
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        load_catalogue(tmp_path / "gone.yaml")


def test_files_that_disagree(tmp_path: Path) -> None:
    """A provider has one file, and `like` names one that there is."""
    (tmp_path / "a.yaml").write_text(OWN)
    (tmp_path / "b.yaml").write_text(OWN)
    with pytest.raises(ConfigError, match="stands in another file too"):
        compile_catalogue(tmp_path)
    (tmp_path / "b.yaml").write_text(OWN.replace("openai:", "other:\n    like: [nobody]"))
    with pytest.raises(ConfigError, match="'nobody' is in no file"):
        compile_catalogue(tmp_path)


def test_an_installation_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says so."""
    monkeypatch.setattr("sidecar.config.catalogue._PLACES", (tmp_path / "catalogue.json",))
    with pytest.raises(ConfigError, match="install the package again"):
        bundled_catalogue()


# ---- in policies


def test_arms_know_what_they_can() -> None:
    """From the catalogue by their upstream's provider, with what the policy says in front."""
    base, mini, own, llama, command = load_text(POLICY, Path("p.yaml"), {}).policy.routes[0].all_arms
    shipped = load_catalogue()
    assert base.capabilities == shipped.lookup("openai", "gpt-4o")
    assert own.capabilities == Capabilities(tools=False, context_tokens=8192, regions=("EU",))
    assert llama.capabilities.images is False
    assert command.capabilities == shipped.lookup("cohere", "command-a-03-2025") != UNKNOWN
    assert mini.facts["context_tokens"] == 128_000.0


def test_they_are_facts_for_rules() -> None:
    """`model.<name>`; a fact that the policy states itself stays as it is."""
    _, mini, own, *_ = load_text(POLICY, Path("p.yaml"), {}).policy.routes[0].all_arms
    assert (mini.facts["region"], mini.facts["tools"], mini.facts["images"]) == ("EU", "yes", True)
    assert own.facts == {"tools": False, "context_tokens": 8192.0, "region": "EU"}


def test_check_warns_of_what_an_arm_can_never_serve() -> None:
    """Tools, JSON schemas and thinking that the baseline is known to serve."""
    warnings = "\n".join(load_text(POLICY, Path("p.yaml"), {}).warnings)
    assert "p.yaml:13: routes[0].arms[1]: 'my-model' cannot serve calls that need tools" in warnings
    assert "llama" not in warnings.lower()


def test_capabilities_have_ranges() -> None:
    """And kinds, told with the key path."""
    with pytest.raises(ConfigError, match=r"capabilities\.context_tokens: '-1' is outside"):
        load_text(POLICY.replace("8192", "-1"), Path("p.yaml"), {})
    with pytest.raises(ConfigError, match=r"capabilities\.tools"):
        load_text(POLICY.replace("tools: false", "tools: maybe"), Path("p.yaml"), {})


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`show` tells what is known, `compile` writes the file, and both say what they miss."""
    assert main(["catalogue", "show", "openai/gpt-4o"]) == 0
    assert capsys.readouterr().out.strip() == described("openai/gpt-4o")
    (tmp_path / "own.yaml").write_text(OWN)
    assert main(["catalogue", "compile", str(tmp_path)]) == 0
    assert (tmp_path / "catalogue.json").read_bytes() == compile_catalogue(tmp_path)
    assert main(["catalogue", "compile", str(tmp_path), "--to", str(tmp_path / "no" / "file")]) == 2
    assert main(["catalogue", "compile"]) == 2
    assert "name the folder" in capsys.readouterr().err
    assert main(["catalogue", "show"]) == 2
    assert "name PROVIDER/MODEL" in capsys.readouterr().err
    assert main(["catalogue", "show", "gpt-4o"]) == 2
    assert "gpt-4o names no provider; name PROVIDER/MODEL" in capsys.readouterr().err
