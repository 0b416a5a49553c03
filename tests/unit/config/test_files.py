"""Files are read as far as they may be: what has no end is an error that says so."""

from pathlib import Path

import pytest

from sidecar.config.catalogue import load_catalogue
from sidecar.config.files import MIB, content_of
from sidecar.config.prices import load_prices
from sidecar.config.settings import Settings
from sidecar.control.access import ensure_token
from sidecar.errors import ConfigError, TooLarge, UnreadableError
from sidecar.process import salt_of
from sidecar.proxy.certificate import Certificate
from sidecar.proxy.dial import client_tls

ZERO = Path("/dev/zero")


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(MIB))
    assert content_of(file) == bytes(MIB)
    file.write_bytes(bytes(MIB + 1))
    with pytest.raises(TooLarge, match="is larger than 1 MiB"):
        content_of(file)
    assert len(content_of(file, 2 * MIB)) == MIB + 1
    assert content_of(Path("/dev/null")) == b""


def test_what_has_no_end_is_told() -> None:
    """Each is an error of the configuration that lasts, and names the file."""
    with pytest.raises(ConfigError, match=r"/dev/zero: is larger than 1 MiB; name a readable UTF-8 file with --config"):
        Settings.load({}, ZERO, [])
    with pytest.raises(ConfigError, match=r"ca_file /dev/zero: is a pipe or a device; give a readable PEM file"):
        client_tls("/dev/zero")
    with pytest.raises(ConfigError, match=r"tls_cert /dev/null: .*is a pipe or a device"):
        Certificate(Path("/dev/null"), ZERO)
    with pytest.raises(ConfigError, match=r"salt_file /dev/zero: is larger than 1 MiB; give a readable file"):
        salt_of(Settings.load({}, None, ["salt_file=/dev/zero"]))
    with pytest.raises(ConfigError, match=r"admin_token_file /dev/zero: .*is larger than 1 MiB"):
        ensure_token(Settings.load({}, None, ["admin_token_file=/dev/zero"]))


def test_what_is_too_large_is_told(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as opened:
        opened.truncate(17 * MIB)
    with pytest.raises(ConfigError, match=r"large: is larger than 1 MiB; give a readable catalogue") as catalogue:
        load_catalogue(file)
    with pytest.raises(ConfigError, match=r"large: is larger than 1 MiB; give a readable PEM file of certificates"):
        client_tls(str(file))
    with pytest.raises(ConfigError, match=r"large: is larger than 16 MiB; give a readable price list") as prices:
        load_prices(file)
    assert not isinstance(catalogue.value, UnreadableError)
    assert not isinstance(prices.value, UnreadableError)
