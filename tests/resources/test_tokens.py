from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import PODS, SECRETS, Key, Obj, Side
from syncer.naming import ANNOTATION_KIND, ANNOTATION_UID, Names
from syncer.resources import tokens
from syncer.sync.intents import MintToken
from syncer.translate.merge import apply
from syncer.translate.metadata import TOKEN_EXPIRY, virtual_key
from syncer.translate.token_secret import renewal_times, token_pod, token_secret, token_secret_key
from tests.resources.apply import NAMES, NOW, World, told
from tests.resources.objects import HOST, deleting, host_marks, pod, ready_world

WEB = Key("default", "web")
HOST_WEB = Key(HOST, "web-x-default-x-vc")
SECRET = token_secret_key(NAMES, WEB)

PROJECTED = {
    "spec": {
        "serviceAccountName": "robot",
        "volumes": [
            {"name": "api", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}},
            {"name": "vault", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}},
        ],
    }
}
KEYS = ("api.token", "vault.t")


def expiry(issued: float, expires: float, *keys: str) -> Obj:
    return {"metadata": {"annotations": {TOKEN_EXPIRY: json.dumps({key: [int(issued), int(expires)] for key in keys or KEYS})}}}


FRESH = expiry(NOW, NOW + 3600)


def state(virtual: Obj | None, secret: Obj | None, host: Obj | None) -> World:
    """Changes to a pod with two tokens, to its token Secret, and to its host pod."""
    world = ready_world(tokens.SPEC)
    marked = {"metadata": {**host_marks("Pod", "web"), "uid": "host-pod"}}
    if virtual is not None:
        world.put(Side.VIRTUAL, PODS, apply(pod(PROJECTED), virtual))
    if secret is not None:
        world.put(Side.HOST, SECRETS, apply(token_secret(NAMES, None, pod()), secret))
    if host is not None:
        world.put(Side.HOST, PODS, apply(marked, host))
    return world


EARLIER = {"metadata": {"annotations": {ANNOTATION_UID: "before"}}}
MINT, RENEW = "mint default/web api.token,vault.t", "mint default/web api.token,vault.t again"
DELETE, UNTIL_GONE = f"delete host secrets {SECRET}", f"wait host secrets {SECRET}"

RULES: list[tuple[str, Obj | None, Obj | None, Obj | None, list[str]]] = [
    ("nothing at all", None, None, None, []),
    ("a pod without tokens", {"spec": {"volumes": None}}, None, {}, []),
    ("a pod without tokens that once had some", {"spec": {"volumes": None}}, FRESH, {}, [DELETE]),
    ("host pod is not there yet: minted beside it", {}, None, None, [MINT]),
    ("host pod is an earlier pod's", {}, None, EARLIER, [MINT]),
    ("deleting, host pod is an earlier pod's", deleting(), FRESH, EARLIER, [DELETE]),
    ("host pod is there: minted", {}, None, {}, [MINT]),
    ("fresh: until 80 % of its life", {}, FRESH, {}, ["again 2880"]),
    ("the earliest counts", {}, apply(FRESH, {"metadata": {"annotations": {TOKEN_EXPIRY: json.dumps({
        "api.token": [int(NOW), int(NOW) + 600], "vault.t": [int(NOW), int(NOW) + 3600]})}}}), {}, ["again 480"]),
    ("at 80 %: renewed", {}, expiry(NOW - 2880, NOW + 720), {}, [RENEW]),
    ("of a long life: until a day is over", {}, expiry(NOW, NOW + 30 * 86400), {}, ["again 86400"]),
    ("the clock was put back", {}, expiry(NOW + 7200, NOW + 10800), {}, [RENEW]),
    ("another replica's clock is a little ahead", {}, expiry(NOW + 30, NOW + 3630), {}, ["again 2910"]),
    ("run out while nobody looked", {}, expiry(NOW - 9000, NOW - 5400), {}, [RENEW]),
    ("one is missing", {}, expiry(NOW, NOW + 3600, "api.token"), {}, [RENEW]),
    ("unreadable timetable", {}, {"metadata": {"annotations": {TOKEN_EXPIRY: "{"}}}, {}, [RENEW]),
    ("nonsense in the timetable", {}, {"metadata": {"annotations": {TOKEN_EXPIRY: '{"api.token": "x"}'}}}, {}, [RENEW]),
    ("no timetable", {}, {}, {}, [RENEW]),
    ("finished: left to run out", {"status": {"phase": "Succeeded"}}, expiry(NOW - 9000, NOW - 5400), {}, []),
    ("finished before it had tokens", {"status": {"phase": "Failed"}}, None, {}, []),
    ("deleting: still renewed, it runs", deleting(), expiry(NOW - 2880, NOW + 720), deleting(), [RENEW]),
    ("deleting before it had tokens", deleting(), None, {}, []),
    ("deleting, host pod is gone", deleting(), FRESH, None, [DELETE]),
    ("pod is gone", None, FRESH, None, [f"{DELETE} unexplained"]),
    ("pod is gone, the host's garbage collector is at work", None, apply(FRESH, deleting(None)), None, []),
    ("an earlier pod's tokens", {}, apply(FRESH, EARLIER), {}, [f"{DELETE} unexplained", UNTIL_GONE]),
    ("the old Secret is on its way out", {}, apply(FRESH, deleting(None)), {}, [UNTIL_GONE]),
]  # fmt: skip


@pytest.mark.parametrize(("virtual", "secret", "host", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(virtual: Obj | None, secret: Obj | None, host: Obj | None, expected: list[str]) -> None:
    world = state(virtual, secret, host)
    assert told(world.decide(tokens.SPEC, WEB)) == expected
    world.settle(tokens.SPEC, WEB)


def test_what_is_minted() -> None:
    (mint,) = state({}, None, {}).decide(tokens.SPEC, WEB)
    assert isinstance(mint, MintToken)
    assert (mint.pod, mint.pod_uid, mint.service_account) == (WEB, "uid-web", "robot")
    assert [(source.audience, source.expiration_seconds) for source in mint.sources] == [("", 3607), ("vault", 3600)]
    assert mint.secret["metadata"]["ownerReferences"] == [state({}, None, {}).view().policy.owner]
    assert "data" not in mint.secret


def test_service_account_default() -> None:
    (mint,) = state({"spec": {"serviceAccountName": None}}, None, {}).decide(tokens.SPEC, WEB)
    assert isinstance(mint, MintToken)
    assert mint.service_account == "default"


STAGES = [
    ("a pod without tokens", {"spec": {"volumes": None}}, []),
    ("running", {}, ["default/web/uid-web/running"]),
    ("running, whatever its phase", {"status": {"phase": "Running"}}, ["default/web/uid-web/running"]),
    ("finished", {"status": {"phase": "Failed"}}, ["default/web/uid-web/ended"]),
    ("deleting", deleting(), ["default/web/uid-web/ending"]),
]


@pytest.mark.parametrize(("change", "values"), [stage[1:] for stage in STAGES], ids=[stage[0] for stage in STAGES])
def test_a_change_of_stage_wakes_the_pods_tokens(change: Obj, values: list[str]) -> None:
    (wake,) = tokens.SPEC.index_wakes
    index = tokens.SPEC.indexes[wake.side, wake.resource][wake.index]
    assert list(index(apply(pod(PROJECTED), change))) == values
    assert {wake.key(value, state({}, None, {}).view()) for value in values} <= {WEB}


class TestSecret:
    def stored(self) -> Obj:
        return token_secret(NAMES, None, pod())

    def test_the_way_back(self) -> None:
        assert token_pod(NAMES, self.stored()) == WEB

    @pytest.mark.parametrize(
        "change",
        [
            {"metadata": {"name": "copied"}},
            {"metadata": {"labels": {"vcluster.loft.sh/managed-by": "other"}}},
            {"metadata": {"labels": {"vcluster.loft.sh/namespace": "other"}}},
            {"metadata": {"annotations": {ANNOTATION_KIND: "/v1, Kind=Secret"}}},
            {"metadata": {"annotations": None}},
            {"kind": "ConfigMap"},
        ],
    )
    def test_anything_else_is_not_ours(self, change: Obj) -> None:
        assert token_pod(NAMES, apply(self.stored(), change)) is None

    def test_it_is_no_copy_of_a_secret(self) -> None:
        assert virtual_key(NAMES, SECRETS, self.stored()) is None

    @pytest.mark.parametrize("text", ["", "[]", "null", "1", '{"a": [1]}', '{"a": ["x", 2]}', "{"])
    def test_unreadable_timetables(self, text: str) -> None:
        assert renewal_times({"metadata": {"annotations": {TOKEN_EXPIRY: text}}}, NOW) == {}


PARTS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?", fullmatch=True) | st.sampled_from(["a", "a-x-b", "b-x-c", "web-token", "x"])
TRIPLES = st.tuples(PARTS, PARTS, PARTS)


@given(one=TRIPLES, other=TRIPLES)
def test_secret_names_are_valid_and_meet_nothing(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    first, second = (token_secret_key(Names(suffix, HOST), Key(namespace, name)).name for name, namespace, suffix in (one, other))
    assert (first == second) == (one == other)
    assert len(first) <= 63
    assert first[0].isalnum()
    assert first[-1].isalnum()
    assert first != Names(other[2], HOST).host_name(other[1], other[0])
