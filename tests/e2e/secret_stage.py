"""A process that holds every kind of secret, each of them a canary, and all that it leaves behind.

`Stage.canaries` are the secrets; their files lie in `held`, which nobody sweeps. `Stage.artefacts` promises everything else
that a person or a program could get to see: output, files, databases, answers of the ports, verbs, spans, process arguments.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trustme

from sidecar.control.access import new_token
from tests.e2e.process import LOOPBACK, ROOT, Sidecar, ask
from tests.fixtures.canaries import Canaries
from tests.golden.conversations import owner_of
from tests.golden.names import ARMS, MODELS

PROMPT: Final = 'The heron (keeps) "Größe" / its ledger\nunder the third stone & waits.'
ANSWER: Final = "Seven 'lanterns' drift \\ past the sleeping\tcustoms house, 世界 & on."
KEY: Final = 'sk-canary7f3a9c51e2/d8+4b"06\\c1%1=x'
TOKEN: Final = "token-of-an-app-9d41c07be3"
PASSWORD: Final = "pass-word-of-the-proxy-51b0e7"
_ADMIN_SIDE: Final = (
    "/api/v1/status", "/api/v1/decisions", "/api/v1/rollouts", "/api/v1/audit", "/openapi.json", "/api/v1/nothing",
)  # fmt: skip
_END: Final = "=== the end of a verb ===\n"
_RUN: Final = f"""
import json, sys
from sidecar.cli import main
sys.stderr = sys.stdout
for words in json.loads(sys.argv[1]):
    main(words)
    sys.stdout.write({_END!r})
"""
VERBS: Final[Sequence[tuple[str, ...]]] = (
    ("decisions", "--last", "5000"), ("decisions", "--last", "5000", "--json"), ("export",), ("export", "--format", "csv"),
    ("audit", "list", "--last", "500"), ("audit", "list", "--json", "--last", "500"), ("audit", "verify"),
    ("store", "status"), ("rollout", "status"), ("rollout", "status", "--json"), ("store", "backup", "{folder}/backup.db"),
    ("state", "export", "{folder}/state.json"),
    ("replay", "--policy", "{folder}/policies/p.yaml", "--json"),
)  # fmt: skip


class Stage:
    """One process on its own ports. Leave it with `close`."""

    def __init__(
        self,
        folder: Path,
        upstream: int,
        *,
        proxy: int = 9,
        collector: str = "",
        program: Sequence[str] = ("-m", "sidecar"),
        environ: dict[str, str] | None = None,
        tokens: bool = False,
        encrypted: bool = False,
        **settings: object,
    ) -> None:
        """`upstream` is the port of every provider, `proxy` that of the way out for https."""
        self.folder, self.held = folder / "swept", folder / "held"
        self.folder.mkdir()
        self.held.mkdir()
        self.secrets: dict[str, bytes] = {
            "prompt": PROMPT.encode(),
            "answer": ANSWER.encode(),
            "client's key": KEY.encode(),
        }
        self._tls()
        roles = self._roles()
        if tokens:
            settings["client_tokens_file"] = self._hold("client tokens", f"{TOKEN} bot\n", TOKEN)
        if encrypted:
            settings["encryption_key_file"] = self._keys("encryption")
        self._policy(upstream)
        self.secrets |= {"password": PASSWORD.encode(), "key in the environment": b"env-canary-2b9f60d1c8/e+7"}
        self.secrets["proxy's credentials"] = base64.b64encode(f"canary:{PASSWORD}".encode())
        if collector:
            settings["observatory_url"] = collector.replace("//", f"//canary:{PASSWORD}@")
        self.sidecar = Sidecar(
            self.folder,
            f"http://{LOOPBACK}:{upstream}",
            environ={
                "https_proxy": f"http://canary:{PASSWORD}@{LOOPBACK}:{proxy}",
                "CANARY_KEY": self.secrets["key in the environment"].decode(),
                "SIDECAR_OBSERVATORY_URL": str(settings.pop("observatory_url", "")),
                "SIDECAR_GOVERNANCE_URL": f"http://canary:{PASSWORD}@{LOOPBACK}:9",
                "SIDECAR_REDIS_URL": f"redis://canary:{PASSWORD}@{LOOPBACK}:9",
                "SIDECAR_POSTGRES_URL": f"postgres://canary:{PASSWORD}@{LOOPBACK}:9/db",
                **(environ or {}),
            },
            program=program,
            policies=self.folder / "policies",
            gemini_upstream="https://generate.invalid",
            admin_roles_file=roles,
            audit_key_file=self._keys("audit"),
            salt_file=self._hold("salt", "salt-canary-61d0f3a7b2\n", "salt-canary-61d0f3a7b2"),
            tls_cert=self.held / "cert.pem",
            tls_key=self.held / "tls.pem",
            log_level="debug",
            **{"first_byte_timeout": "200ms", "drain_idle": "10ms", **settings},
        )
        self.canaries = Canaries(self.secrets)

    def _hold(self, name: str, text: str, secret: str) -> Path:
        path = self.held / name.replace(" ", "-")
        path.write_text(text)
        path.chmod(0o600)
        self.secrets[name] = secret.encode()
        return path

    def _keys(self, name: str) -> Path:
        secret = ("c0ffee" + name.encode().hex() * 11)[:64]
        return self._hold(f"{name} key", f"k1 {secret}\n", secret)

    def _tls(self) -> None:
        authority = trustme.CA()
        made = authority.issue_cert("localhost")
        made.cert_chain_pems[0].write_to_path(self.held / "cert.pem")
        made.private_key_pem.write_to_path(self.held / "tls.pem")
        for number, line in enumerate(made.private_key_pem.bytes().splitlines()[3:5]):
            self.secrets[f"line {number} of the TLS key"] = line
        self.authority = authority

    def _roles(self) -> Path:
        lines = ""
        self.tokens: dict[str, str] = {}
        for name, role in (("vera", "viewer"), ("otto", "operator"), ("ada", "admin")):
            self.tokens[name], line = new_token(name, role)
            lines += line + "\n"
            self._hold(f"token of {name}", self.tokens[name] + "\n", self.tokens[name])
        (self.held / "roles").write_text(lines)
        return self.held / "roles"

    def _policy(self, port: int) -> None:
        """An upstream for each format with a key of its own, and a judge; the tag `arm` says which one serves."""
        upstreams: dict[str, dict[str, Any]] = {}
        for number, arm in enumerate(ARMS):
            dialect, provider = owner_of("messages", arm)
            key = f'held-{number}-{"3f9a71c05d"[number:]}/{arm}+e4b8%2"\\x'
            key = f"AKIACANARY{number}7Q2M5XWZT:{key}" if arm == "converse" else key
            file = self._hold(f"key of {arm}", key + "\n", key)
            upstreams[arm] = {"dialect": dialect, "provider": provider, "base_url": f"http://{LOOPBACK}:{port}"}
            upstreams[arm] |= {"api_key": {"file": str(file)}, "price": {"input_mtok": 1, "output_mtok": 2}}
        upstreams["bench"] = {"dialect": "openai", "base_url": f"http://{LOOPBACK}:{port}/v1", "price": "free"}
        upstreams["bench"]["api_key"] = {"env": "CANARY_KEY"}
        judge = {"upstream": "bench", "model": "judge", "sample": 0.2, "per_minute": 10_000}
        asked = [*dict.fromkeys(MODELS.values()), "m"]
        checks = ["json_schema", "tool_arguments", "finish_reason", "refusal", "empty"]
        routes = [
            {
                "name": f"to-{arm}",
                "match": {"tags": {"arm": arm}, "models": asked},
                "virtual": [name for name in asked if name != MODELS[arm]],
                "mode": "observe",
                "baseline": {"id": "base", "upstream": arm, "model": MODELS[arm]},
                "allow_loss": True,
                "quality": {"validators": checks, "judge": judge, "min_samples": 0},
            }
            for arm in ARMS
        ]
        (self.folder / "policies").mkdir()
        made = {"version": 1, "service": "bot", "upstreams": upstreams, "routes": routes}
        (self.folder / "policies" / "p.yaml").write_text(json.dumps(made))

    # ---- what it leaves behind

    def verbs(self, *calls: Sequence[str]) -> list[bytes]:
        """What verbs of the command line print, on both streams; one process runs them all, as each start takes a second."""
        wanted = ("db", "service", "admin_listen", "audit_key_file", "encryption_key_file", "salt_file")
        settings = [value for value in self.sidecar.arguments if value.partition("=")[0] in wanted]
        settings.append(f"admin_token_file={self.held / 'token-of-ada'}")
        more = [word for value in settings for word in ("--set", value)]
        commands = [[*(word.format(folder=self.folder) for word in words), *more] for words in calls]
        done = subprocess.run(
            [sys.executable, "-c", _RUN, json.dumps(commands)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, cwd=ROOT, env=self.sidecar.environ,
        )  # fmt: skip
        *told, rest = done.stdout.split(_END.encode())
        assert len(told) == len(calls), rest
        return told

    def admin(self, method: str, path: str, body: object = None, token: str = "") -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {token or self.tokens['ada']}"}
        return ask(self.sidecar.admin_port, method, path, body=body, headers=headers)

    def shown(self) -> dict[str, bytes]:
        """What the running process answers to whoever may ask, and its arguments."""
        side = self.sidecar
        found = {path: ask(side.health_port, "GET", path)[1] for path in ("/metrics", "/ready", "/health", "/other")}
        found |= {path: self.admin("GET", path)[1] for path in _ADMIN_SIDE}
        found["arguments"] = Path(f"/proc/{side.process.pid}/cmdline").read_bytes()
        children = subprocess.run(
            ["ps", "-o", "args=", "--ppid", str(side.process.pid)], capture_output=True, check=False
        )
        return found | {"arguments of children": children.stdout}

    def told(self, explained: int = 3) -> dict[str, bytes]:
        """What the verbs print: all of them, and the explanation of the newest rows."""
        found = {" ".join(words): text for words, text in zip(VERBS, self.verbs(*VERBS), strict=True)}
        rows = [json.loads(line) for line in found["decisions --last 5000 --json"].splitlines() if line[:1] == b"{"]
        ids = [row["id"] for row in rows[:explained]]
        found |= dict(zip(map("explain {}".format, ids), self.verbs(*(("explain", one) for one in ids)), strict=True))
        self.rows = rows
        return found

    def files(self) -> dict[str, bytes]:
        """Every file of the process: output, log of requests, databases and what lies beside them, policies."""
        return {
            str(file.relative_to(self.folder)): file.read_bytes() for file in self.folder.rglob("*") if file.is_file()
        }

    def close(self) -> None:
        """Ends the process, whatever state it is in."""
        if self.sidecar.alive:
            self.sidecar.kill()
