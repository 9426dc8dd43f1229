"""``orc`` itself: what it says without a command."""

import pytest

from orchestrator import __version__
from orchestrator.cli import main


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [(["--version"], 0, f"orc {__version__}\n"), (["--help"], 0, "Commands:"), ([], 2, "Commands:")],
)
def test_what_it_says_without_a_command(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: int, said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert said in out + err
