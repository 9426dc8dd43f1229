"""Why a job waits in Slurm: every reason in words, with what can be done; nothing that is hopeless told as a wait.

The codes are those of Slurm's own list (job_reason_codes).
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.slurm.pending import explain

CATEGORIES = {"queue", "resources", "limit", "hold", "dependency", "never", "site", "unknown"}
NOTHING = "Nothing: it starts as soon as there is room."


@pytest.mark.parametrize(
    ("code", "category"),
    [
        ("Priority", "queue"),
        ("Resources", "resources"),
        ("JobArrayTaskLimit", "limit"),
        ("Dependency", "dependency"),
        ("DependencyNeverSatisfied", "never"),
        ("BeginTime", "queue"),
        ("JobHeldUser", "hold"),
        ("JobHeldAdmin", "hold"),
        ("Licenses", "resources"),
        ("Reservation", "queue"),
        ("ReservationDeleted", "never"),
        ("PartitionTimeLimit", "never"),
        ("PartitionNodeLimit", "never"),
        ("PartitionDown", "site"),
        ("PartitionInactive", "site"),
        ("ReqNodeNotAvail", "site"),
        ("BadConstraints", "never"),
        ("InvalidAccount", "never"),
        ("InvalidQOS", "never"),
        ("BurstBufferResources", "resources"),
    ],
)
def test_a_known_reason_has_its_category_and_words(code: str, category: str) -> None:
    found = explain(code)
    assert (found.category, bool(found.summary), bool(found.action)) == (category, True, True)


@pytest.mark.parametrize("code", ["", "None", " None "])
def test_no_reason_yet_is_a_matter_of_time(code: str) -> None:
    assert (explain(code).category, explain(code).action) == ("queue", NOTHING)


@pytest.mark.parametrize(
    "code",
    [
        "ReqNodeNotAvail, UnavailableNodes:n[1-2]",
        "ReqNodeNotAvail(Unavailable:n1)",
        "ReqNodeNotAvail, May be reserved for other job",
        "ReqNodeNotAvail,_UnavailableNodes:n1",
    ],
)
def test_what_follows_a_reason_changes_nothing(code: str) -> None:
    assert explain(code) == explain("ReqNodeNotAvail")


@pytest.mark.parametrize(
    "code",
    [
        "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
        "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions",
    ],
)
def test_nodes_that_are_down_are_the_sites_matter(code: str) -> None:
    assert explain(code).category == "site"


@pytest.mark.parametrize(
    ("code", "category", "whose"),
    [
        ("QOSMaxJobsPerUserLimit", "limit", "QOS"),
        ("QOSMaxGRESPerUser", "limit", "QOS"),
        ("QOSGrpGRES", "limit", "QOS"),
        ("QOSGrpCpuLimit", "limit", "QOS"),
        ("QOSGrpNodeLimit", "limit", "QOS"),
        ("QOSMaxCpuPerUserLimit", "limit", "QOS"),
        ("QOSMaxCpuPerJobLimit", "never", "QOS"),
        ("QOSMaxWallDurationPerJobLimit", "never", "QOS"),
        ("QOSMaxGRESPerJob", "never", "QOS"),
        ("QOSTimeLimit", "never", "QOS"),
        ("AssocGrpGRES", "limit", "account"),
        ("AssocGrpCPUMinutesLimit", "limit", "account"),
        ("AssocMaxJobsLimit", "limit", "account"),
        ("AssocMaxCpuPerJobLimit", "never", "account"),
        ("AssociationTimeLimit", "never", "account"),
    ],
)
def test_a_limit_is_told_by_whose_it_is_and_by_whether_waiting_helps(code: str, category: str, whose: str) -> None:
    found = explain(code)
    assert (found.category, code in found.summary, whose in found.summary) == (category, True, True)
    assert ("Wait" in found.action) == (category == "limit")


@pytest.mark.parametrize(
    "code",
    [
        "QOSNotAllowed",
        "QOSMinCpuNotSatisfied",
        "QOSMinGRES",
        "QOSMinMemory",
        "QOSMaxCpuPerNode",
        "QOSMaxGRESPerNode",
        "AssocMaxGRESPerNode",
        "AccountNotAllowed",
        "MaxMemPerLimit",
    ],
)
def test_what_no_waiting_changes_is_not_told_as_a_wait(code: str) -> None:
    assert explain(code).category == "never"


@pytest.mark.parametrize("code", ["JobHoldMaxRequeue", "MaxJobsPerAccount", "MaxGRESPerAccount", "ReservationInvalid"])
def test_a_reason_of_slurms_own_list_is_known(code: str) -> None:
    assert explain(code).category != "unknown"


def test_an_unknown_reason_is_shown_as_it_is() -> None:
    found = explain("SiteSpecific(x)")
    assert (found.category, "SiteSpecific(x)" in found.summary) == ("unknown", True)


@given(st.text(max_size=80))
def test_no_reason_whatever_makes_it_fail(code: str) -> None:
    assert explain(code).category in CATEGORIES
