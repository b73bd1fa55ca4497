"""How a virtual cluster is doing: what its replicas' status pages tell, and what the host has of it, which is all where no page is had.

The document that `syncer status -o json` prints:

```
apiVersion: syncer/v1     kind: Standing
name, namespace
healthy                   whether `problems` is empty
problems                  [in words]
release                   {status, created, replicas, ready}, or null where none was looked at or found
pods                      [{name, phase, ready, restarts, role}]: `role` is leads, stands by, or "" for one whose page was not had
lease                     {holder, since, renewed}, or null
owner                     {name, virtualUID}: the ConfigMap that owns what is on the host; or null
page                      the status page of the replica that leads, or of another one if none does (syncer.proxy.statuspage), or null
```
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from syncer.proxy.statuspage import API_VERSION
from syncer.releases.forms import age, plain, table
from syncer.releases.release import Status
from syncer.sync.fence import VIRTUAL_UID

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from syncer.kube.types import Obj
    from syncer.releases.release import Release

KIND = "Standing"
_LISTS = ("refused", "held", "retrying", "waiting")
_SHOWN = 20
"""Items of a list that a person is shown; -o has more."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found out. Of each pod (or, with --url, under "") the page or, in words, why there is none."""

    name: str
    namespace: str
    release: Release | None = None
    why_not_ready: str = ""
    lease: Obj | None = None
    owner: Obj | None = None
    owner_is_gone: bool = False
    """Not so where it may not be read."""
    pages: Mapping[str, Obj | str] = field(default_factory=dict)


def standing(findings: Findings, now: float) -> Obj:
    """The document; `now` is epoch seconds."""
    pages = {pod: page for pod, page in findings.pages.items() if not isinstance(page, str)}
    leading = next((page for page in pages.values() if page["leader"]["leads"]), None)
    page = leading or next(iter(pages.values()), None)
    problems = list(dict.fromkeys(_problems(findings, pages, page, now)))
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": findings.name,
        "namespace": findings.namespace,
        "healthy": not problems,
        "problems": problems,
        "release": _release(findings.release),
        "pods": _pods(findings.release, pages),
        "lease": _lease(findings.lease),
        "owner": _owner(findings.owner),
        "page": page,
    }


def _problems(findings: Findings, pages: Mapping[str, Obj], page: Obj | None, now: float) -> Iterator[str]:
    release = findings.release
    if release is not None and release.status is Status.PAUSED:
        yield f"it is paused; `syncer resume {findings.name} --namespace={findings.namespace}`"
        return
    if release is not None and release.status is Status.DELETING:
        yield "it is being deleted"
        return
    if release is not None and (found := _release(release)) and found["ready"] < found["replicas"]:
        yield f"{found['ready']} of {found['replicas']} replicas are ready" + (
            f": {findings.why_not_ready}" if findings.why_not_ready else ""
        )
    for pod, words in findings.pages.items():
        if isinstance(words, str):
            yield f"{f'pod {pod}: ' if pod else ''}its status page cannot be had: {words}"
    if page is None:
        if not findings.pages:
            yield "there is no pod of it that could be asked"
        yield from _known_by_the_host(findings, now)
        return
    if not any(one["leader"]["leads"] for one in pages.values()) and not page["starting"]:
        who = page["leader"]["identity"]
        yield f"who leads cannot be asked: {who}" if who else "no replica leads"
    yield from page["problems"]
    for pod, other in pages.items():
        if other is not page:
            yield from (f"pod {pod}: {problem}" for problem in other["problems"])


def _known_by_the_host(findings: Findings, now: float) -> Iterator[str]:
    """What the syncer would tell, if it could be asked."""
    lease = _lease(findings.lease)
    if lease is not None and not lease["holder"]:
        yield "no replica leads: the Lease is free"
    elif lease is not None and _is_over(findings.lease or {}, now):
        yield f"no replica leads: {lease['holder']} renewed the Lease for the last time {age(lease['renewed'], now)} ago"
    if findings.owner_is_gone:
        yield f"the ConfigMap vc-{findings.name}-owner is not there; nothing is synced without it"


def _is_over(lease: Obj, now: float) -> bool:
    """Whether a Lease has run out, by this machine's clock and a minute for what the two may differ."""
    spec = lease.get("spec") or {}
    renewed = spec.get("renewTime")
    if not renewed:
        return True
    return now > datetime.fromisoformat(renewed).timestamp() + float(spec.get("leaseDurationSeconds") or 0) + 60


def _release(release: Release | None) -> Obj | None:
    if release is None:
        return None
    spec, status = release.stateful_set.get("spec") or {}, release.stateful_set.get("status") or {}
    return {
        "status": str(release.status),
        "created": release.created,
        "replicas": spec.get("replicas", 1),
        "ready": status.get("readyReplicas") or 0,
    }


def _pods(release: Release | None, pages: Mapping[str, Obj]) -> list[Obj]:
    found = []
    for pod in () if release is None else release.pods:
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        containers = status.get("containerStatuses") or ()
        page = pages.get(name)
        found.append(
            {
                "name": name,
                "phase": status.get("phase") or "",
                "ready": any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ()),
                "restarts": sum(one.get("restartCount") or 0 for one in containers),
                "role": "" if page is None else "leads" if page["leader"]["leads"] else "stands by",
            }
        )
    return sorted(found, key=lambda one: str(one["name"]))


def _lease(lease: Obj | None) -> Obj | None:
    if lease is None:
        return None
    spec = lease.get("spec") or {}
    return {"holder": spec.get("holderIdentity") or "", "since": spec.get("acquireTime") or "", "renewed": spec.get("renewTime") or ""}


def _owner(owner: Obj | None) -> Obj | None:
    if owner is None:
        return None
    return {"name": owner["metadata"]["name"], "virtualUID": (owner.get("data") or {}).get(VIRTUAL_UID) or ""}


def lines(document: Obj, now: float) -> Iterator[str]:
    """The document for a person."""
    yield f"{document['name']} in {document['namespace']}: {'healthy' if document['healthy'] else 'not healthy'}"
    yield from (f"  ! {plain(problem)}" for problem in document["problems"])
    page, release = document["page"], document["release"]
    if release is not None:
        ready = f"{release['ready']} of {release['replicas']} replicas ready"
        yield f"  release      {release['status']}, {ready}, {age(release['created'], now)} old"
    for pod in document["pods"]:
        role = pod["role"] or ("ready" if pod["ready"] else "not ready")
        restarts = f", {pod['restarts']} restarts" if pod["restarts"] else ""
        yield f"  pod          {pod['name']} {pod['phase']}, {role}{restarts}"
    if page is None:
        yield from _host_lines(document, now)
    else:
        yield from _page_lines(page, now)


def _host_lines(document: Obj, now: float) -> Iterator[str]:
    if (lease := document["lease"]) is not None:
        yield f"  leader       {lease['holder'] or 'nobody'}, last seen {age(lease['renewed'], now) or 'never'} ago"
    if (owner := document["owner"]) is not None:
        yield f"  owner        {owner['name']}, of the virtual cluster with kube-system {owner['virtualUID'] or '(none yet)'}"


def _page_lines(page: Obj, now: float) -> Iterator[str]:
    leader = page["leader"]
    if leader["elects"]:
        yield f"  leader       {leader['identity'] or 'nobody'}" + (f", for {age(leader['since'], now)}" if leader["since"] else "")
    for server in page["servers"]:
        yield f"  {server['side'] + ' API':<13}{plain(server['server'])} " + (
            "answers " + server["version"] if server["reachable"] else "does not answer"
        )
    yield f"  fence        {'open' if page['fence']['open'] else 'closed'} (ConfigMap {page['fence']['owner']})"
    for one in page["certificates"]:
        if one["ends"]:
            yield f"  certificate  {one['name']}: ends in {age(one['ends'], now).removeprefix('-')}"
    yield ""
    yield from table(
        ("LOOP", "STATE", "REFUSED", "HELD", "RETRYING", "WAITING", "DRIFT", "QUEUE", "BEHIND", "LAST WRITE", "WHY"), _loops(page, now)
    )
    for name in _LISTS:
        yield from _list_lines(name.upper(), page[name], [_item(item, now) for item in page[name]["items"][:_SHOWN]])
    drifting = [
        (f"{item['kind']} {_key(item)}", f"{item['side']}: {item['path']}", item["why"]) for item in page["drift"]["items"][:_SHOWN]
    ]
    yield from _list_lines("DRIFT", page["drift"], drifting)


def _loops(page: Obj, now: float) -> Iterator[tuple[str, ...]]:
    for loop in page["loops"]:
        if "pairs" not in loop:
            yield (loop["name"], "on" if loop["on"] else "off", *[""] * 8, loop["why"])
            continue
        pairs, queue = loop["pairs"], loop["queue"]
        counts = [*(pairs[state] for state in _LISTS), loop["drifting"], queue["depth"]]
        behind = f"{loop['behindSeconds']:.0f}s" if loop["behindSeconds"] >= 1 else ""
        last = age(loop["lastWrite"], now)
        state = "on" if loop["alive"] else "dead"
        yield (loop["name"], state, *(str(count or "") for count in counts), behind, last, loop["why"])


def _item(item: Obj, now: float) -> tuple[str, ...]:
    next_try = f"next try in {age(item['nextTry'], now).removeprefix('-')}" if item["nextTry"] else "after a change"
    return f"{item['kind'] or item['loop']} {_key(item)}", f"for {age(item['since'], now)}, {next_try}", item["cause"], item["reason"]


def _key(item: Obj) -> str:
    return f"{item['namespace']}/{item['name']}" if item["namespace"] else str(item["name"])


def _list_lines(heading: str, found: Obj, rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    if not rows:
        return
    yield ""
    yield f"{heading} ({found['count']}" + (f", the oldest {len(rows)})" if len(rows) < found["count"] else ")")
    yield from table(("OBJECT", *[""] * (len(rows[0]) - 1)), rows)[1:]
