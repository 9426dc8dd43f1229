"""$ORC_HOME's files, and settings by layers."""

import os
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator import home, settings
from orchestrator.data import shipped
from orchestrator.settings import Settings, provenance


def test_the_token_is_made_once_whoever_is_first(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(home.ensure_token(tmp_path / "h"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found[0]) >= 32
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "h").iterdir()} == {
        "token": "0o600",
        "header": "0o600",
    }
    assert (tmp_path / "h" / "header").read_text() == f"X-Auth-Token: {found[0]}\n"


def test_a_token_is_read_from_a_named_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.ensure_token(tmp_path)
    monkeypatch.setenv("ORC_TOKEN", "from-environment")
    assert home.read_token(tmp_path) == "from-environment"
    (tmp_path / "other").write_text("from-file\n")
    monkeypatch.setenv("ORC_TOKEN_FILE", str(tmp_path / "other"))
    assert home.read_token(tmp_path) == "from-file"


@pytest.mark.parametrize("name", ["ORC_TOKEN", "ORC_TOKEN_FILE"])
def test_the_token_that_a_client_sends_is_not_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "agents").write_text("an agent's\n")
    monkeypatch.setenv(name, str(tmp_path / "agents"))
    first = home.ensure_token(tmp_path / "h")
    assert first == (tmp_path / "h" / "token").read_text().strip()
    assert name not in home.without_token(os.environ)


def test_the_socket_lies_where_its_name_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert home.socket_path(Path("/a")).parent == tmp_path
    assert home.socket_path(Path("/a")) != home.socket_path(Path("/b"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    assert home.socket_path(Path("/a")).parent == Path("/a")
    with pytest.raises(ValueError, match="107 bytes"):
        home.socket_path(Path("/" + "long/" * 40))


def test_a_private_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_private(tmp_path / "x", "old")

    def fail(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no"):
            home.write_private(tmp_path / "x", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "old")]


def test_half_a_server_file_is_none(tmp_path: Path) -> None:
    assert home.read_server_file(tmp_path) is None
    (tmp_path / "server.json").write_text('{"url": ')
    assert home.read_server_file(tmp_path) is None


def test_later_layers_win_and_each_value_tells_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "etc"
    site.mkdir()
    monkeypatch.setattr(settings, "SITE_FOLDER", site)
    (site / "config.toml").write_text("port = 1\nredetect_seconds = 11\ngpu_reserve_after = 1\n")
    (tmp_path / "config.toml").write_text("port = 2\nredetect_seconds = 12\n")
    monkeypatch.setenv("ORC_HOME", str(tmp_path))
    monkeypatch.setenv("ORC_PORT", "3")
    made = Settings()
    found = {name: (value, origin.split(" ")[0]) for name, (value, origin) in provenance(made).items()}
    assert found["port"] == (3, "environment")
    assert found["redetect_seconds"] == (12, "home")
    assert found["gpu_reserve_after"] == (1, "site")
    assert found["gpu_ids"] == ("uuid", "default")
    assert found["runs_dir"] == (tmp_path / "runs", "computed")


@pytest.mark.parametrize("line", ["nonsense = 1", "port = 70000", 'gpu_ids = "name"', "env_pass = 1"])
def test_a_setting_that_cannot_be_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "config.toml").write_text(line + "\n")
    with pytest.raises(ValidationError, match=line.split(" ", maxsplit=1)[0]):
        Settings(home=tmp_path)


def test_what_is_not_shipped_is_told() -> None:
    with pytest.raises(FileNotFoundError, match="incomplete"):
        shipped("nothing-of-the-kind")
