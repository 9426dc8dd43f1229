"""What a run left: a log in pages that lose and garble nothing, artifacts that are the run's own."""

import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.errors import NotFound
from orchestrator.outputs import MAX_PAGE, LogPage, artifact, artifacts, log_page, media_type

texts = st.text(st.sampled_from("aé€💡\n") | st.characters(exclude_categories=["Cs"]), max_size=60)
ALL_LENGTHS = "a💡é€b€€é💡💡c\n"  # characters of one to four bytes, in many orders
binaries = st.binary(max_size=60) | st.lists(
    st.sampled_from([b"a", b"\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f", b"\xff", b"\xe2\x82\xac"]), max_size=30
).map(b"".join)


class Log:
    """A log file of its own, for tests that hypothesis runs many times."""

    def __init__(self, folder: str, data: bytes) -> None:
        self.path = Path(folder) / "log"
        self.path.write_bytes(data)
        self.total = len(data)

    def by_next_offset(self, limit: int) -> list[LogPage]:
        pages = [log_page(self.path, 0, limit)]
        while pages[-1].next_offset < self.total:
            pages.append(log_page(self.path, pages[-1].next_offset, limit))
            assert pages[-1].next_offset > pages[-2].next_offset  # or it would never end
        return pages

    def by_limit(self, limit: int) -> list[LogPage]:
        return [log_page(self.path, offset, limit) for offset in range(0, self.total, limit)]


def joined(pages: list[LogPage]) -> str:
    return "".join(page.content for page in pages)


# -- pages of text -----------------------------------------------------------------------------------------------------


@given(texts, st.integers(1, 70))
@example(ALL_LENGTHS, 1)
@example(ALL_LENGTHS, 2)
@example(ALL_LENGTHS, 3)
@settings(max_examples=120)
def test_pages_by_next_offset_join_to_the_whole_text(text: str, limit: int) -> None:
    with TemporaryDirectory() as folder:
        pages = Log(folder, text.encode()).by_next_offset(limit)
    assert joined(pages) == text
    assert pages[-1].next_offset == len(text.encode())


@given(texts, st.integers(4, 70))
@example(ALL_LENGTHS, 4)
@example(ALL_LENGTHS, 5)
@settings(max_examples=120)
def test_pages_by_offset_and_limit_join_to_the_whole_text(text: str, limit: int) -> None:
    with TemporaryDirectory() as folder:
        assert joined(Log(folder, text.encode()).by_limit(limit)) == text


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_smaller_than_a_character_join_to_the_whole_text_too(tmp_path: Path, limit: int) -> None:
    log = Log(str(tmp_path), ALL_LENGTHS.encode())
    assert joined(log.by_limit(limit)) == ALL_LENGTHS


@given(texts, st.integers(-80, 80), st.integers(4, 70))
@settings(max_examples=120)
def test_a_page_is_the_text_at_its_offset(text: str, offset: int, limit: int) -> None:
    data = text.encode()
    with TemporaryDirectory() as folder:
        page = log_page(Log(folder, data).path, offset, limit)
    shown = page.content.encode()
    assert data[page.offset : page.offset + len(shown)] == shown
    asked = max(0, len(data) + offset) if offset < 0 else min(offset, len(data))
    assert asked - 3 <= page.offset <= asked
    assert asked + limit - 3 <= page.offset + len(shown) <= asked + limit or page.offset + len(shown) == len(data)
    assert page.total_size == len(data)
    assert page.has_more_before == (page.offset > 0)
    assert page.has_more_after == (page.next_offset < len(data))


@given(texts, st.integers(4, 70))
@settings(max_examples=60)
def test_pages_backwards_join_to_the_whole_text(text: str, limit: int) -> None:
    with TemporaryDirectory() as folder:
        log = Log(folder, text.encode())
        pages = [log_page(log.path, -limit, limit)]
        while pages[0].has_more_before:  # as a page's reader scrolls up: what ends where the present one begins
            before = max(0, pages[0].offset - limit)
            pages.insert(0, log_page(log.path, before, pages[0].offset - before))
            if pages[0].offset == pages[1].offset:
                pytest.fail("no way further up")
    assert joined(pages) == text


@given(texts, st.lists(st.integers(1, 9), max_size=40))
@example("é", [1])
@example(ALL_LENGTHS, [1] * 40)
@settings(max_examples=80)
def test_who_follows_a_growing_log_sees_every_character_once_and_whole(text: str, steps: list[int]) -> None:
    data, position, offset, seen = text.encode(), 0, 0, ""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        with path.open("wb", buffering=0) as growing:
            for step in [*steps, len(data)]:
                growing.write(data[position : position + step])
                position += step
                for _ in range(20):  # until there is no more, as a follower does
                    page = log_page(path, offset, 16, growing=True)
                    seen, offset = seen + page.content, page.next_offset
                    if not page.has_more_after:
                        break
    assert seen == text


def test_half_a_character_at_the_end_is_shown_once_nothing_can_follow(tmp_path: Path) -> None:
    path = Log(str(tmp_path), "aé€".encode()[:-1]).path
    growing, ended = log_page(path, 0, 100, growing=True), log_page(path, 0, 100)
    assert (growing.content, growing.next_offset, growing.has_more_after) == ("aé", 3, False)
    assert (ended.content, ended.next_offset, ended.has_more_after) == ("aé\ufffd", 5, False)


@pytest.mark.parametrize("data", [b"abc", "aé€".encode()[:-1], b"\xff\xf0\x9f"])
def test_at_the_end_of_an_ended_log_there_is_nothing_more(tmp_path: Path, data: bytes) -> None:
    # Half a character too is shown once, or who reads until nothing comes would read for ever.
    log = Log(str(tmp_path), data)
    page = log_page(log.path, log.by_next_offset(100)[-1].next_offset, 100)
    assert (page.content, page.next_offset, page.has_more_after) == ("", len(data), False)


# -- any bytes ---------------------------------------------------------------------------------------------------------


@given(binaries, st.integers(1, 70))
@settings(max_examples=150)
def test_of_binary_output_no_byte_is_passed_over(data: bytes, limit: int) -> None:
    with TemporaryDirectory() as folder:
        pages = Log(folder, data).by_next_offset(limit)
    reached = 0
    for page in pages:
        assert page.offset <= reached <= page.next_offset
        assert page.next_offset - page.offset <= limit + 3
        reached = page.next_offset
    assert reached == len(data)
    plain = bytes(byte for byte in data if byte < 0x80).decode()
    assert "".join(char for char in joined(pages) if char < "\x80") == plain


@given(binaries, st.integers(4, 70))
@settings(max_examples=100)
def test_of_binary_output_pages_by_offset_and_limit_show_all_that_is_text(data: bytes, limit: int) -> None:
    with TemporaryDirectory() as folder:
        pages = Log(folder, data).by_limit(limit)
    plain = bytes(byte for byte in data if byte < 0x80).decode()
    assert "".join(char for char in joined(pages) if char < "\x80") == plain


def test_what_is_no_utf_8_is_shown_as_replaced(tmp_path: Path) -> None:
    page = log_page(Log(str(tmp_path), b"a\xffb\xe9c").path, 0, 100)
    assert (page.content, page.next_offset) == ("a\ufffdb\ufffdc", 5)


# -- the edges of a log ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "none/log", "log/inside"])
def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / "log").touch()
    assert log_page(tmp_path / name, -10_000, 10_000) == LogPage("", 0, 0, False, False, 0)
    assert log_page(tmp_path / "log", 0, 10) == LogPage("", 0, 0, False, False, 0)


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [
        (-4, 10, LogPage("6789", 6, 10, True, False, 10)),
        (-4, 2, LogPage("67", 6, 10, True, True, 8)),
        (-10, 10, LogPage("0123456789", 0, 10, False, False, 10)),
        (-1000, 3, LogPage("012", 0, 10, False, True, 3)),
        (0, 4, LogPage("0123", 0, 10, False, True, 4)),
        (8, 100, LogPage("89", 8, 10, True, False, 10)),
        (10, 5, LogPage("", 10, 10, True, False, 10)),
        (99, 5, LogPage("", 10, 10, True, False, 10)),
    ],
)
def test_a_negative_offset_counts_from_the_end(tmp_path: Path, offset: int, limit: int, expected: LogPage) -> None:
    assert log_page(Log(str(tmp_path), b"0123456789").path, offset, limit) == expected


@pytest.mark.parametrize("limit", [MAX_PAGE + 1, 10**9, 10**30])
def test_no_page_is_larger_than_the_largest(tmp_path: Path, limit: int) -> None:
    page = log_page(Log(str(tmp_path), b"x" * (MAX_PAGE + 10)).path, 0, limit)
    assert (len(page.content), page.next_offset, page.has_more_after) == (MAX_PAGE, MAX_PAGE, True)


def test_the_end_of_a_large_log_is_shown_whole(tmp_path: Path) -> None:
    text = "é" * MAX_PAGE
    page = log_page(Log(str(tmp_path), text.encode()).path, -9_999, 10_000)
    assert page.content == "é" * 5_000  # the character that the offset lies in, too
    assert (page.offset, page.has_more_after) == (2 * MAX_PAGE - 10_000, False)


# -- artifacts ---------------------------------------------------------------------------------------------------------


def names(found: list[dict[str, Any]]) -> list[str]:
    return [item["name"] for item in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifacts folder with files, and a secret beside it."""
    root = tmp_path / "artifacts"
    (root / "models" / "deep").mkdir(parents=True)
    (root / "plot.png").write_bytes(b"12345")
    (root / "models" / "best.pt").write_bytes(b"1")
    (root / "models" / "deep" / "a b é.TXT").write_bytes(b"")
    (tmp_path / "secret").write_text("secret")
    return root


def test_artifacts_are_listed_by_their_names_below_the_folder(folder: Path) -> None:
    assert artifacts(folder, None, 100) == [
        {"name": "plot.png", "path": str(folder / "plot.png"), "type": "image", "size": 5},
        {"name": "models/best.pt", "path": str(folder / "models/best.pt"), "type": "model", "size": 1},
        {"name": "models/deep/a b é.TXT", "path": str(folder / "models/deep/a b é.TXT"), "type": "text", "size": 0},
    ]


def test_the_wandb_directory_is_an_artifact_too(folder: Path) -> None:
    assert artifacts(folder, "/x/wandb", 100)[-1] == {
        "name": "wandb",
        "path": "/x/wandb",
        "type": "wandb",
        "size": None,
    }


def test_no_more_artifacts_are_listed_than_the_limit(folder: Path) -> None:
    assert names(artifacts(folder, None, 2)) == ["plot.png", "models/best.pt"]
    assert artifacts(folder, None, 0) == []


def test_a_folder_that_is_not_there_has_no_artifacts(tmp_path: Path) -> None:
    assert artifacts(tmp_path / "none", None, 100) == []


def test_fifos_and_sockets_are_no_artifacts(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(folder, os.O_RDONLY)  # a socket's path has 108 bytes
        try:
            listener.bind(f"/proc/self/fd/{here}/socket")
        finally:
            os.close(here)
        assert (folder / "socket").is_socket()
        assert names(artifacts(folder, None, 100)) == ["plot.png", "models/best.pt", "models/deep/a b é.TXT"]


def test_links_are_listed_and_not_followed(folder: Path) -> None:
    (folder / "latest.pt").symlink_to("models/best.pt")
    (folder / "out").symlink_to(folder.parent)
    (folder / "models" / "round").symlink_to(folder)
    (folder / "dangling").symlink_to("nowhere")
    found = names(artifacts(folder, None, 100))
    assert {"latest.pt", "dangling"} <= set(found)
    assert not any("secret" in name or name.startswith(("out/", "models/round/")) for name in found)


def test_a_file_that_vanishes_while_the_folder_is_read_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As when a run writes temporary files.
    whole = list(os.walk(folder))
    base, folders, files = whole[0]
    seen = [(base, folders, [*files, "gone.tmp"]), *whole[1:]]
    monkeypatch.setattr("orchestrator.outputs.os.walk", lambda *_, **__: iter(seen))
    assert names(artifacts(folder, None, 100)) == ["plot.png", "models/best.pt", "models/deep/a b é.TXT"]


def test_a_name_that_is_no_utf_8_can_be_told_over_http(folder: Path) -> None:
    # os.walk gives half surrogates for such bytes, which no JSON encoder takes.
    (folder / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"")
    found = artifacts(folder, None, 100)
    assert len(found) in {3, 4}
    for item in found:
        item["name"].encode()
        item["path"].encode()


@pytest.mark.parametrize("name", ["plot.png", "models/best.pt", "models/../plot.png", "./plot.png", "models//best.pt"])
def test_an_artifact_is_found_by_its_name(folder: Path, name: str) -> None:
    found = artifact(folder, name)
    assert found in {folder.resolve() / "plot.png", folder.resolve() / "models" / "best.pt"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../secret",
        "models/../../secret",
        "/etc/passwd",
        "models",
        "none.txt",
        "plot.png/x",
        "../artifacts",
    ],
)
def test_what_is_no_file_below_the_folder_is_not_found(folder: Path, name: str) -> None:
    with pytest.raises(NotFound):
        artifact(folder, name)


def test_the_absolute_name_of_a_file_outside_is_not_found(folder: Path) -> None:
    with pytest.raises(NotFound):
        artifact(folder, str(folder.parent / "secret"))


def test_a_folder_whose_name_begins_alike_is_outside(folder: Path) -> None:
    (folder.parent / "artifacts2").mkdir()
    (folder.parent / "artifacts2" / "x").touch()
    with pytest.raises(NotFound):
        artifact(folder, "../artifacts2/x")


def test_links_lead_to_files_of_the_run_only(folder: Path) -> None:
    (folder / "inside").symlink_to("models/best.pt")
    (folder / "secret").symlink_to("../secret")
    (folder / "out").symlink_to("..")
    (folder / "dangling").symlink_to("nowhere")
    assert artifact(folder, "inside") == folder.resolve() / "models" / "best.pt"
    for name in ("secret", "out/secret", "out", "dangling"):
        with pytest.raises(NotFound):
            artifact(folder, name)


def test_the_folder_itself_may_be_reached_through_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert artifact(tmp_path / "link", "plot.png") == folder.resolve() / "plot.png"


def test_a_fifo_is_not_served(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with pytest.raises(NotFound):
        artifact(folder, "fifo")


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 300, "y/" * 3000, "round"], ids=["NUL", "long name", "long path", "loop"]
)
def test_a_name_that_cannot_be_is_not_found(folder: Path, name: str) -> None:
    # ValueError (NUL), OSError (too long), RuntimeError (links in a circle, before Python 3.13).
    (folder / "round").symlink_to("round")
    with pytest.raises(NotFound):
        artifact(folder, name)


# -- what to call it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("plot.png", "image/png"),
        ("plot.PNG", "image/png"),
        ("photo.jpeg", "image/jpeg"),
        ("notes.txt", "text/plain"),
        ("table.csv", "text/csv"),
        ("config.json", "application/json"),
        ("paper.pdf", "application/pdf"),
    ],
)
def test_what_only_shows_itself_keeps_its_type(name: str, kind: str) -> None:
    assert media_type(Path("/x") / name) == kind


@pytest.mark.parametrize(
    "name",
    [
        "page.html", "page.HTM", "page.xhtml", "plot.svg", "plot.SVG", "plot.svgz", "x.xml", "x.xsl", "x.js", "x.mjs",
        "x.css", "x.mht", "x.swf", "model.pt", "x.unknown", "noextension", ".hidden", "x.tar.gz", "run.wandb",
    ],
)  # fmt: skip
def test_what_a_browser_would_execute_is_plain_bytes(name: str) -> None:
    assert media_type(Path("/x") / name) == "application/octet-stream"


@pytest.mark.parametrize("name", ["table.csv.gz", "config.json.xz", "notes.txt.bz2"])
def test_a_compressed_file_is_not_called_what_is_in_it(name: str) -> None:
    assert media_type(Path("/x") / name) not in {"text/csv", "application/json", "text/plain"}
