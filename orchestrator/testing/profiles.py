"""What differs between the Slurm releases, as far as a client can see it.

Observed on the four releases named here; a version in between behaves as the nearest older one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """One release. Each field is one observed difference."""

    version: str
    banner: str
    """What ``--version`` prints."""
    raw_exit_status: bool
    """``squeue -O exit_code`` prints the wait status (768), not ``3:0``."""
    gres_separator: str
    """``gres:gpu:1`` (22.05) or ``gres/gpu:1`` in requested TRES."""
    priority_counts_down: bool
    """priority/basic is the default: each job is one below the last. Later releases: multifactor, all 1."""
    signal_reason: bool
    """A job killed by a signal has the reason ``RaisedSignal:9(Killed)``, not ``JobLaunchFailure``."""
    node_fail_exit: str
    """sacct's ExitCode of a NODE_FAIL."""
    mixed_drain: bool
    """A partly used draining node is ``mixed+drain`` in StateComplete, not ``allocated+drain``."""
    stdout_in_accounting: bool
    """sacct knows the fields StdOut, StdErr and Restarts."""
    pending_cpus_zero: bool
    """sacct's NCPUS and AllocCPUS of a job that never started are 0."""
    stderr_defaults_to_stdout: bool
    """squeue's STDERR is the standard output's pattern when none was asked for, else ``(null)``."""
    requested_tres: bool
    """scontrol show job has ReqTRES= and AllocTRES= instead of TRES=."""
    test_only_letter: str
    """A stray letter after the time in ``sbatch --test-only``, in 25.11 and 26.05."""
    submit_line_in_job: bool
    """scontrol show job has SubmitLine=."""
    short_array_ids: bool
    """squeue cuts an array's id at 31 characters, unless SLURM_BITSTR_LEN is set."""
    json: bool
    """``--json`` is an option of scontrol and sacctmgr."""


def _profile(version: str, *, since: int, banner: str = "slurm-wlm") -> Profile:
    return Profile(
        version=version,
        banner=f"{banner} {version}",
        raw_exit_status=since < 2411,
        gres_separator=":" if since < 2411 else "/",
        priority_counts_down=since < 2411,
        signal_reason=since >= 2411,
        node_fail_exit="0:0" if since < 2411 else "1:0",
        mixed_drain=since >= 2411,
        stdout_in_accounting=since >= 2411,
        pending_cpus_zero=since >= 2411,
        stderr_defaults_to_stdout=since < 2411,
        requested_tres=since >= 2411,
        test_only_letter=" a" if since >= 2511 else "",
        submit_line_in_job=since >= 2511,
        short_array_ids=since < 2411,
        json=since >= 2411,
    )


PROFILES = {
    2205: _profile("22.05.8", since=2205),
    2411: _profile("24.11.5", since=2411),
    2511: _profile("25.11.7", since=2511, banner="slurm"),
    2605: _profile("26.05.5", since=2605),
}


def profile_for(version: str) -> Profile:
    """The profile of a version such as ``24.11.5`` or ``24.11``. ValueError for what is no version."""
    parts = version.split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts):
        raise ValueError(f"not a Slurm version: {version!r} (known: {', '.join(p.version for p in PROFILES.values())})")
    number = int(parts[0]) * 100 + int(parts[1])
    nearest = max((known for known in PROFILES if known <= number), default=min(PROFILES))
    found = PROFILES[nearest]
    if len(parts) == 2 or version == found.version:
        return found
    return _profile(version, since=nearest, banner=found.banner.split()[0])
