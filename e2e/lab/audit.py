"""What some users asked of an API server, as its own audit log has it: who wanted what, and when the request arrived.

Of users of the group GROUP all that they write is audited, of service accounts in NAMESPACE all that they do, so that the log costs nothing
for the others.
https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.lab.cluster import ControlPlane

GROUP = "lab:audited"
NAMESPACE = "audited"

_WRITES = ["create", "update", "patch", "delete", "deletecollection"]
_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "userGroups": [GROUP], "verbs": _WRITES, "omitStages": ["ResponseStarted"]},
        # What takes long is told when it starts, too: a watch might not end before somebody looks.
        {"level": "Metadata", "userGroups": [f"system:serviceaccounts:{NAMESPACE}"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True, order=True)
class Request:
    """One request; `at` is when it arrived, in epoch seconds, and `code` what was answered. One that takes long may be there twice."""

    at: float
    user: str
    verb: str
    resource: str
    name: str
    code: int
    group: str = ""


def start(cluster: ControlPlane) -> None:
    """Have the API server keep the log from here on; restarts it the first time."""
    policy = _policy(cluster)
    if not policy.exists():
        policy.write_text(json.dumps(_POLICY))
        cluster.stop_apiserver()
        cluster.start_apiserver()


def flags(cluster: ControlPlane) -> list[str]:
    """For the API server's command line."""
    policy = _policy(cluster)
    return [f"--audit-policy-file={policy}", f"--audit-log-path={_log(cluster)}"] if policy.exists() else []


def writes(cluster: ControlPlane) -> list[Request]:
    """All writes in the log, in the order of arrival."""
    return [request for request in requests(cluster) if request.verb in _WRITES]


def requests(cluster: ControlPlane) -> list[Request]:
    """All that is in the log, in the order of arrival."""
    found = []
    for line in _log(cluster).read_text().splitlines():
        event = json.loads(line)
        about = event.get("objectRef") or {}
        found.append(
            Request(
                at=datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(),
                user=event["user"]["username"],
                verb=event["verb"],
                resource="/".join(filter(None, (about.get("resource"), about.get("subresource")))),
                name=about.get("name", ""),
                code=(event.get("responseStatus") or {}).get("code", 0),
                group=about.get("apiGroup", ""),
            )
        )
    return sorted(found)


def _policy(cluster: ControlPlane) -> Path:
    return cluster.dir / "audit-policy.json"


def _log(cluster: ControlPlane) -> Path:
    return cluster.dir / "logs" / "audit.jsonl"
