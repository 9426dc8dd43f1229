"""The shortest way through."""

from tests.support.service import InProcess


def test_a_run_finishes_with_its_output_in_the_log(service: InProcess) -> None:
    run = service.run("echo hello; exit 0")
    over = service.over(run["id"])
    assert (over["status"], over["exit_code"], over["attempt"]) == ("finished", 0, 1)
    assert service.log(run["id"]) == "hello\n"
