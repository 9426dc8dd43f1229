"""Puts the parts together, once, for a server or for a single pass (``orc tick``)."""

import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator import home as home_files
from orchestrator import tokens
from orchestrator.access import Access
from orchestrator.alerting.courier import Couriers
from orchestrator.alerting.outbox import Recipients
from orchestrator.alerting.rules import Thresholds
from orchestrator.alerting.targets import targets_of
from orchestrator.alerting.watch import AlertWatch
from orchestrator.cluster import ClusterService
from orchestrator.code.provenance import GitReader
from orchestrator.code.recorder import CodeRecorder
from orchestrator.collector import Collector
from orchestrator.db import Database
from orchestrator.drafts import RunChecks
from orchestrator.executors.gpus import GpuReader, own_visible_devices
from orchestrator.executors.leases import LeaseFolder
from orchestrator.executors.line import LeasePolicy, Line
from orchestrator.executors.local import LocalExecutor
from orchestrator.executors.preparing import Preparer
from orchestrator.executors.slurm import SlurmExecutor, SlurmPolicy
from orchestrator.explaining import Explainer
from orchestrator.gpuqueue import GpuQueue
from orchestrator.migrate import migrate
from orchestrator.models import Token
from orchestrator.plankeeper import PlanKeeper
from orchestrator.proc import ProcessId, host_name
from orchestrator.profiles import Profiles
from orchestrator.reconciler import Reconciler
from orchestrator.serverlease import Holding
from orchestrator.settings import SITE_FOLDER, Settings
from orchestrator.slurm.checks import Bounds
from orchestrator.slurm.facts import FactsReader
from orchestrator.slurm.gate import Gate
from orchestrator.slurm.poller import Cadence, Poller
from orchestrator.slurm.pyslurmreads import PyslurmReads
from orchestrator.slurm.script import Templates
from orchestrator.slurmqueue import SlurmQueue
from orchestrator.wandbfiles import WandbReader
from orchestrator.watch import ProcessWatch


@dataclass
class System:
    """Everything that works together, and how to take it apart."""

    settings: Settings
    db: Database
    holding: Holding
    access: Access
    cluster: ClusterService
    checks: RunChecks
    reconciler: Reconciler
    line: Line
    reader: GpuReader
    watch: ProcessWatch
    gate: Gate
    slurm: SlurmExecutor
    preparer: Preparer
    profiles: Profiles
    pyslurm: PyslurmReads
    explainer: Explainer
    alertwatch: AlertWatch
    couriers: Couriers

    def start(self) -> None:
        """Begins the loop, and what looks for alerts and tells of them."""
        self.reconciler.start()
        self.alertwatch.start()
        self.couriers.start()

    def close(self) -> None:
        """Ends the loop, lets the database go. Runs go on."""
        self.alertwatch.close()
        self.couriers.close()
        self.reconciler.close()
        self.watch.close()
        self.reader.close()
        self.pyslurm.close()
        self.holding.release()
        self.db.close()


def build(settings: Settings, on_lost: Callable[[str], None] = lambda _: None) -> System:
    """The whole system over one database. Raises ServerRunning when another server serves it."""
    targets = targets_of(settings)
    token = home_files.ensure_token(settings.home)
    settings.runs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    db = Database(settings.database_url)
    try:
        migrate(db)
        holding = Holding(db, os.getpid(), on_lost)
    except BaseException:
        db.close()
        raise
    reader = GpuReader(settings.probe_deadline_seconds)
    gate = Gate(settings.slurm_command_deadline_seconds)
    user = own_name()
    pyslurm = PyslurmReads(gate, os.geteuid(), wanted=settings.slurm_pyslurm)
    cluster = ClusterService(db, reader, gate, FactsReader(gate, user), settings.probe_deadline_seconds, pyslurm)
    line = make_line(settings, reader)
    reconciler: Reconciler | None = None

    def wake() -> None:
        if reconciler is not None:
            reconciler.wake()

    watch = ProcessWatch(wake)
    profiles = Profiles([settings.home / "profiles", SITE_FOLDER / "profiles"])
    templates = Templates(settings.home / "templates", SITE_FOLDER / "templates")
    preparer = Preparer(settings.runs_dir, settings.env_pass, templates)
    local = LocalExecutor(settings.runs_dir, settings.stop_grace_seconds, preparer, watch)
    poller = Poller(gate, user, make_cadence(settings), pyslurm)
    slurm = make_slurm(settings, poller, lambda: cluster.limits().kill_wait, templates, preparer)
    gpus = GpuQueue(
        line,
        local.leases,
        settings.runs_dir,
        settings.gpu_busy_retry_seconds,
        watch.add,
        _once(lambda: watch.add_folder(line.folder.path), wake),
    )
    code = settings.runs_dir / ".code"
    collector = Collector(db, settings.runs_dir, WandbReader())
    reconciler = Reconciler(
        db,
        {local.name: local, slurm.name: slurm},
        settings.local_cpus,
        gpus,
        SlurmQueue(db, lambda: cluster.limits().max_array_size),
        collector,
        cluster.degraded,
        CodeRecorder(GitReader(), code).record,
        lambda: bounds_of(cluster),
        PlanKeeper(db, settings.alert_budget_share).once,
    )
    # A snapshot has the last edit: what git says beside it must not be older.
    of_snapshots = CodeRecorder(GitReader(ttl=0.0), code)
    explainer = Explainer(settings.runs_dir, lambda: slurm.trouble, lambda: bounds_of(cluster))
    thresholds = thresholds_of(settings)
    alertwatch = AlertWatch(
        db, settings.runs_dir, thresholds, explainer, lambda: slurm.shown, reader, settings.alert_look_seconds
    )
    couriers = Couriers(db, targets)
    db.writer.info[Recipients] = Recipients(tuple(targets), settings.notify_severity, host_name())
    db.writer.on_commit(wake)
    db.writer.on_commit(couriers.wake)
    return System(
        settings,
        db,
        holding,
        Access(token, lambda: _tokens(db), require_plan=settings.require_plan),
        cluster,
        RunChecks(settings, cluster, profiles, of_snapshots.of),
        reconciler,
        line,
        reader,
        watch,
        gate,
        slurm,
        preparer,
        profiles,
        pyslurm,
        explainer,
        alertwatch,
        couriers,
    )


def thresholds_of(settings: Settings) -> Thresholds:
    """From when on there are alerts."""
    return Thresholds(
        settings.alert_failed,
        settings.alert_nonfinite,
        settings.alert_no_progress_seconds,
        settings.alert_pending_seconds,
        settings.alert_idle_gpu_percent,
        settings.alert_idle_gpu_seconds,
    )


def _tokens(db: Database) -> list[Token]:
    with db.read() as session:
        return tokens.everyone(session)


def bounds_of(cluster: ClusterService) -> Bounds:
    """What the Slurm cluster can give at most: without bounds where there is none, or it gives no answer."""
    known = cluster.current()
    return Bounds(cluster.limits(), known.details.get("nodes", {})) if known.type == "slurm" else Bounds()


def own_name() -> str:
    """This process's user, as Slurm's commands take it: by name, or by number where the machine knows no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def make_cadence(settings: Settings) -> Cadence:
    """How often Slurm is asked."""
    return Cadence(settings.slurm_poll_floor_seconds, settings.slurm_poll_ceiling_seconds)


def make_slurm(
    settings: Settings, poller: Poller, kill_wait: Callable[[], float], templates: Templates, preparer: Preparer
) -> SlurmExecutor:
    """The Slurm side; it asks nothing as long as there is nothing of ours in Slurm."""
    policy = SlurmPolicy(
        kill_wait=kill_wait,
        lost_after=settings.slurm_lost_after_seconds,
        heartbeat=settings.slurm_heartbeat_seconds,
        submit_deadline=settings.slurm_submit_deadline_seconds,
    )
    return SlurmExecutor(settings.runs_dir, poller.gate, poller, templates, preparer, policy)


def make_line(settings: Settings, reader: GpuReader) -> Line:
    """This process's place in the line for GPUs."""
    me = ProcessId.of(os.getpid())
    assert me is not None
    policy = LeasePolicy(
        settings.gpu_memory_threshold_mib, settings.gpu_reserve_after, settings.gpu_ids, own_visible_devices()
    )
    return Line(LeaseFolder(settings.gpu_lease_dir), reader, policy, f"{me.pid}-{me.start_ticks}")


def _once(first: Callable[[], None], after: Callable[[], None]) -> Callable[[], None]:
    """A function that does ``first``, then ``after``, the first time it is called and nothing later."""
    done = False

    def call() -> None:
        nonlocal done
        if not done:
            done = True
            first()
            after()

    return call
