"""Lists, pages, selectors and watches."""

from __future__ import annotations

import pytest

from syncer.kube.types import Obj
from tests.fakes.conftest import STREAM, Probe, named, pod

PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


def is_last(events: list[Obj]) -> bool:
    """Whether the object named "last" has been seen."""
    return bool(events[-1]["object"]["metadata"].get("name") == "last")


def is_bookmark(events: list[Obj]) -> bool:
    return bool(events[-1]["type"] == "BOOKMARK")


def told(events: list[Obj]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


async def test_pages_are_of_one_moment(api: Probe) -> None:
    for name in "abcde":
        await api("POST", "secrets", {"metadata": {"name": name, "labels": {"page": name}}})
    first = await api("GET", "secrets", limit="2")
    await api("POST", "secrets", named("cc"))
    await api("DELETE", "secrets/d")
    second = await api("GET", "secrets", limit="2", **{"continue": first.meta["continue"]})
    third = await api("GET", "secrets", limit="2", **{"continue": second.meta["continue"]})
    assert [[item["metadata"]["name"] for item in page.body["items"]] for page in (first, second, third)] == [["a", "b"], ["c", "d"], ["e"]]
    assert first.revision == second.revision == third.revision
    assert (first.meta["remainingItemCount"], "continue" in third.meta) == (3, False)
    assert first.body["kind"] == "SecretList"
    assert "kind" not in first.body["items"][0]
    selected = await api("GET", "secrets", limit="2", labelSelector="page")
    assert "remainingItemCount" not in selected.meta


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("x", "ab"),
        ("!x", "c"),
        ("x=1", "a"),
        ("x==1", "a"),
        ("x!=1", "bc"),
        ("x in (1,2)", "ab"),
        ("x in (2),y", "b"),
        ("x notin (1)", "bc"),
        ("x=1,y=2", ""),
    ],
)
async def test_label_selectors(api: Probe, selector: str, names: str) -> None:
    for name, labels in (("a", {"x": "1"}), ("b", {"x": "2", "y": ""}), ("c", {"z": "1"})):
        await api("POST", "secrets", {"metadata": {"name": name, "labels": labels}})
    found = await api("GET", "secrets", labelSelector=selector)
    assert "".join(item["metadata"]["name"] for item in found.body["items"]) == names


async def test_field_selectors(api: Probe) -> None:
    about = {"kind": "Pod", "namespace": api.ns, "name": "p", "uid": "u"}
    for name in ("a", "b"):
        event = {**named(name), "involvedObject": {**about, "uid": name}, "reason": "R", "type": "Warning", "source": {"component": name}}
        await api("POST", "events", event)
    for selector in (
        "metadata.name=b",
        "involvedObject.uid=b",
        "involvedObject.name=p,involvedObject.uid!=a",
        "reason=R,source=b",
        "type=Warning,source!=a",
    ):
        found = await api("GET", "events", fieldSelector=selector)
        assert [item["metadata"]["name"] for item in found.body["items"]] == ["b"], selector


async def test_metadata_only(api: Probe) -> None:
    made = await api("POST", "secrets", named("a", stringData={"k": "v"}), accept=PARTIAL)
    one = await api("GET", "secrets/a", accept=PARTIAL)
    page = await api("GET", "secrets", accept=PARTIAL_LIST)
    _, events = await api.watch("secrets", accept=PARTIAL, until=is_bookmark, **STREAM)
    for body in (made.body, one.body, page.body["items"][0], events[0]["object"], events[1]["object"]):
        assert set(body) == {"kind", "apiVersion", "metadata"}
        assert (body["kind"], body["apiVersion"]) == ("PartialObjectMetadata", "meta.k8s.io/v1")
    assert page.body["kind"] == "PartialObjectMetadataList"
    assert (await api("GET", "secrets/a")).body["data"] == {"k": "dg=="}
    for accept in ("text/html", "application/json;as=Other;g=meta.k8s.io;v=v1"):
        assert (await api("GET", "secrets/a", accept=accept)).refusal == (406, "NotAcceptable")


async def test_a_watch_continues_where_a_list_ended(api: Probe) -> None:
    await api("POST", "secrets", named("before"))
    start = (await api("GET", "secrets")).revision
    await api("POST", "secrets", named("a"))
    await api("PATCH", "secrets/a", {"metadata": {"labels": {"x": "y"}}})
    await api("PATCH", "secrets/a", {"metadata": {"labels": {"x": "y"}}})
    deleted = await api("DELETE", "secrets/a")
    await api("POST", "configmaps", named("a"))
    await api("POST", "secrets", named("last"))
    code, events = await api.watch("secrets", resourceVersion=str(start), until=is_last)
    assert code == 200
    assert deleted.code == 200
    assert told(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "last")]
    assert events[2]["object"]["metadata"]["labels"] == {"x": "y"}
    assert int(events[2]["object"]["metadata"]["resourceVersion"]) > int(events[1]["object"]["metadata"]["resourceVersion"])
    assert all(event["object"]["kind"] == "Secret" for event in events)


async def test_a_watch_with_a_selector_sees_objects_come_and_go(api: Probe) -> None:
    start = (await api("GET", "secrets")).revision
    await api("POST", "secrets", {"metadata": {"name": "a", "labels": {"x": "1"}}})
    left = await api("PATCH", "secrets/a", {"metadata": {"labels": {"x": "2"}}})
    await api("PATCH", "secrets/a", {"metadata": {"labels": {"x": "1"}}})
    await api("DELETE", "secrets/a")
    await api("POST", "secrets", {"metadata": {"name": "last", "labels": {"x": "1"}}})
    _, events = await api.watch("secrets", resourceVersion=str(start), labelSelector="x=1", until=is_last)
    assert told(events) == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "a"), ("DELETED", "a"), ("ADDED", "last")]
    assert events[1]["object"]["metadata"]["labels"] == {"x": "1"}
    assert events[1]["object"]["metadata"]["resourceVersion"] == str(left.revision)


@pytest.mark.parametrize("revision", ["", "0"])
async def test_a_watch_from_nowhere_begins_with_what_there_is(api: Probe, revision: str) -> None:
    for name in ("b", "a", "last"):
        await api("POST", "secrets", named(name))
    _, events = await api.watch("secrets", resourceVersion=revision, until=is_last)
    assert told(events) == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "last")]


async def test_watch_list(api: Probe) -> None:
    for name in ("b", "a"):
        await api("POST", "secrets", named(name))
    newest = (await api("GET", "secrets")).revision
    _, events = await api.watch("secrets", until=is_bookmark, **STREAM)
    assert told(events) == [("ADDED", "a"), ("ADDED", "b"), ("BOOKMARK", "")]
    assert events[-1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(events[-1]["object"]["metadata"]["resourceVersion"]) >= newest
    assert events[-1]["object"]["kind"] == "Secret"


async def test_a_watch_ends_at_its_timeout(api: Probe) -> None:
    start = (await api("GET", "secrets")).revision
    code, events = await api.watch("secrets", resourceVersion=str(start), timeoutSeconds="1")
    assert (code, events) == (200, [])


async def test_a_watch_from_the_future_is_silent(api: Probe) -> None:
    """Not an error, no bookmarks: a client cannot learn from it that the server's data are older than its own."""
    future = (await api("GET", "secrets")).revision + 10**6
    await api("POST", "secrets", named("a"))
    code, events = await api.watch("secrets", resourceVersion=str(future), allowWatchBookmarks="true", timeoutSeconds="5")
    assert (code, events) == (200, [])


async def test_a_list_or_watch_list_from_the_future_is_too_large(api: Probe) -> None:
    future = str((await api("GET", "secrets")).revision + 10**6)
    listed = await api("GET", "secrets", resourceVersion=future)
    code, events = await api.watch("secrets", resourceVersion=future, until=None, **STREAM)
    assert code == 200
    assert [event["type"] for event in events] == ["ERROR"]
    for body in (listed.body, events[0]["object"]):
        assert (body["code"], body["reason"]) == (504, "Timeout")
        assert body["message"].startswith(f"Timeout: Too large resource version: {future}, current: ")
        assert body["details"]["causes"] == [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    assert (listed.code, listed.retry_after) == (504, "1")


async def test_a_deleted_pod_is_modified_before_it_is_gone(api: Probe) -> None:
    start = (await api("GET", "pods")).revision
    await api("POST", "pods", pod("a"))
    await api("DELETE", "pods/a")
    await api("POST", "pods", pod("last"))
    _, events = await api.watch("pods", resourceVersion=str(start), until=is_last)
    assert told(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "last")]
    revisions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert revisions == sorted(set(revisions))
