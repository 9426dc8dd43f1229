"""What this machine is."""

from fastapi import APIRouter

from api.answers import Json
from api.deps import Sys, Who, Whose
from api.scopes import needs
from orchestrator.shapes import ClusterDetect, ClusterSet

router = APIRouter(tags=["cluster"])
SCOPE = "plan"


@router.get("/cluster")
def show(system: Sys) -> Json:
    """The cluster in force, and how many runs are where."""
    return Json(system.cluster.public())


@router.post("/cluster/detect")
def detect(system: Sys, identity: Whose, body: ClusterDetect | None = None) -> Json:
    """Detects now; a preferred type (an administrator's) overrides what is found, null goes back to detection."""
    asked = body or ClusterDetect()
    keep = "preferred_type" not in asked.model_fields_set
    if not keep:  # it decides where everybody's runs go
        identity.check("admin")
    system.cluster.detect(identity.actor, asked.preferred_type, keep_preference=keep)
    return Json(system.cluster.public())


@router.post("/cluster", openapi_extra=needs("admin"))
def set_by_hand(system: Sys, actor: Who, body: ClusterSet) -> Json:
    """Sets fields by hand."""
    system.cluster.set(body.model_dump(exclude_unset=True), actor)
    return Json(system.cluster.public())
