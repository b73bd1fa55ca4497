"""Waits until a virtual cluster is ready, and tells why it is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from syncer.errors import NETWORK_ERRORS, ApiError, Expired, NotFound, Throttled, TooLate, told
from syncer.kube.types import EVENTS, PERSISTENT_VOLUME_CLAIMS, PODS, SERVICES, Key, key_of
from syncer.releases.release import DATASTORE, SELECTOR, STATEFUL_SETS
from syncer.releases.waiting import Progress, Scene, ended_containers, is_ready, why_not_ready

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from syncer.kube.client import Client
    from syncer.kube.types import Obj

T = TypeVar("T")

LOOK_SECONDS = 0.5


async def until(condition: Callable[[], Awaitable[str]], progress: Progress, otherwise: str) -> None:
    """Until `condition` answers "", else the reason why it is not so yet. TooLate with the last reason, and `otherwise`: what to do.

    An API server that does not answer, or that cannot just now, is such a reason; any other refusal is raised.
    """
    while reason := await _answered(condition):
        progress.waits(reason)
        if progress.elapsed >= progress.limit:
            raise TooLate(f"waited {progress.limit:.0f} s in vain: {reason}; {otherwise}")
        await asyncio.sleep(LOOK_SECONDS)


async def in_time(attempt: Callable[[], Awaitable[T]], progress: Progress, otherwise: str) -> T:
    """What `attempt` returns, as soon as the API server lets it; it may be begun several times. Raises as `until` does."""
    found: list[T] = []

    async def done() -> str:
        found.append(await attempt())
        return ""

    await until(done, progress, otherwise)
    return found[0]


async def _answered(condition: Callable[[], Awaitable[str]]) -> str:
    try:
        return await condition()
    except ApiError as error:
        if error.status < 500 and not isinstance(error, Throttled | Expired):
            raise
        return f"a request failed: {told(error)}"
    except NETWORK_ERRORS as error:
        return f"a request failed: {told(error)}"


async def wait_ready(host: Client, name: str, namespace: str, progress: Progress) -> None:
    """Until all replicas of the control plane are ready. Raises TooLate."""
    key = Key(namespace, name)

    async def reason() -> str:
        try:
            stateful_set = await host.get(STATEFUL_SETS, key)
        except NotFound:
            stateful_set = None
        if stateful_set is not None and is_ready(stateful_set):
            return ""
        late = progress.elapsed + LOOK_SECONDS >= progress.limit
        if not progress.wants_reason and not late:
            return "it is starting"
        return await why(host, key, stateful_set)

    see = f"kubectl --namespace={namespace} describe pod {name}-0"
    await until(reason, progress, f"it goes on starting; look with `{see}`, and at the log of its container syncer")


async def wait_balanced(host: Client, name: str, namespace: str, progress: Progress) -> str:
    """The address that a load balancer gave the virtual cluster. Raises TooLate."""
    key = Key(namespace, f"{name}-lb")
    found = [""]

    async def reason() -> str:
        try:
            service = await host.get(SERVICES, key)
        except NotFound:
            return f"there is no Service {key}: is service.type LoadBalancer?"
        ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
        found[0] = next((item.get("ip") or item.get("hostname") or "" for item in ingress), "")
        return "" if found[0] else f"no load balancer has given the Service {key} an address yet"

    await until(reason, progress, "does the host have a controller for load balancers? `syncer connect` works without one")
    return found[0]


async def why(host: Client, key: Key, stateful_set: Obj | None) -> str:
    """Why the control plane is not ready, in words; it waits for its datastore first."""
    datastores = await _listed(host.list_all(STATEFUL_SETS, key.namespace, label_selector=f"{DATASTORE},release={key.name}"))
    late = next((one for one in datastores if not is_ready(one)), None)
    if late is not None:
        return f"its datastore: {why_not_ready(await _scene(host, key_of(late), late, f'{DATASTORE},release={key.name}'))}"
    return why_not_ready(await _scene(host, key, stateful_set))


async def _scene(host: Client, key: Key, stateful_set: Obj | None, selector: str = "") -> Scene:
    """What there is to explain a StatefulSet with; without what may not be read. `selector` finds its pods, by default the syncer's."""
    selector = selector or f"{SELECTOR},release={key.name}"
    pods, claims = await asyncio.gather(
        _listed(host.list_all(PODS, key.namespace, label_selector=selector)),
        _listed(host.list_all(PERSISTENT_VOLUME_CLAIMS, key.namespace, label_selector=selector)),
    )
    names = sorted({key.name, *(key_of(obj).name for obj in (*pods, *claims))})
    events = await asyncio.gather(
        *(_listed(host.list_all(EVENTS, key.namespace, field_selector=f"involvedObject.name={name}")) for name in names)
    )
    ended = list(ended_containers(pods))
    logs = await asyncio.gather(*(_log(host, key.namespace, pod, container, previous=previous) for pod, container, previous in ended))
    words = {(pod, container): log for (pod, container, _), log in zip(ended, logs, strict=True)}
    return Scene(stateful_set, pods, claims, [event for some in events for event in some], words)


async def _listed(asked: Awaitable[list[Obj]]) -> list[Obj]:
    try:
        return await asked
    except ApiError:
        return []


async def _log(host: Client, namespace: str, pod: str, container: str, *, previous: bool) -> str:
    params = {"container": container, "tailLines": "5", "previous": str(previous).lower()}
    try:
        return await host.request_text(PODS.path(namespace, pod, "log"), params=params)
    except ApiError:
        return ""
