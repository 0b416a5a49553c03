"""The shared modes as real processes: who may come in, whose call it is, TLS, secrets that change; and what probes need."""

import asyncio
import json
import socket
import sqlite3
import ssl
import subprocess
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPSConnection, RemoteDisconnected
from pathlib import Path

import pytest
import trustme

from tests.e2e.process import LOOPBACK, Provider, Sidecar, free_port
from tests.e2e.traffic import CHAT, Connection, Load, chat
from tests.fixtures.waiting import wait_for

QUICK = ("default:ttft=0.002", "default:output_tokens=8")
ELSEWHERE = "127.0.0.2"  # no address of localhost: who is reached by it listens on all
BUSY_S = 20.0
SHOP, SEARCH = "token-of-the-shop-service", "token-of-the-search-service"
POLICY = """
version: 1
service: "*"
upstreams:
  sim: {{dialect: openai, base_url: "{url}/v1", api_key: {{file: "{key}"}}, price: free}}
routes:
  - {{name: shop, match: {{tenant: shop}}, baseline: {{id: large, upstream: sim, model: gpt-4o}}}}
  - {{name: search, match: {{tenant: search}}, baseline: {{id: small, upstream: sim, model: gpt-4o-mini}}}}
"""


def policies(folder: Path, provider: Provider, key: Path) -> Path:
    made = folder / "policies"
    made.mkdir()
    (made / "p.yaml").write_text(POLICY.format(url=provider.url, key=key))
    return made


def post(connection: HTTPConnection, path: str = CHAT, **headers: str) -> int:
    """One call; its status."""
    body = json.dumps(chat("what is 2 + 2?"))
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    connection.request("POST", path, body, sent)
    answer = connection.getresponse()
    answer.read()
    return answer.status


@pytest.mark.parametrize("mode", ["standalone", "daemon"])
def test_a_shared_mode_serves_others(tmp_path: Path, mode: str) -> None:
    """It is reached from outside, under names that it was given and under no others."""
    port = free_port()
    with (
        Provider(tmp_path, *QUICK) as provider,
        Sidecar(tmp_path, provider.url, mode=mode, listen=f":{port}", host_names="gateway.shop.svc"),
        closing(HTTPConnection(ELSEWHERE, port, timeout=15)) as connection,
    ):
        assert post(connection, Host="gateway.shop.svc:9090") == 200
        assert post(connection, Host="evil.example") == 421
        assert post(connection, "/for/shop/v1/chat/completions", Host="gateway.shop.svc") == 200


def test_a_sidecar_serves_its_pod_only(tmp_path: Path) -> None:
    """The same address in mode sidecar is refused at start, with the way out."""
    with Sidecar(tmp_path, mode="sidecar", listen=f":{free_port()}", wait=False) as sidecar:
        assert sidecar.process.wait(15) == 2
        assert "can be reached from outside the pod" in sidecar.output()


def test_a_held_key_needs_tokens(tmp_path: Path) -> None:
    """Without a token file a shared sidecar that holds a key does not start."""
    key = tmp_path / "key"
    key.write_text("sk-held-0123456789abcdef")
    with Provider(tmp_path, *QUICK) as provider:
        folder = policies(tmp_path, provider, key)
        with Sidecar(tmp_path, provider.url, mode="standalone", policies=folder, wait=False) as sidecar:
            assert sidecar.process.wait(15) == 2
            assert "SIDECAR_CLIENT_TOKENS_FILE" in sidecar.output()
            assert "sk-held" not in sidecar.output()


@pytest.mark.parametrize("workers", [1, 2])
def test_services_are_told_apart_by_their_tokens(tmp_path: Path, workers: int) -> None:
    """Each has a route of its own, and rows that name it; who has no token gets nothing. With workers too."""
    key, tokens = tmp_path / "key", tmp_path / "tokens"
    key.write_text("sk-held-0123456789abcdef")
    tokens.write_text(f"{SHOP} shop\n{SEARCH} search\n")
    with Provider(tmp_path, *QUICK, "keys=[sk-held-0123456789abcdef]") as provider:
        folder = policies(tmp_path, provider, key)
        shared = {"mode": "standalone", "policies": folder, "client_tokens_file": tokens, "workers": workers}
        with Sidecar(tmp_path, provider.url, **shared) as sidecar:
            with closing(HTTPConnection(LOOPBACK, sidecar.port, timeout=15)) as connection:
                for _ in range(3):
                    assert post(connection, Authorization=f"Bearer {SHOP}") == 200
                    assert post(connection, x_api_key=SEARCH, x_sidecar_tenant="shop") == 200
                    assert post(connection, Authorization="Bearer sk-held-0123456789abcdef") == 401
            assert sidecar.stop() == 0
            with closing(sqlite3.connect(sidecar.db)) as database:
                told = "json_extract(context, '$.tags.tenant'), route, count(*)"
                rows = database.execute(f"SELECT {told} FROM decisions GROUP BY 1, 2 ORDER BY 1").fetchall()
            assert rows == [("search", "search", 3), ("shop", "shop", 3)]
            text = sidecar.output() + sidecar.request_log.read_text() + sidecar.verb("export")
            assert SHOP not in text
            assert SEARCH not in text


def test_the_listener_speaks_tls(tmp_path: Path) -> None:
    """With a certificate the traffic port speaks TLS and nothing else; probes stay plain."""
    authority = trustme.CA()
    certificate = authority.issue_cert("gateway.shop.svc")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    files = {"tls_cert": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.key", "host_names": "gateway.shop.svc"}
    with Provider(tmp_path, *QUICK) as provider, Sidecar(tmp_path, provider.url, mode="standalone", **files) as sidecar:
        with closing(HTTPSConnection(LOOPBACK, sidecar.port, timeout=15, context=context)) as connection:
            with pytest.raises(ssl.SSLCertVerificationError):
                connection.connect()  # it is not the name of 127.0.0.1
            plain = socket.create_connection((LOOPBACK, sidecar.port), timeout=15)
            connection.sock = context.wrap_socket(plain, server_hostname="gateway.shop.svc")
            assert post(connection, Host="gateway.shop.svc") == 200
        with (
            closing(HTTPConnection(LOOPBACK, sidecar.port, timeout=15)) as connection,
            pytest.raises((RemoteDisconnected, ConnectionResetError)),
        ):
            post(connection)
        assert sidecar.ready()[0] == 200


@pytest.mark.parametrize("closed", ["tls", "tokens"])
def test_the_feedback_verb_where_the_traffic_port_is_closed_to_it(tmp_path: Path, closed: str) -> None:
    """It speaks for nobody's service and knows no authority: it takes the admin port, with the admin token."""
    authority, settings = trustme.CA(), {"mode": "standalone", "host_names": "gateway.shop.svc"}
    if closed == "tls":
        certificate = authority.issue_cert("gateway.shop.svc")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
        certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
        settings |= {"tls_cert": str(tmp_path / "tls.crt"), "tls_key": str(tmp_path / "tls.key")}
    else:
        (tmp_path / "tokens").write_text(f"{SHOP} shop\n")
        settings |= {"client_tokens_file": str(tmp_path / "tokens")}
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.check_hostname = False
    with Provider(tmp_path, *QUICK) as provider, Sidecar(tmp_path, provider.url, **settings) as sidecar:
        over = HTTPSConnection(LOOPBACK, sidecar.port, context=context) if closed == "tls" else None
        with closing(over or HTTPConnection(LOOPBACK, sidecar.port)) as connection:
            assert post(connection, Host="gateway.shop.svc", Authorization=f"Bearer {SHOP}") == 200
        assert wait_for(lambda: len(sidecar.decisions()) == 1, BUSY_S)
        verb = ["feedback", sidecar.decisions()[0]["id"], "--score", "1"]
        command = [*sidecar.arguments[:3], *verb, *sidecar.arguments[4:]]
        done = subprocess.run(command, env=sidecar.environ, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "taken\n", "")


def test_verbs_reach_a_sidecar_that_listens_on_all_addresses(tmp_path: Path) -> None:
    """With its own settings: such an address is no name that anybody may be called by."""
    ports = {f"{name}listen": f":{free_port()}" for name in ("", "admin_")}
    with Sidecar(tmp_path, mode="standalone", **ports) as sidecar:
        settings = sidecar.arguments[4:]
        for verb, told in (
            (["rollout", "status"], "route"),
            (["feedback", "none", "--score", "1"], "no decision has this"),
        ):
            command = [*sidecar.arguments[:3], *verb, *settings]
            done = subprocess.run(command, env=sidecar.environ, capture_output=True, text=True, timeout=60, check=False)
            assert told in done.stdout + done.stderr


# ---- files that change while traffic runs


def swap(folder: Path, version: str, **files: str) -> None:
    """As the kubelet changes a mounted Secret: a new folder, then one rename of the link `..data`."""
    (folder / f"..{version}").mkdir(parents=True)
    for name, text in files.items():
        (folder / f"..{version}" / name).write_text(text)
    draft = folder / "..data_tmp"
    draft.symlink_to(f"..{version}")
    draft.rename(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


async def test_secrets_change_in_place(tmp_path: Path) -> None:
    """INC-35: tokens and the upstream's key are mounted Secrets; both change under load: no call fails, a new token is let
    in, the provider sees the new key, and a token that is taken out is refused."""
    tokens, keys = tmp_path / "tokens", tmp_path / "keys"
    old, new, mine = "sk-old-0123456789abcdef", "sk-new-0123456789abcdef", "sk-of-the-client"  # the load's
    swap(tokens, "1", tokens=f"{mine} shop\n")
    swap(keys, "1", **{"api-key": old})
    with Provider(tmp_path, *QUICK, f"keys=[{old}, {new}]") as provider:
        folder = policies(tmp_path, provider, keys / "api-key")
        shared = {"mode": "standalone", "policies": folder, "client_tokens_file": tokens / "tokens"}
        with Sidecar(tmp_path, provider.url, **shared) as sidecar:
            load = Load(sidecar.port, connections=4)
            async with load.running():
                assert await _status(sidecar, SEARCH) == 401
                swap(tokens, "2", tokens=f"{mine} shop\n{SEARCH} search\n")
                swap(keys, "2", **{"api-key": new})
                assert await _reached(sidecar, SEARCH, 200)
                provider_keys = f"keys=[{new}]"
                swap(tokens, "3", tokens=f"{mine} shop\n")
                assert await _reached(sidecar, SEARCH, 401)
            assert (load.failed, load.broken) == ([], {})
            provider.kill()
            with Provider(tmp_path, *QUICK, provider_keys, port=provider.port):
                assert await _reached(sidecar, mine, 200)
            assert sidecar.ready()[1]["notes"] == []


async def _status(sidecar: Sidecar, token: str) -> int:
    connection = Connection(sidecar.port)
    try:
        return (await connection.call(chat("2 + 2?"), {"Authorization": f"Bearer {token}"})).status
    finally:
        await connection.close()


async def _reached(sidecar: Sidecar, token: str, status: int) -> bool:
    """Whether calls with this token get this status, soon."""
    for _ in range(int(BUSY_S / 0.1)):
        if await _status(sidecar, token) == status:
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_the_certificate_changes_in_place(tmp_path: Path, workers: int) -> None:
    """As when cert-manager renews it, here with another kind of key: the new one is shown in new handshakes, the
    connection that is open goes on, and a pair of which one half is new changes nothing and is told."""
    authority, folder = trustme.CA(), tmp_path / "tls"
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def issue(version: str, kind: trustme.KeyType, old: trustme.LeafCert | None = None) -> trustme.LeafCert:
        made = authority.issue_cert("localhost", key_type=kind)
        pair = {"tls.crt": made.cert_chain_pems[0], "tls.key": (old or made).private_key_pem}
        swap(folder, version, **{name: blob.bytes().decode() for name, blob in pair.items()})
        return made

    def shown() -> bytes:
        with (
            socket.create_connection((LOOPBACK, sidecar.port), timeout=15) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            return client.getpeercert(binary_form=True) or b""

    def is_shown(leaf: trustme.LeafCert) -> bool:
        return shown() == ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())

    first = issue("1", trustme.KeyType.ECDSA)
    pair = {"tls_cert": folder / "tls.crt", "tls_key": folder / "tls.key"}
    with (
        Provider(tmp_path, *QUICK) as provider,
        Sidecar(tmp_path, provider.url, mode="standalone", workers=workers, host_names="localhost", **pair) as sidecar,
        closing(HTTPSConnection("localhost", sidecar.port, timeout=15, context=context)) as connection,
    ):
        assert post(connection) == 200
        issue("2", trustme.KeyType.RSA, old=first)
        assert wait_for(lambda: any("tls_cert" in note for note in sidecar.ready()[1]["notes"]), BUSY_S)
        time.sleep(3)  # tried again, by each worker
        assert all(is_shown(first) for _ in range(8))
        new = issue("3", trustme.KeyType.RSA)
        assert wait_for(lambda: all(is_shown(new) for _ in range(8)), BUSY_S)
        assert wait_for(lambda: sidecar.ready()[1]["notes"] == [], BUSY_S)
        assert post(connection) == 200
        assert sidecar.stop() == 0
        told = [kind for line in sidecar.output().splitlines() if (kind := json.loads(line)["event"])[:5] == "file."]
        assert told == ["file.refused", "file.accepted"]


# ---- probes


def test_probes_need_neither_upstream_nor_database(tmp_path: Path) -> None:
    """Both are dead from the start: /health and /ready say 200, also while calls fail; what is wrong is
    text."""
    (tmp_path / "file").write_text("no folder")
    with Sidecar(tmp_path, f"http://127.0.0.1:{free_port()}", db=tmp_path / "file" / "sidecar.db") as sidecar:
        with closing(HTTPConnection(LOOPBACK, sidecar.port, timeout=15)) as connection:
            for _ in range(3):
                assert post(connection) == 502
        assert wait_for(lambda: any("store" in note for note in sidecar.ready()[1]["notes"]), BUSY_S)
        with closing(HTTPConnection(LOOPBACK, sidecar.health_port, timeout=15)) as connection:
            for path in ("/health", "/ready"):
                connection.request("GET", path)
                answer = connection.getresponse()
                assert (answer.status, bool(answer.read())) == (200, True)
        assert sidecar.stop() == 0
