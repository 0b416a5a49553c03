"""Reload: changes are seen, also a ConfigMap's symlink swap, and a bad file keeps the last good policy."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO

import pytest

from sidecar.config import document, watch
from sidecar.config import prices as price_files
from sidecar.config.catalogue import load_catalogue
from sidecar.config.document import Problems
from sidecar.config.files import content_of
from sidecar.config.policy import Loaded
from sidecar.config.prices import PriceSource, bundled_prices, load_prices
from sidecar.config.watch import PolicySource, Watch
from sidecar.core.policy import NO_POLICY
from sidecar.errors import ConfigError

GOOD = 'version: 1\nservice: bot\nupstreams:\n  o: {dialect: openai, base_url: "http://h"}\nroutes: []\n'


def polled(source: PolicySource) -> Loaded | None:
    """What a sidecar does every second (`control.reloading`), without its thread."""
    return source.take(source.read()) if source.changed() else source.retry()


def config_map(root: Path, name: str, content: str) -> None:
    """What the kubelet does: a new folder, then one rename of the `..data` symlink."""
    (root / name).mkdir()
    (root / name / "policy.yaml").write_text(content)
    (root / "..data_tmp").symlink_to(name)
    (root / "..data_tmp").replace(root / "..data")
    if not (root / "policy.yaml").is_symlink():
        (root / "policy.yaml").symlink_to("..data/policy.yaml")


def test_watch_sees_edits_new_files_and_deletions(tmp_path: Path) -> None:
    """Each change once, and nothing when nothing happened; also of single files and of what does not exist yet."""
    single, watched = tmp_path / "priors", tmp_path / "policies"
    seen = Watch([watched, single])
    assert not seen.changed()
    watched.mkdir()
    assert [seen.changed(), seen.changed()] == [True, False]
    (watched / "a.yaml").write_text("a")
    assert [seen.changed(), seen.changed()] == [True, False]
    (watched / "a.yaml").write_text("ab")
    assert [seen.changed(), seen.changed()] == [True, False]
    (watched / "a.yaml").unlink()
    assert [seen.changed(), seen.changed()] == [True, False]
    single.write_text("x")
    assert [seen.changed(), seen.changed()] == [True, False]


def test_a_folder_that_may_not_be_looked_at_is_an_error_of_the_policy(tmp_path: Path) -> None:
    """Whatever the system says of it, the process starts."""
    source = PolicySource(tmp_path / ("n" * 300), "bot", {})
    assert polled(source) is None
    assert "cannot be listed" in str(source.error)


def test_config_map_swap(tmp_path: Path) -> None:
    """INC-35, GW-50: the swap of `..data` is a change although no file of the folder was touched."""
    config_map(tmp_path, "..1", GOOD)
    source = PolicySource(tmp_path, "bot", {})
    assert polled(source) is None
    config_map(tmp_path, "..2", GOOD + "replicas: 2\n")
    loaded = polled(source)
    assert loaded is not None
    assert (loaded.policy.replicas, source.current, source.error) == (2, loaded, None)
    assert polled(source) is None


def test_what_could_not_be_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has no descriptor left for a moment, or a disk that fails: nothing changes in the folder, and the
    policy comes into force all the same."""
    file = tmp_path / "p.yaml"
    file.write_text(GOOD)
    source = PolicySource(tmp_path, "bot", {})
    file.write_text(GOOD + "replicas: 2\n")

    def fails(_path: Path, _mode: str) -> IO[bytes]:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as short:
        short.setattr(Path, "open", fails)
        for _ in range(3):
            assert polled(source) is None
            assert source.error == f"{file}:1: (file): cannot be read (OSError); check its name and permissions"
    loaded = polled(source)
    assert loaded is not None
    assert (loaded.policy.replicas, source.error) == (2, None)
    assert polled(source) is None


def test_files_that_a_policy_names_are_read_again_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that could not be read for a moment is as a policy that could not be."""
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "any.json").write_text("{}")
    (tmp_path / "p.yaml").write_text(
        "version: 1\nservice: bot\n"
        "upstreams: {o: {dialect: openai, base_url: 'http://127.0.0.1:8000/v1'}}\n"
        "routes:\n"
        "  - name: r\n"
        "    baseline: {id: a, upstream: o, model: m}\n"
        "    quality: {validators: [json_schema], output_schema: schemas/any.json}\n"
    )

    def fails(_path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as short:
        short.setattr(document, "content_of", fails)
        source = PolicySource(tmp_path, "bot", {})
        assert "output_schema: cannot be read (OSError); " in str(source.error)
    loaded = polled(source)
    assert loaded is not None
    assert (loaded.policy.routes[0].quality.schema, source.error) == (b"{}", None)


@pytest.mark.parametrize(("before", "mended"), [(None, "{}"), ("{", "{}"), ("[]", "{}")])
def test_a_policy_waits_for_the_files_that_it_names(tmp_path: Path, before: str | None, mended: str) -> None:
    """A schema or prompt in another folder that comes later, or is mended, brings its policy into force without an edit."""
    (tmp_path / "schemas").mkdir()
    schema, folder = tmp_path / "schemas" / "s.json", tmp_path / "policies"
    folder.mkdir()
    if before is not None:
        schema.write_text(before)
    source = PolicySource(folder, "bot", {})
    quality = "quality: {validators: [json_schema], output_schema: ../schemas/s.json}"
    route = f"  - {{name: chat, {quality}, baseline: {{id: a, upstream: o, model: m}}}}\n"
    (folder / "bot.yaml").write_text(GOOD.replace("routes: []\n", f"routes:\n{route}"))
    assert [polled(source), polled(source), source.changed()] == [None, None, False]
    assert "output_schema" in str(source.error)
    schema.write_text(mended)
    loaded = polled(source)
    assert loaded is not None
    assert (source.error, loaded.policy.routes[0].quality.schema) == (None, mended.encode())
    assert [polled(source), source.changed()] == [None, False]


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    """One in the folder, one that the policy names, and one in the place of a price list or catalogue: nobody writes it."""
    file, prices, pipe = tmp_path / "p.yaml", tmp_path / "prices.json", tmp_path / "pipe.yaml"
    file.write_text(GOOD)
    prices.write_bytes(bundled_prices().read_bytes())
    source, listed = PolicySource(tmp_path, "bot", {}), PriceSource(prices)
    os.mkfifo(pipe)
    assert polled(source) is None
    assert source.error == f"{pipe}:1: (file): is a pipe or a device; give a regular file"
    with pytest.raises(ConfigError, match=r"pipe\.yaml: is a pipe or a device"):
        load_catalogue(pipe)
    os.replace(pipe, prices)
    assert listed.changed()
    assert not listed.reload()
    assert listed.error is not None
    assert listed.error.startswith(f"{prices}: is a pipe or a device; ")
    problems = Problems(str(file))
    with pytest.raises(OSError, match="is a pipe or a device"):
        problems.content(prices.name)


def test_prices_that_could_not_be_read_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prices.json"
    file.write_bytes(bundled_prices().read_bytes())
    source = PriceSource(file)
    assert not source.changed()

    advice = "give a readable price list; the last good price list stays in force"

    def fails(_path: Path, _most: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    file.touch()
    with monkeypatch.context() as broken:
        broken.setattr(price_files, "content_of", fails)
        for _ in range(3):
            assert source.changed()
            assert not source.reload()
            assert source.error == f"{file}: Input/output error; {advice}"
    assert source.changed()
    assert source.reload()
    assert (source.error, source.changed()) == (None, False)


def test_a_slow_reading_does_not_bring_an_older_list_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is swapped while its former content is on its way from a slow volume."""
    file, begun, go = tmp_path / "prices.json", threading.Event(), threading.Event()
    old = bundled_prices().read_bytes()
    new = old.replace(load_prices().version.encode(), b"newer")
    file.write_bytes(old)
    source = PriceSource(file)

    def slow(path: Path, most: int) -> bytes:
        found = content_of(path, most)
        if found == old:
            begun.set()
            assert go.wait(60.0)
        return found

    monkeypatch.setattr(price_files, "content_of", slow)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(source.reload)
        assert begun.wait(60.0)
        file.write_bytes(new)
        second = threads.submit(source.reload)
        wait([second], 0.2)  # it may not overtake, and need not have begun
        go.set()
        assert first.result()
        assert second.result()
    assert (source.current.version, source.text) == ("newer", new)


def test_a_list_of_another_process_is_used_and_its_file_read_again(tmp_path: Path) -> None:
    """Which may be half written by then."""
    file = tmp_path / "prices.json"
    file.write_text("{")
    source = PriceSource(file, bundled_prices().read_bytes())
    assert source.changed()
    assert not source.reload()
    assert (source.current.version, source.text) == (load_prices().version, bundled_prices().read_bytes())


def test_a_bad_file_keeps_the_last_good_policy(tmp_path: Path) -> None:
    """INC-35: broken, then deleted, then good again; `error` says what is wrong meanwhile."""
    file = tmp_path / "p.yaml"
    file.write_text(GOOD)
    source = PolicySource(tmp_path, "bot", {})
    good = source.current
    assert good.policy.service == "bot"
    file.write_text("version: 1\nserv")
    assert (polled(source), source.current) == (None, good)
    assert source.error is not None
    assert source.error.startswith(f"{file}:")
    file.unlink()
    assert (polled(source), source.current) == (None, good)
    assert source.error == f"{file}: is gone, its policy stays in force; write a policy with `routes: []` instead"
    file.write_text("# another layout\n" + GOOD)
    assert (polled(source), source.error, source.current.policy) == (None, None, good.policy)
    file.write_text(GOOD + "replicas: 3\n")
    loaded = polled(source)
    assert loaded is not None
    assert (loaded.policy.replicas, source.error) == (3, None)


def test_without_its_own_file_a_service_goes_by_the_one_for_all(tmp_path: Path) -> None:
    """As a process that starts now would; it is told. With neither, the last one stays."""
    own, general = tmp_path / "bot.yaml", tmp_path / "all.yaml"
    own.write_text(GOOD + "replicas: 2\n")
    general.write_text(GOOD.replace("bot", '"*"'))
    source = PolicySource(tmp_path, "bot", {})
    assert (source.current.file, source.current.warnings) == (own, ())
    own.unlink()
    loaded = polled(source)
    assert loaded is not None
    assert (loaded.file, loaded.policy, source.error) == (
        general,
        PolicySource(tmp_path, "bot", {}).current.policy,
        None,
    )
    assert loaded.warnings == (f"{own}: has no policy for 'bot' any more; {general}, for `*`, is in force",)
    general.unlink()
    assert (polled(source), source.current) == (None, loaded)
    assert str(source.error).startswith(f"{general}: is gone, its policy stays in force; ")
    own.write_text(GOOD)
    assert (polled(source), source.error, source.current.warnings) == (source.current, None, ())


def test_a_bad_start_means_no_policy(tmp_path: Path) -> None:
    """Traffic goes on unchanged; the error is told; the repaired file is taken."""
    (tmp_path / "p.yaml").write_text("nonsense")
    source = PolicySource(tmp_path, "bot", {})
    assert (source.current, source.error is None) == (Loaded(NO_POLICY), False)
    (tmp_path / "p.yaml").write_text(GOOD)
    assert polled(source) == source.current
    assert source.error is None


def test_no_folder() -> None:
    """Unset means no policy, and no error."""
    source = PolicySource(None, "bot", {})
    assert (source.current, source.error, polled(source)) == (Loaded(NO_POLICY), None, None)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """A wrong path is an error in words, not in an exception."""
    source = PolicySource(tmp_path / "none", "bot", {})
    assert source.error is not None
    assert "cannot be listed" in source.error


def test_our_own_bug_keeps_the_policy_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a reload raises, the policy in force stays."""
    (tmp_path / "p.yaml").write_text(GOOD)
    source = PolicySource(tmp_path, "bot", {})

    def broken(*_: object) -> Loaded:
        raise ZeroDivisionError

    monkeypatch.setattr(watch, "load_policies", broken)
    assert (source.take(source.read()), source.current.policy.service) == (None, "bot")
    assert source.error is not None
    assert "ZeroDivisionError: our bug" in source.error


def test_an_unreadable_folder_is_watched_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be listed now (permissions, a stale mount) does not stop the polling."""
    seen = Watch([tmp_path])

    def unlistable(_: Path) -> object:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", unlistable)
    assert not seen.changed()


def test_a_refused_policy_is_not_current_and_comes_again(tmp_path: Path) -> None:
    """What could not be put in force is returned at every poll until it is, also when the same is written again; the file
    that was in force before may come back, too."""
    file = tmp_path / "p.yaml"
    file.write_text(GOOD)
    source = PolicySource(tmp_path, "bot", {})
    former = source.current
    for text in (GOOD + "replicas: 2\n", GOOD + "# again\nreplicas: 2\n"):
        file.write_text(text)
        for _ in range(2):
            loaded = polled(source)
            assert loaded is not None
            assert (loaded.policy.replicas, source.error) == (2, None)
            source.refuse("its ca_file is not there")
            assert (source.current, source.error) == (former, "its ca_file is not there")
    file.write_text(GOOD)
    assert (polled(source), source.error, source.current.policy) == (None, None, former.policy)
    file.write_text(GOOD + "replicas: 2\n")
    assert polled(source) == source.current
    assert (source.error, polled(source)) == (None, None)


def test_a_file_that_was_unreadable_is_read_when_its_rights_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That changes neither inode nor size nor the time of the content; as long as nothing changes nothing is read twice."""
    read = watch.load_policies
    file, reads = tmp_path / "p.yaml", 0
    file.write_text(GOOD)
    source = PolicySource(tmp_path, "bot", {})
    rights = 0o000

    def load(*arguments: object) -> Loaded:
        nonlocal reads
        reads += 1
        if not rights:
            raise ConfigError("cannot be read")
        return read(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(watch, "load_policies", load)
    file.write_text(GOOD + "replicas: 2\n")
    assert [polled(source), polled(source), source.error, reads] == [None, None, "cannot be read", 1]
    rights = 0o600
    file.chmod(rights)
    loaded = polled(source)
    assert loaded is not None
    assert (loaded.policy.replicas, source.error, polled(source), reads) == (2, None, None, 2)
