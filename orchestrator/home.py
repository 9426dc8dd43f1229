"""The files of $ORC_HOME that client and server share: the token, server.json, the Unix socket's place.

Standard library only: the ``orc`` command reads them at each start.
"""

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CLIENT_TOKEN = frozenset({"ORC_TOKEN_FILE", "ORC_TOKEN"})  # what a client sends instead of home's own
SOCKET_NAME_LIMIT = 107  # bytes in sockaddr_un.sun_path, less the final NUL (man 7 unix)


def default_home() -> Path:
    """``$ORC_HOME``, or ``~/.orc``."""
    return Path(os.environ.get("ORC_HOME") or Path.home() / ".orc").expanduser().absolute()


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read (0600), whole or not at all."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def make_home(home: Path) -> None:
    """Makes the folder, readable by its owner alone."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)


def ensure_token(home: Path) -> str:
    """The first admin token of ``home``, made at first use (0600). The server's is this one, whatever token the
    environment names for a client: an agent that starts a server does not become its admin."""
    make_home(home)
    path = home / "token"
    if not path.exists():
        fd, temporary = tempfile.mkstemp(dir=home, prefix=".token.")
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        try:  # link, not rename: of two first starts at once, one token wins and both read it
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            Path(temporary).unlink()
    token = _admin_token(home)
    write_private(admin_header(home), header_line(token))
    return token


def read_token(home: Path) -> str:
    """The token that a client sends: ``ORC_TOKEN_FILE``'s, ``ORC_TOKEN``, or home's own. Never from argv."""
    if named := os.environ.get("ORC_TOKEN_FILE"):
        return Path(named).read_text().strip()
    return os.environ.get("ORC_TOKEN") or _admin_token(home)


def without_token(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without a client's token: that of a server, which has its own."""
    return {name: value for name, value in environment.items() if name not in CLIENT_TOKEN}


def _admin_token(home: Path) -> str:
    return (home / "token").read_text().strip()


def write_admin_token(home: Path, secret: str) -> None:
    """Another first admin token."""
    write_private(home / "token", secret + "\n")
    write_private(admin_header(home), header_line(secret))


def admin_header(home: Path) -> Path:
    """The file that ``curl -H @FILE`` takes, for the first admin token."""
    return home / "header"


def header_line(secret: str) -> str:
    """What stands in such a file."""
    return f"X-Auth-Token: {secret}\n"


def token_files(home: Path, name: str) -> tuple[Path, Path]:
    """Where a token lies for whoever uses it: by itself, and as the header that ``curl -H @FILE`` takes."""
    return home / "tokens" / name, home / "tokens" / f"{name}.header"


def write_token_files(home: Path, name: str, secret: str) -> tuple[Path, Path]:
    """Writes both (0600)."""
    token, header = token_files(home, name)
    token.parent.mkdir(mode=0o700, exist_ok=True)
    write_private(token, secret + "\n")
    write_private(header, header_line(secret))
    return token, header


def remove_token_files(home: Path, name: str) -> None:
    """Takes both away."""
    for path in token_files(home, name):
        path.unlink(missing_ok=True)


def socket_path(home: Path) -> Path:
    """Where the server of ``home`` listens: under XDG_RUNTIME_DIR where that is, else in home.

    Named by a hash of home, so that two servers of one user never collide. Raises ValueError
    where no name fits a socket address (107 bytes).
    """
    name = f"orc-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folders = [Path(runtime)] if runtime and os.access(runtime, os.W_OK) else []
    for folder in [*folders, home]:
        if len(os.fsencode(folder / name)) <= SOCKET_NAME_LIMIT:
            return folder / name
    raise ValueError(
        f"A Unix socket's path has {SOCKET_NAME_LIMIT} bytes and {home / name} has more: "
        "set XDG_RUNTIME_DIR, or a shorter ORC_HOME."
    )


def read_server_file(home: Path) -> dict[str, Any] | None:
    """What server.json says, or None where there is none (or half a one)."""
    try:
        found = json.loads((home / "server.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None
