"""A helper process that answers questions within a deadline, for libraries that may hang, crash or exit.

Questions and answers are lines of JSON. A helper that is late is killed; the next question starts another.
"""

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from orchestrator.errors import ProbeFailed
from orchestrator.proc import reap


class Worker:
    """One helper process running ``python -m MODULE``, started at the first question.

    ``environment``: what the process has, made when it is started; without, the server's own.
    """

    def __init__(self, module: str, environment: Callable[[], dict[str, str]] | None = None) -> None:
        self._module = module
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, operation: str, deadline: float, **values: Any) -> dict[str, Any]:
        """The answer to one question, asked with these values (JSON).

        Raises ProbeFailed when there is none within ``deadline`` seconds.
        """
        with self._lock:
            process = self._running()
            until = time.monotonic() + deadline
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps({"op": operation, **values}).encode() + b"\n")
                process.stdin.flush()
                line = _line(process, until)
            except (BrokenPipeError, EOFError):
                self._kill()
                code = process.returncode
                raise ProbeFailed(f"the helper process ended by itself (status {code}).") from None
            except TimeoutError:
                self._kill()
                raise ProbeFailed(f"no answer within {deadline:g} s; the helper process was ended.") from None
            answer = json.loads(line)
            assert isinstance(answer, dict)
            return answer

    def close(self) -> None:
        """Ends the helper; one that is well ends by itself when its input does."""
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=2)
            self._kill()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self._kill()
            command = [sys.executable, "-m", self._module]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=None if self._environment is None else self._environment(),
            )
        return self._process

    def _kill(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        reap(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def _line(process: "subprocess.Popen[bytes]", until: float) -> bytes:
    """One line from the helper; TimeoutError after ``until``, EOFError when it ended."""
    assert process.stdout is not None
    fd, found = process.stdout.fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while not found.endswith(b"\n"):
            if not selector.select(max(0.0, until - time.monotonic())):
                raise TimeoutError
            chunk = os.read(fd, 65536)
            if not chunk:
                raise EOFError
            found += chunk
    return found
