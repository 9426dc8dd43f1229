"""sacctmgr: accounts, associations, QOS; to look at, not to change. https://slurm.schedmd.com/sacctmgr.html"""

from collections.abc import Callable, Sequence

from orchestrator.testing.arguments import UsageError, options_table, parse
from orchestrator.testing.cluster import Cluster
from orchestrator.testing.commands.base import Answer, Call, Failed, usage, words_of
from orchestrator.testing.profiles import profile_for

OPTIONS = options_table(
    "-h/--help -i/--immediate -n/--noheader -o/--oneliner -p/--parsable -P/--parsable2 -Q/--quiet -r/--readonly "
    "-s/--associations -v/--verbose -V/--version"
)
_DEFAULTS = {
    "account": "Account,Descr,Org",
    "association": "Cluster,Account,User,Partition,Share,QOS,Def QOS",
    "cluster": "Cluster,ControlHost,QOS",
    "qos": "Name,Priority,Preempt,PreemptMode,MaxWall,MaxTRESPU,MaxSubmitPU",
    "user": "User,Def Acct,Admin",
}
_SHORT = {"defaultqos": "def qos", "defaultaccount": "def acct", "description": "descr", "organization": "org"}
_SHORT |= {"maxsubmitjobsperuser": "maxsubmitpu", "maxtresperuser": "maxtrespu"}


def run(call: Call, cluster: Cluster, *, down: bool = False) -> Answer:
    """Answers one sacctmgr."""
    try:
        given = parse("sacctmgr", OPTIONS, call.argv, interleaved=True)
    except UsageError as error:
        raise usage("sacctmgr", error) from None
    if "version" in given:
        return Answer(profile_for(cluster.version).banner + "\n")
    if not cluster.accounting:
        raise Failed(
            "You are not running a supported accounting_storage plugin\n"
            "Only 'accounting_storage/slurmdbd' is supported."
        )
    if down:
        raise Failed("sacctmgr: error: Problem talking to the database: Connection refused")
    verb, kind, *rest = (*given.words, "", "")
    if not verb or not any(full.startswith(verb.lower()) for full in ("show", "list")):
        raise Failed(f"sacctmgr: error: not emulated: {' '.join(given.words)}")
    entity = next((full for full in _DEFAULTS if kind and full.startswith(kind.lower().rstrip("s")[:5])), None)
    if entity is None:
        raise Failed(f"No valid entity in list command\nInput line must include {', '.join(_DEFAULTS)}")
    names = next((word.partition("=")[2] for word in rest if word.lower().startswith("format=")), _DEFAULTS[entity])
    fields = words_of(names)
    rows = [_values(fields, row) for row in _ROWS[entity](cluster, call)]
    return Answer(_table(fields, rows, parsable="parsable" in given or "parsable2" in given, bare="noheader" in given))


def _values(fields: Sequence[str], row: dict[str, str]) -> list[str]:
    found = []
    for field in fields:
        name = field.partition("%")[0].lower()
        found.append(row.get(_SHORT.get(name, name), ""))
    return found


def _table(fields: Sequence[str], rows: Sequence[Sequence[str]], *, parsable: bool, bare: bool) -> str:
    if parsable:
        lines = ["|".join(row) for row in ([] if bare else [list(fields)]) + [list(row) for row in rows]]
    else:
        head = [[field[:10] for field in fields], ["-" * 10 for _ in fields]]
        lines = [" ".join(f"{value:>10}" for value in row) + " " for row in ([] if bare else head) + [*map(list, rows)]]
    return "".join(line + "\n" for line in lines)


def _accounts(cluster: Cluster, call: Call) -> list[str]:
    return list(cluster.accounts) or [call.who.user]


def _account_rows(cluster: Cluster, call: Call) -> list[dict[str, str]]:
    return [{"account": name, "descr": name, "org": name} for name in _accounts(cluster, call)]


def _association_rows(cluster: Cluster, call: Call) -> list[dict[str, str]]:
    qos = ",".join(sorted(cluster.qos))
    common = {"cluster": cluster.name, "share": "1", "qos": qos}
    return [
        {**common, "account": account, "user": user}
        for account in _accounts(cluster, call)
        for user in ("", call.who.user)
    ]


def _qos_rows(cluster: Cluster, _call: Call) -> list[dict[str, str]]:
    most = "" if cluster.max_submit_jobs is None else str(cluster.max_submit_jobs)
    common = {"priority": "0", "gracetime": "00:00:00", "preemptmode": "cluster", "maxsubmitpu": most}
    return [{**common, "name": name} for name in cluster.qos]


def _cluster_rows(cluster: Cluster, _call: Call) -> list[dict[str, str]]:
    return [{"cluster": cluster.name, "controlhost": "127.0.0.1", "qos": ",".join(sorted(cluster.qos))}]


def _user_rows(cluster: Cluster, call: Call) -> list[dict[str, str]]:
    return [{"user": call.who.user, "def acct": _accounts(cluster, call)[0], "admin": "None"}]


_ROWS: dict[str, Callable[[Cluster, Call], list[dict[str, str]]]] = {
    "account": _account_rows,
    "association": _association_rows,
    "cluster": _cluster_rows,
    "qos": _qos_rows,
    "user": _user_rows,
}
