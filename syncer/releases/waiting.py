"""Why a control plane is not ready yet, in words, from what the host has of it; and what to tell of that, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncer.kube.types import Obj, is_deleting, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_PULLS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"}
)
_TROUBLES = frozenset(
    {"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "NetworkNotReady", "FailedScheduling", "ProvisioningFailed"}
)
_CONSEQUENCES = ("syncer", "coredns")
"""Containers that end, or do not get ready, while the API server is not there."""
_LOG_LINES = 3
_SILENT_SECONDS = 5.0
_REPEAT_SECONDS = 15.0


@dataclass(frozen=True)
class Scene:
    """What the host has: the StatefulSet (None while there is none), its pods and claims, events about any of them, and the last
    words, by pod and container, of containers that ended.
    """

    stateful_set: Obj | None
    pods: Sequence[Obj] = ()
    claims: Sequence[Obj] = ()
    events: Sequence[Obj] = ()
    logs: Mapping[tuple[str, str], str] = field(default_factory=dict)


def is_ready(stateful_set: Obj) -> bool:
    """Whether all replicas that are wanted are ready, and of the newest revision."""
    spec, status = stateful_set.get("spec") or {}, stateful_set.get("status") or {}
    wanted = spec.get("replicas", 1)
    current = status.get("observedGeneration") == (stateful_set.get("metadata") or {}).get("generation")
    updated = status.get("updateRevision") == status.get("currentRevision") or (status.get("updatedReplicas") or 0) >= wanted
    return bool(current and updated and (status.get("readyReplicas") or 0) >= wanted)


def ended_containers(pods: Iterable[Obj]) -> Iterator[tuple[str, str, bool]]:
    """Pod, container, and whether it has been started again since, of those whose last words would explain something."""
    for pod in pods:
        for status in _statuses(pod):
            state, last = status.get("state") or {}, status.get("lastState") or {}
            if (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff" or (state.get("terminated") or {}).get("exitCode"):
                yield key_of(pod).name, status["name"], bool(last.get("terminated")) and bool(state.get("running"))
            elif last.get("terminated", {}).get("exitCode") and not status.get("ready"):
                yield key_of(pod).name, status["name"], True


def why_not_ready(scene: Scene) -> str:
    """One cause, the most telling one."""
    found = scene.stateful_set
    if found is None:
        return "its StatefulSet is not there"
    wanted = (found.get("spec") or {}).get("replicas", 1)
    if len(scene.pods) < wanted:
        if refused := _newest(scene.events, key_of(found).name, {"FailedCreate"}):
            return f"the host refuses its pod: {refused.rpartition(' failed error: ')[2]}"
        return "the host's controllers have not made its pod yet"
    return next(filter(None, (_of_pod(pod, scene) for pod in scene.pods)), "") or "the host has not told yet that it is ready"


def _of_pod(pod: Obj, scene: Scene) -> str:
    name, status = key_of(pod).name, pod.get("status") or {}
    conditions = {item.get("type"): item for item in status.get("conditions") or ()}
    if is_deleting(pod):
        return f"an earlier pod {name} is still ending"
    if (conditions.get("Ready") or {}).get("status") == "True":
        return ""
    if status.get("phase") == "Failed":
        return f"pod {name} failed: {status.get('reason') or ''} {status.get('message') or ''}".strip(" :")
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") != "True":
        return _unscheduled(name, scheduled, scene)
    troubled = [(_weight(one), words) for one in _statuses(pod) if (words := _of_container(name, one, scene))]
    return min(troubled, default=((True, 0), ""))[1] or _starting(pod, scene)


def _weight(status: Obj) -> tuple[bool, int]:
    """Of several troubles the one with the least is the cause: no image before all, and whom the others wait for before them."""
    waiting = (status.get("state") or {}).get("waiting") or {}
    return waiting.get("reason") not in _PULLS, _CONSEQUENCES.index(status["name"]) if status["name"] in _CONSEQUENCES else -1


def _unscheduled(pod: str, condition: Mapping[str, str], scene: Scene) -> str:
    pending = [claim for claim in scene.claims if (claim.get("status") or {}).get("phase") != "Bound"]
    message = condition.get("message") or ""
    if pending and "PersistentVolumeClaim" in message:
        claim = pending[0]
        about = _newest(scene.events, key_of(claim).name) or "nothing has given it a volume yet"
        kind = (claim.get("spec") or {}).get("storageClassName")
        named = f"of storage class {kind}" if kind else "without a storage class"
        return f"claim {key_of(claim).name} ({named}) is pending: {about}; see the values storage.className and storage.persistence"
    return f"no node takes pod {pod}: {message}" if message else f"the host's scheduler has not looked at pod {pod} yet"


def _of_container(pod: str, status: Mapping[str, Obj], scene: Scene) -> str:
    name, state, last = str(status["name"]), status.get("state") or {}, status.get("lastState") or {}
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason") or "", waiting.get("message") or ""
    if reason in _PULLS:
        return f"the node has no image {status.get('image')} for container {name}: {message or reason}"
    ended = state.get("terminated") or (last.get("terminated") if not status.get("ready") else None) or {}
    if reason == "CrashLoopBackOff" or ended.get("exitCode"):
        said = _last_words(scene.logs.get((pod, name)) or ended.get("message") or "")
        code = f" with exit code {ended['exitCode']}" if "exitCode" in ended else ""
        killed = " for want of memory" if ended.get("reason") == "OOMKilled" else ""
        return f"container {name} ended{code}{killed}, and is started again; " + (f"it said: {said}" if said else "it said nothing")
    if reason and reason not in ("ContainerCreating", "PodInitializing"):
        return f"container {name}: {reason}: {message}".rstrip(": ")
    return ""


def _starting(pod: Obj, scene: Scene) -> str:
    name = key_of(pod).name
    creating = [status["name"] for status in _statuses(pod) if "running" not in (status.get("state") or {})]
    newest = max((event for event in scene.events if _is_about(event, name)), key=_when, default={})
    if creating and newest.get("reason") in _TROUBLES | {"Pulling"}:
        message = str(newest.get("message") or "")
        return f"pod {name}: " + (message[:1].lower() + message[1:] if newest["reason"] == "Pulling" else message)
    if creating:
        return f"pod {name}: the node has not started {', '.join(creating)} yet"
    unready = [status["name"] for status in _statuses(pod) if not status.get("ready")]
    probe = _newest(scene.events, name, {"Unhealthy"})
    return f"pod {name} runs, and is not ready yet: {', '.join(unready) or 'all containers are'}" + (f" ({probe})" if probe else "")


def _statuses(pod: Obj) -> list[Obj]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _newest(events: Iterable[Obj], name: str, reasons: set[str] | None = None) -> str:
    about = [event for event in events if _is_about(event, name) and (reasons is None or event.get("reason") in reasons)]
    return str(max(about, key=_when)["message"]).strip() if about else ""


def _is_about(event: Obj, name: str) -> bool:
    return bool((event.get("involvedObject") or {}).get("name") == name)


def _when(event: Obj) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or (event.get("metadata") or {}).get("creationTimestamp") or ""


def _last_words(log: str) -> str:
    return " / ".join(line.strip() for line in log.strip().splitlines()[-_LOG_LINES:])


class Progress:
    """Tells why something waits: nothing at first, then the cause, and each other cause; the same one from time to time.

    `now` tells seconds; `tell` is given the words; `limit` is for how many seconds to wait at most.
    """

    def __init__(self, what: str, tell: Callable[[str], None], now: Callable[[], float], limit: float) -> None:
        self._what = what
        self._tell = tell
        self._now = now
        self.limit = limit
        self._began = now()
        self._told = ("", 0.0)
        self.reason = ""

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return self._now() - self._began

    @property
    def wants_reason(self) -> bool:
        """Whether it is time to find out a reason."""
        return self.elapsed >= _SILENT_SECONDS

    def waits(self, reason: str) -> None:
        """It waits for that."""
        self.reason = reason
        told, at = self._told
        if self.wants_reason and (reason != told or self._now() - at >= _REPEAT_SECONDS):
            self._told = (reason, self._now())
            self._tell(f"{self._what}, {self.elapsed:.0f} s: {reason}")
