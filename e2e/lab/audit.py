"""What some users wrote to an API server, as its own audit log has it: who wrote what, and when the request arrived.

Users are audited when they are of the group GROUP, so that the log costs nothing for the others.
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

_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "Metadata", "userGroups": [GROUP], "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True, order=True)
class Write:
    """One request that writes; `at` is when it arrived, in epoch seconds, and `code` what was answered."""

    at: float
    user: str
    verb: str
    resource: str
    name: str
    code: int


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


def writes(cluster: ControlPlane) -> list[Write]:
    """All that is in the log, in the order of arrival."""
    found = []
    for line in _log(cluster).read_text().splitlines():
        event = json.loads(line)
        about = event.get("objectRef") or {}
        found.append(
            Write(
                at=datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(),
                user=event["user"]["username"],
                verb=event["verb"],
                resource="/".join(filter(None, (about.get("resource"), about.get("subresource")))),
                name=about.get("name", ""),
                code=(event.get("responseStatus") or {}).get("code", 0),
            )
        )
    return sorted(found)


def _policy(cluster: ControlPlane) -> Path:
    return cluster.dir / "audit-policy.json"


def _log(cluster: ControlPlane) -> Path:
    return cluster.dir / "logs" / "audit.jsonl"
