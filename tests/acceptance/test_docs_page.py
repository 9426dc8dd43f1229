"""/docs in a real browser, offline, under the page's own Content-Security-Policy."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.service import RealServer

pytestmark = pytest.mark.acceptance
BROWSER = shutil.which("chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=8000"),
    *("--enable-logging=stderr", "--v=0"),
]


@pytest.mark.skipif(BROWSER is None, reason="No chromium is installed.")
def test_the_api_page_shows_every_group_without_a_violation(server: RealServer, tmp_path: Path) -> None:
    assert BROWSER is not None
    url = str(server.http.base_url.join("/docs"))
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    for group in ("cluster", "runs", "sweeps", "plans", "alerts", "events", "outputs"):
        assert f'id="operations-tag-{group}"' in done.stdout
    assert 'id="operations-runs-' in done.stdout
    refused = [line for line in done.stderr.splitlines() if "Refused to" in line or "violates the following" in line]
    assert [line for line in refused if "script" in line or "connect" in line] == []
