from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from syncer.errors import ConfigError
from syncer.kube.types import Obj, annotations_of
from syncer.releases.pausing import DATE, REPLICAS, pause_patch, paused_at, require_lasting, resume_patch
from syncer.releases.release import PAUSED
from syncer.translate.merge import apply

NOW = datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)
TEXT = "2026-11-22T03:04:05Z"


def stateful_set(replicas: int | None, **annotations: str) -> Obj:
    spec = {} if replicas is None else {"replicas": replicas}
    return {"metadata": {"name": "demo", "uid": "u", "annotations": annotations}, "spec": spec}


def paused(replicas: int, had: str) -> Obj:
    return stateful_set(replicas, **{PAUSED: "true", REPLICAS: had, DATE: "before"})


def shown(found: Obj) -> tuple[Any, ...]:
    annotations = annotations_of(found)
    return found["spec"].get("replicas"), annotations.get(PAUSED), annotations.get(REPLICAS), annotations.get(DATE)


PAUSES = [
    ("running", stateful_set(3), (0, "true", "3", TEXT)),
    ("replicas by default", stateful_set(None), (0, "true", "1", TEXT)),
    ("scaled to nothing by hand", stateful_set(0), (0, "true", "0", TEXT)),
    ("paused already", paused(0, "3"), None),
    ("scaled up while it was paused", paused(2, "3"), (0, "true", "2", TEXT)),
]


@pytest.mark.parametrize(("found", "expected"), [case[1:] for case in PAUSES], ids=[case[0] for case in PAUSES])
def test_pause(found: Obj, expected: tuple[Any, ...] | None) -> None:
    patch = pause_patch(found, NOW)
    if expected is None:
        assert patch is None
        return
    assert patch is not None
    assert patch["metadata"]["uid"] == "u"
    after = apply(found, patch)
    assert shown(after) == expected
    assert pause_patch(after, NOW) is None


RESUMES = [
    ("running", stateful_set(3), None),
    ("paused", paused(0, "3"), 3),
    ("paused when it had none", paused(0, "0"), 1),
    ("nobody knows how many it had", paused(0, "many"), 1),
    ("scaled up while it was paused", paused(2, "3"), 2),
]


@pytest.mark.parametrize(("found", "replicas"), [case[1:] for case in RESUMES], ids=[case[0] for case in RESUMES])
def test_resume(found: Obj, replicas: int | None) -> None:
    patch = resume_patch(found)
    if replicas is None:
        assert patch is None
        return
    assert patch is not None
    after = apply(found, patch)
    assert shown(after) == (replicas, None, None, None)
    assert resume_patch(after) is None


def started(**status: Any) -> Obj:
    return {"metadata": {"creationTimestamp": "2026-11-22T03:00:00Z"}, "status": status}


TIMES: list[tuple[str, list[Obj], str, str]] = [
    ("nothing known", [], "", TEXT),
    ("all started before", [started(startTime="2026-11-22T03:00:01Z")], "", TEXT),
    ("a node's clock is ahead of ours", [started(startTime="2026-11-22T03:09:00Z")], "", "2026-11-22T03:09:00Z"),
    (
        "scheduled by a clock that is ahead",
        [started(conditions=[{"type": "PodScheduled", "lastTransitionTime": "2026-11-22T03:08:00Z"}])],
        "",
        "2026-11-22T03:08:00Z",
    ),
    ("other conditions say nothing", [started(conditions=[{"type": "Ready", "lastTransitionTime": "2026-11-22T03:08:00Z"}])], "", TEXT),
    ("recorded before, by a clock that was ahead", [], "2026-11-22T04:00:00+00:00", "2026-11-22T04:00:00Z"),
    ("recorded before", [], "2026-11-21T04:00:00Z", TEXT),
    ("recorded nonsense", [], "zzz", TEXT),
]


@pytest.mark.parametrize(("pods", "recorded", "expected"), [case[1:] for case in TIMES], ids=[case[0] for case in TIMES])
def test_up_to_when(pods: list[Obj], recorded: str, expected: str) -> None:
    assert paused_at(pods, NOW, recorded) == expected


def template(container: str, volume: Obj | None = None, **fields: Any) -> Obj:
    volumes = [{"name": "data", **(volume or {})}] if volume is not None else []
    spec = {"containers": [{"name": "syncer"}, {"name": container, **fields}], "volumes": volumes}
    return {"metadata": {"name": "demo"}, "spec": {"template": {"spec": spec}}}


EXTERNAL = [{"name": "K3S_DATASTORE_ENDPOINT", "valueFrom": {}}]
DATA: list[tuple[str, Obj, bool]] = [
    ("k3s with a claim", template("vcluster"), True),
    ("k3s without", template("vcluster", {"emptyDir": {}}), False),
    ("k3s with a datastore elsewhere", template("vcluster", {"emptyDir": {}}, env=EXTERNAL), True),
    ("k3s with a volume of the host's", template("vcluster", {"hostPath": {}}), True),
    ("etcd with a claim", template("etcd"), True),
    ("etcd without", template("etcd", {"emptyDir": {}}), False),
    ("an API server whose etcd is elsewhere", template("kube-apiserver", {"emptyDir": {}}), True),
]


@pytest.mark.parametrize(("found", "lasting"), [case[1:] for case in DATA], ids=[case[0] for case in DATA])
def test_what_a_pause_would_lose(found: Obj, lasting: bool) -> None:
    if lasting:
        require_lasting([found])
        return
    with pytest.raises(ConfigError, match=r"demo keeps what the virtual cluster knows in its pod \(storage\.persistence is off\)"):
        require_lasting([found])
