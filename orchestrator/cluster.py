"""The cluster in force: detected or set by hand, stored, detected again when asked and when its answer changes."""

import time
from dataclasses import replace
from typing import Any

from sqlmodel import Session, col, func, select

from orchestrator.db import Database
from orchestrator.detect import LABELS, ClusterType, Detected, detect
from orchestrator.errors import SchedulerUnavailable
from orchestrator.executors.gpus import GpuReader, own_visible_devices
from orchestrator.journal import SERVICE, Actor, change
from orchestrator.models import Cluster, Run
from orchestrator.slurm.facts import Facts, FactsReader
from orchestrator.slurm.gate import Gate
from orchestrator.slurm.pyslurmreads import PyslurmReads

KEPT_BY_HAND = ("status", "head_node", "node_count", "gpu_count", "notes")
SUMMARY = ("running", "launching", "queued", "ready", "failed", "finished")


class ClusterService:
    """Knows what the machine is."""

    def __init__(
        self,
        db: Database,
        reader: GpuReader,
        gate: Gate,
        facts: FactsReader,
        deadline: float,
        pyslurm: PyslurmReads | None = None,
    ) -> None:
        self._db = db
        self._reader = reader
        self._gate = gate
        self._facts = facts
        self._deadline = deadline
        self._pyslurm = pyslurm
        self._known: Cluster | None = None
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why Slurm gives no answer, as told by who asks it all the time; None while it does."""
        return self._trouble

    def current(self) -> Cluster:
        """The cluster in force; type "unknown" before the first detection."""
        if self._known is None:
            with self._db.read() as session:
                self._known = session.get(Cluster, 1) or Cluster()
        return self._known

    def known(self) -> Cluster:
        """The cluster in force, detected now if it never was."""
        found = self.current()
        return self.detect() if found.source == "unset" else found

    def detect(
        self,
        actor: Actor = SERVICE,
        preferred: ClusterType | None = None,
        *,
        keep_preference: bool = True,
        fresh: bool = False,
    ) -> Cluster:
        """Looks now and stores what was seen. A preferred type overrides what was detected. ``fresh``: the cluster's
        limits are asked for as well, which else are kept for a while."""
        seen = detect(self._gate, self._deadline, self._reader.read, own_visible_devices(), self._pyslurm)
        if seen.type == "slurm" and seen.status == "healthy":
            seen = self._with_facts(seen, fresh=fresh or actor != SERVICE)
        if seen.type == "slurm" and self._trouble is not None:  # sinfo may answer while squeue or sbatch does not
            seen = replace(seen, status="degraded", notes=self._trouble)
        self._known = self._db.write(
            lambda session: store(session, seen, actor, preferred, keep_preference=keep_preference)
        )
        return self._known

    def _with_facts(self, seen: Detected, *, fresh: bool) -> Detected:
        try:
            public = self._facts.read(fresh=fresh).public()
        except SchedulerUnavailable as error:
            public = self._facts.kept.public()
            public["notes"] = (*public["notes"], error.message)
        if self._pyslurm is not None:
            self._pyslurm.connect(public["version"])
            public["reads"] = self._pyslurm.words
        return replace(seen, details=seen.details | {"slurm": public})

    def limits(self) -> Facts:
        """What is known of the limits of the Slurm cluster. Asks nobody: each detection does."""
        return self._facts.kept

    def degraded(self, trouble: str | None) -> None:
        """Slurm gives no answer (any more), or again: told by who asks it all the time. Asks nobody when it goes away;
        detects once when it is back."""
        before, self._trouble = self._trouble, trouble
        known = self.current()
        if known.type != "slurm" or (before is None) == (trouble is None):
            return
        if trouble is None:
            self.detect()
            return
        fields = {"status": "degraded", "notes": trouble}

        def write(session: Session) -> Cluster:
            cluster = _row(session)
            change(session, cluster, SERVICE, "cluster.degraded", "cluster", fields)
            return cluster

        self._known = self._db.write(write)

    def set(self, fields: dict[str, Any], actor: Actor) -> Cluster:
        """Sets fields by hand."""

        def write(session: Session) -> Cluster:
            cluster = _row(session)
            by_hand = cluster.by_hand | {name: value for name, value in fields.items() if name in KEPT_BY_HAND}
            values = {"source": "manual", **fields, "by_hand": by_hand, "updated_at": time.time()}
            if fields.get("type") is not None:
                values["preferred_type"] = fields["type"]
            change(session, cluster, actor, "cluster.set", "cluster", values)
            return cluster

        self._known = self._db.write(write)
        return self._known

    def public(self) -> dict[str, Any]:
        """The wire's answer: the cluster, and how many runs are where."""
        with self._db.read() as session:
            return {"cluster": public_cluster(session.get(Cluster, 1) or Cluster()), "run_summary": summary(session)}


def _row(session: Session) -> Cluster:
    found = session.get(Cluster, 1)
    if found is None:
        found = Cluster()
        session.add(found)
        session.flush()
    return found


def store(
    session: Session, seen: Detected, actor: Actor, preferred: ClusterType | None, *, keep_preference: bool
) -> Cluster:
    """Stores a detection; an event tells what changed, if anything but the time did."""
    cluster = _row(session)
    if preferred is None and keep_preference:
        preferred = cluster.preferred_type  # type: ignore[assignment]  # the column holds nothing else
    fields = {
        "type": preferred or seen.type,
        "status": seen.status,
        "source": "manual" if preferred else "detected",
        "preferred_type": preferred,
        "head_node": seen.head_node,
        "node_count": seen.node_count,
        "gpu_count": 0 if preferred == "cpu_only" else seen.gpu_count,
        "notes": seen.notes,
        "confidence": 1.0 if preferred else seen.confidence,
    }
    if actor == SERVICE:  # nobody asked: what was set by hand stays
        fields |= cluster.by_hand | ({"source": "manual"} if cluster.by_hand else {})
    else:
        cluster.by_hand = {}
    change(session, cluster, actor, "cluster.detected", "cluster", fields)
    cluster.details = seen.details
    cluster.last_detected_at = cluster.updated_at = time.time()
    session.add(cluster)
    return cluster


def public_cluster(cluster: Cluster) -> dict[str, Any]:
    """A cluster as the wire shows it."""
    label, description = LABELS.get(cluster.type, LABELS["unknown"])
    return cluster.model_dump(exclude={"id", "by_hand"}) | {"label": label, "description": description}


def summary(session: Session) -> dict[str, int]:
    """How many runs (archived ones left out) are in which status."""
    counts = dict(
        session.exec(select(Run.status, func.count()).where(col(Run.is_archived).is_(False)).group_by(Run.status)).all()
    )
    return {"total": sum(counts.values()), **{name: counts.get(name, 0) for name in SUMMARY}}
