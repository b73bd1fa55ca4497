from __future__ import annotations

from typing import Any

import pytest

from syncer.errors import ConfigError
from syncer.kube.types import Key
from syncer.releases.connection import choose_pod, require_running
from syncer.releases.release import PAUSED, Release


def pod(name: str, *, ready: bool = True, created: str = "2026-01-01T00:00:00Z", deleted: bool = False) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", "creationTimestamp": created, **({"deletionTimestamp": created} if deleted else {})}
    return {"metadata": metadata, "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}}


@pytest.mark.parametrize(
    ("pods", "chosen"),
    [
        ([], None),
        ([{"metadata": {"name": "a"}}], None),
        ([pod("a")], "a"),
        ([pod("a"), pod("b", created="2026-01-01T00:00:01Z")], "b"),
        ([pod("a"), pod("b", created="2026-01-01T00:00:01Z", deleted=True)], "a"),
        ([pod("a"), pod("b", created="2026-01-01T00:00:01Z", ready=False)], "a"),
        ([pod("a", ready=False)], None),
    ],
)
def test_the_pod_for_a_connection(pods: list[Any], chosen: str | None) -> None:
    assert choose_pod(pods) == (None if chosen is None else Key("ns", chosen))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [({"annotations": {PAUSED: "true"}}, "syncer resume demo --namespace=ns"), ({"deletionTimestamp": "x"}, "being deleted")],
)
def test_what_will_never_be_ready(metadata: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        require_running(Release("demo", "ns", {"metadata": metadata}))
