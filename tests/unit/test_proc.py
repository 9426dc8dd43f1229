"""Processes told apart for good, on this machine's own /proc."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.proc import (
    ProcessId,
    Stat,
    all_processes,
    boot_id,
    cpu_seconds,
    descendants,
    host_name,
    listener_uid,
    marked,
    read_stat,
    session_of,
)

# A child that says that it is there and lives until its standard input ends, which is when the test does.
WAITING = "import sys; print('here', flush=True); sys.stdin.read()"
# The same, by fork twice and setsid: its parent is init, its session its own. It says its PID, and that the one
# between has been reaped.
DETACHED = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(1, b"%d\\n" % os.getpid())
        sys.stdin.read()
    os._exit(0)
os.wait()
os.write(1, b"reaped\\n")
"""
# The same, with a child of its own that has another environment.
PARENT = """
import os, sys
if os.fork() == 0:
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c",
              "import os, sys; print(os.getpid(), os.getppid(), flush=True); sys.stdin.read()"], {})
sys.stdin.read()
os.wait()
"""


def python(program: str, env: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-I", "-S", "-c", program]
    return subprocess.Popen(argv, env=env or {}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def first_line(process: "subprocess.Popen[bytes]") -> list[bytes]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def detached(process: "subprocess.Popen[bytes]") -> Stat:
    """What DETACHED has detached, once the process between is gone."""
    [pid] = {*first_line(process), *first_line(process)} - {b"reaped"}
    stat = read_stat(int(pid))
    assert stat is not None
    return stat


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with python(WAITING) as process:
        first_line(process)
        yield process


def own() -> ProcessId:
    found = ProcessId.of(os.getpid())
    assert found is not None
    return found


# -- one process -------------------------------------------------------------------------------------------------------


def test_this_process_is_alive() -> None:
    assert own().alive()
    assert (own().pid, own().boot) == (os.getpid(), boot_id())


def test_a_process_survives_being_written_down() -> None:
    assert ProcessId.load(own().dump()) == own()
    assert ProcessId.load({**own().dump(), "pid": str(os.getpid())}) == own()


def test_a_living_child_is_alive_and_a_reaped_one_is_gone(child: "subprocess.Popen[bytes]") -> None:
    found = ProcessId.of(child.pid)
    assert found is not None
    assert found.alive()
    child.kill()
    child.wait()
    assert not found.alive()
    assert ProcessId.of(child.pid) is None
    assert read_stat(child.pid) is None


def test_a_zombie_is_not_alive(child: "subprocess.Popen[bytes]") -> None:
    found = ProcessId.of(child.pid)
    assert found is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
    stat = read_stat(child.pid)
    assert stat is not None
    assert stat.state == "Z"
    assert not found.alive()


def test_a_stopped_process_is_alive(child: "subprocess.Popen[bytes]") -> None:
    found = ProcessId.of(child.pid)
    assert found is not None
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert found.alive()
    child.send_signal(signal.SIGCONT)


def test_another_process_with_the_same_pid_is_not_the_one_meant() -> None:
    assert not replace(own(), start_ticks=own().start_ticks - 1).alive()
    assert not replace(own(), start_ticks=own().start_ticks + 1).alive()


def test_nothing_of_another_boot_is_alive() -> None:
    assert not replace(own(), boot="00000000-0000-0000-0000-000000000000").alive()


def test_a_pid_that_cannot_be_is_gone() -> None:
    assert ProcessId.of(2**22 + 1) is None
    assert ProcessId.of(0) is None
    assert not replace(own(), pid=2**22 + 1).alive()


def test_what_stat_tells_is_what_the_system_calls_tell(child: "subprocess.Popen[bytes]") -> None:
    stat = read_stat(child.pid)
    assert stat is not None
    assert (stat.pid, stat.parent, stat.session) == (child.pid, os.getpid(), os.getsid(child.pid))
    mine = read_stat(os.getpid())
    assert mine is not None
    assert stat.start_ticks >= mine.start_ticks > 0


@pytest.mark.parametrize("name", ["a b", "a) S 1 (b", "))((", ") Z 1 1 1", "(", "é 💡", "a\nb) Z 0"])
def test_a_name_may_hold_spaces_and_parentheses(name: str) -> None:
    renamed = (
        "import sys; name = sys.stdin.buffer.read(int(sys.stdin.buffer.readline()));"
        "open('/proc/self/comm', 'wb').write(name); print('here', flush=True); sys.stdin.read()"
    )
    data = name.encode()
    with python(renamed) as process:
        assert process.stdin is not None
        process.stdin.write(f"{len(data)}\n".encode() + data)
        process.stdin.flush()
        first_line(process)
        assert data[:15] in Path(f"/proc/{process.pid}/stat").read_bytes()
        stat = read_stat(process.pid)
        found = ProcessId.of(process.pid)
    assert stat is not None
    assert (stat.parent, stat.state in "RS", found is not None) == (os.getpid(), True, True)


def test_a_process_that_one_may_not_look_at_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # /proc mounted with hidepid=1, as on many login nodes.
    read_bytes = Path.read_bytes
    hidden = "/proc/1/"

    def refusing(path: Path) -> bytes:
        if str(path).startswith(hidden):
            raise PermissionError(1, "Operation not permitted", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    pids = {stat.pid for stat in all_processes()}
    assert os.getpid() in pids
    assert 1 not in pids


def test_the_host_is_named_as_the_system_names_it() -> None:
    assert host_name() == socket.gethostname()


# -- all of them -------------------------------------------------------------------------------------------------------


def test_all_processes_hold_this_one_and_its_child_and_no_thread(child: "subprocess.Popen[bytes]") -> None:
    found = {stat.pid: stat for stat in all_processes()}
    assert found[child.pid].parent == os.getpid()
    assert os.getpid() in found


def stats(parents: dict[int, int]) -> list[Stat]:
    return [Stat(pid, "S", parent, pid, 1) for pid, parent in parents.items()]


def test_descendants_are_children_and_theirs_and_not_the_roots() -> None:
    processes = stats({2: 1, 3: 1, 4: 2, 5: 4, 6: 3, 7: 99})
    assert descendants([2], processes) == {4, 5}
    assert descendants([1], processes) == {2, 3, 4, 5, 6}
    assert descendants([4, 3], processes) == {5, 6}
    assert descendants([5], processes) == set()
    assert descendants([], processes) == set()
    assert descendants([2], []) == set()


@given(st.dictionaries(st.integers(2, 20), st.integers(1, 20), max_size=15), st.sets(st.integers(1, 20), max_size=4))
@settings(max_examples=60)
def test_descendants_end_whatever_the_table_says(parents: dict[int, int], roots: set[int]) -> None:
    def below(pid: int) -> bool:
        seen: set[int] = set()
        while pid in parents and pid not in seen:
            seen.add(pid)
            pid = parents[pid]
            if pid in roots:
                return True
        return False

    # A table read while processes come and go may even hold a circle.
    assert descendants(roots, stats(parents)) == {pid for pid in parents if below(pid)}


def test_a_marked_process_is_found_and_another_is_not(child: "subprocess.Popen[bytes]") -> None:
    value = uuid4().hex
    with python(WAITING, {"ORC_TEST_MARK": value}) as process:
        first_line(process)
        found = marked("ORC_TEST_MARK", value)
        assert found == [ProcessId.of(process.pid)]
        assert marked("ORC_TEST_MARK", value[:-1]) == []
        assert marked("ORC_TEST", value) == []
        assert marked("TEST_MARK", value) == []
    assert marked("ORC_TEST_MARK", value) == []


def test_a_process_that_was_detached_by_forks_and_setsid_is_found() -> None:
    value = uuid4().hex
    with python(DETACHED, {"ORC_TEST_MARK": value}) as process:
        stat = detached(process)
        assert stat.parent not in {process.pid, os.getpid()}
        assert stat.session != os.getsid(0)
        assert stat.pid in {found.pid for found in marked("ORC_TEST_MARK", value)}


def test_what_a_marked_process_started_is_found_with_another_environment_too() -> None:
    value = uuid4().hex
    with python(PARENT, {"ORC_TEST_MARK": value}) as process:
        pid, parent = map(int, first_line(process))
        assert parent == process.pid
        assert f"ORC_TEST_MARK={value}".encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        assert {found.pid for found in marked("ORC_TEST_MARK", value)} == {process.pid, pid}


def test_a_marked_zombie_is_not_found() -> None:
    value = uuid4().hex
    with python("pass", {"ORC_TEST_MARK": value}) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert marked("ORC_TEST_MARK", value) == []


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_a_session_is_found_by_its_leader_dead_or_alive() -> None:
    with python(DETACHED) as process:
        member = detached(process)
        found = session_of(ProcessId(member.session, 0, boot_id()))  # the leader has ended; its start is not asked for
        assert ProcessId.of(member.pid) in found
    leader = ProcessId.of(os.getsid(0))
    if leader is not None:
        assert {own(), leader} <= set(session_of(leader))


def test_a_session_of_another_leader_with_the_same_pid_is_another() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as process:
        leader = ProcessId.of(process.pid)
        assert leader is not None
        assert session_of(leader) == [leader]
        assert session_of(replace(leader, start_ticks=leader.start_ticks - 1)) == []


def test_a_session_whose_new_leader_is_a_zombie_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    # The PID was used again, that leader has ended unreaped, and what it started is not the run's.
    table = [Stat(500, "Z", 1, 500, 9_000), Stat(501, "S", 1, 500, 9_001)]
    monkeypatch.setattr("orchestrator.proc.all_processes", lambda: table)
    assert session_of(ProcessId(500, 100, boot_id())) == []


# -- who listens -------------------------------------------------------------------------------------------------------


def bound(family: socket.AddressFamily, address: str, port: int = 0) -> socket.socket:
    found = socket.socket(family)
    if family == socket.AF_INET6:
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        found.bind((address, port))
    except OSError:
        found.close()
        pytest.skip(f"{address} cannot be bound here")
    return found


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_user_who_listens_is_found(family: socket.AddressFamily, host: str) -> None:
    with bound(family, host) as listener:
        port = int(listener.getsockname()[1])
        assert listener_uid(host, port) is None  # bound, and not listening yet
        listener.listen()
        assert listener_uid(host, port) == os.getuid()
        assert listener_uid("127.0.0.2", port) is None
    assert listener_uid(host, port) is None


def test_who_listens_on_the_other_loopback_address_is_another() -> None:
    with bound(socket.AF_INET, "127.0.0.1") as listener:
        listener.listen()
        assert listener_uid("::1", listener.getsockname()[1]) is None
    # The same port of the other address is held, so that nobody else listens there.
    with bound(socket.AF_INET, "127.0.0.1") as held, bound(socket.AF_INET6, "::1", held.getsockname()[1]) as listener:
        listener.listen()
        assert listener_uid("127.0.0.1", listener.getsockname()[1]) is None


def test_a_connection_is_no_listener() -> None:
    with bound(socket.AF_INET, "127.0.0.1") as listener:
        listener.listen()
        address = listener.getsockname()
        with socket.create_connection(address) as client, listener.accept()[0]:
            assert listener_uid("127.0.0.1", client.getsockname()[1]) is None
            listener.close()
            assert listener_uid("127.0.0.1", address[1]) is None


def test_who_listens_on_all_addresses_listens_on_the_loopback_one() -> None:
    with bound(socket.AF_INET, "0.0.0.0") as listener:
        listener.listen()
        assert listener_uid("127.0.0.1", listener.getsockname()[1]) == os.getuid()
    with bound(socket.AF_INET6, "::") as listener:
        listener.listen()
        assert listener_uid("::1", listener.getsockname()[1]) == os.getuid()


def test_who_listens_on_all_ipv6_addresses_listens_on_the_ipv4_ones_too() -> None:
    with bound(socket.AF_INET6, "::") as listener:
        listener.listen()
        assert listener_uid("127.0.0.1", listener.getsockname()[1]) == os.getuid()


def test_who_listens_on_all_ipv4_addresses_does_not_listen_on_an_ipv6_one() -> None:
    # Or whoever listens on [::1] would get the token that is meant for the one on 0.0.0.0.
    with bound(socket.AF_INET, "0.0.0.0") as listener:
        listener.listen()
        assert listener_uid("::1", listener.getsockname()[1]) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a socket to another user")
def test_the_owner_is_the_one_whose_socket_it_is() -> None:
    # On one port, ours on all IPv4 addresses, another's on [::1].
    with bound(socket.AF_INET, "0.0.0.0") as ours, socket.socket(socket.AF_INET6) as theirs:
        port = int(ours.getsockname()[1])
        os.fchown(theirs.fileno(), 65534, -1)
        theirs.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            theirs.bind(("::1", port))
        except OSError:
            pytest.skip("the port is taken on ::1")
        ours.listen()
        theirs.listen()
        assert listener_uid("127.0.0.1", port) == os.getuid()
        assert listener_uid("::1", port) == 65534


def test_a_machine_without_ipv6_has_no_ipv6_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    read_text = Path.read_text

    def without(path: Path) -> str:
        if str(path) == "/proc/net/tcp6":
            raise FileNotFoundError(str(path))
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", without)
    with bound(socket.AF_INET, "127.0.0.1") as listener:
        listener.listen()
        port = listener.getsockname()[1]
        assert (listener_uid("127.0.0.1", port), listener_uid("::1", port)) == (os.getuid(), None)


# Burns CPU time in a child that ends, and in one that lives; says so and waits.
BUSY = """
import os, sys, time
def burn():
    while time.process_time() < 0.3:
        pass
if os.fork() == 0:
    burn()
    os._exit(0)
os.wait()
if os.fork() == 0:
    burn()
    print("here", flush=True)
    sys.stdin.read()
    os._exit(0)
sys.stdin.read()
os.wait()
"""


def test_the_cpu_time_of_a_tree_is_that_of_those_that_have_ended_too() -> None:
    with python(BUSY) as busy, python(WAITING) as idle:
        assert busy.stdout is not None
        assert idle.stdout is not None
        assert (busy.stdout.readline(), idle.stdout.readline()) == (b"here\n", b"here\n")
        roots = [ProcessId.of(process.pid) for process in (busy, idle)]
        assert roots[0] is not None
        assert roots[1] is not None
        used = [cpu_seconds(root) for root in roots if root is not None]
        assert used[0] is not None
        assert used[1] is not None
        assert (used[0] >= 0.5, used[1] < 0.5) == (True, True)
        assert cpu_seconds(replace(roots[0], start_ticks=roots[0].start_ticks + 1)) is None
