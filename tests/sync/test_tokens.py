"""Service account tokens through the whole engine: minted, renewed in time, gone with the pod, told to nobody."""

from __future__ import annotations

import asyncio
from base64 import b64decode

import pytest
from structlog.typing import EventDict

from syncer.kube.types import EVENTS, PODS, SECRETS, SERVICE_ACCOUNTS, Key, Obj, Side, uid_of
from syncer.translate.token_secret import token_secret_key
from tests.fakes.requests import on
from tests.sync.harness import NAMES, World, clock, named, pod, running, wall

pytestmark = pytest.mark.looptime

LIFE = 610
RENEWED = 0.8 * LIFE


def with_token(name: str = "web", seconds: int = LIFE) -> Obj:
    made = pod(name, tokens=True)
    made["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] = seconds
    return made


def kept(world: World, name: str = "web") -> Obj | None:
    return world.host.get(SECRETS, token_secret_key(NAMES, Key("default", name)))


def minted(world: World) -> list[float]:
    return [entry.at for entry in world.journal.find("create", SERVICE_ACCOUNTS, subresource="token")]


async def test_a_token_is_bound_to_the_pod_and_renewed_at_four_fifths_of_its_life(logs: list[EventDict]) -> None:
    async with running() as world:
        began = clock()
        virtual = world.virtual.create(with_token())
        await world.settle_running()
        (request,) = world.journal.find("create", SERVICE_ACCOUNTS, subresource="token")
        assert request.request.body["spec"]["boundObjectRef"] == {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid_of(virtual)}
        assert request.request.body["spec"]["expirationSeconds"] == LIFE
        first = kept(world)
        assert first is not None
        await asyncio.sleep(began + RENEWED - 10 - clock())
        assert len(minted(world)) == 1
        await asyncio.sleep(LIFE)
        assert [at - began for at in minted(world)] == pytest.approx([0, RENEWED, 2 * RENEWED], abs=3)
        second = kept(world)
        assert second is not None
        assert second["data"] != first["data"]
        assert uid_of(second) == uid_of(first)
        tokens = [b64decode(value).decode() for secret in (first, second) for value in secret["data"].values()]
        assert not [entry for entry in logs if any(token in repr(entry) for token in tokens)]


async def test_a_restart_renews_nothing_early() -> None:
    async with running() as world:
        began = clock()
        world.virtual.create(with_token())
        await world.settle()
        await asyncio.sleep(200)
        await world.kill()
        await world.start()
        await asyncio.sleep(began + LIFE - clock())
        assert [at - began for at in minted(world)] == pytest.approx([0, RENEWED], abs=3)


async def test_tokens_go_with_their_pod() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.virtual.create(with_token())
        await world.settle_running()
        assert kept(world) is not None
        world.virtual.registry.delete(PODS, Key("default", "web"), {})
        await world.settle()
        assert kept(world) is not None, "it still runs, for its grace period"
        await world.settle_running()
        assert kept(world) is None
        assert world.syncer.rows() == {}
        count = len(minted(world))
        await asyncio.sleep(LIFE)
        assert len(minted(world)) == count


async def test_the_tokens_of_a_pod_that_was_replaced_are_replaced() -> None:
    async with running() as world:
        world.virtual.create(with_token())
        await world.settle_running()
        first = kept(world)
        world.virtual.remove(PODS, Key("default", "web"))
        world.virtual.create(with_token())
        await world.settle()
        await world.settle_running()
        second = kept(world)
        assert first is not None
        assert second is not None
        assert uid_of(first) != uid_of(second)
        assert second["data"] != first["data"]
        assert await world.scan_writes() == []


@pytest.mark.parametrize("how", [{"status": 500}, {"drop": True, "after": True}, {"status": 429, "retry_after": 5}], ids=str)
async def test_minting_is_tried_again_and_ends_with_one_secret(how: dict[str, object]) -> None:
    async with running() as world:
        world.virtual.fault(on("create", SERVICE_ACCOUNTS), times=3, **how)  # type: ignore[arg-type]  # passed on as given
        world.virtual.create(with_token())
        await asyncio.sleep(30)
        await world.settle()
        assert len(world.host.objects(SECRETS)) == 1
        assert len(minted(world)) == 4
        assert world.warnings() == []


async def test_a_lost_answer_to_the_creation_of_the_secret_leaves_one_with_tokens() -> None:
    async with running() as world:
        world.host.fault(on("create", SECRETS), drop=True, after=True, times=1)
        world.virtual.create(with_token())
        await asyncio.sleep(5)
        await world.settle()
        (secret,) = world.host.objects(SECRETS)
        assert len(secret["data"]) == 1
        assert await world.scan_writes() == []


async def test_who_refuses_their_secret_is_told_apart_from_who_refuses_the_token() -> None:
    quota = (
        'secrets "web" is forbidden: exceeded quota: objects, requested: count/secrets=1, used: count/secrets=9, limited: count/secrets=9'
    )
    async with running() as world:
        world.host.fault(on("create", SECRETS), status=403, message=quota)
        world.virtual.create(with_token())
        await asyncio.sleep(30)
        (message,) = {event["message"] for event in world.virtual.objects(EVENTS) if event["reason"] == "ExceededQuota"}
        assert "the host cluster has no room for it" in message


async def test_a_service_account_that_is_not_there_yet() -> None:
    async with running() as world:
        made = with_token()
        made["spec"]["serviceAccountName"] = "robot"
        world.virtual.create(made)
        await asyncio.sleep(60)
        assert 0 < len(minted(world)) < 15
        world.virtual.create(named("ServiceAccount", "robot"))
        await asyncio.sleep(35)
        assert kept(world) is not None


async def test_a_finished_pods_tokens_run_out() -> None:
    async with running() as world:
        world.virtual.create(with_token())
        await world.settle_running()
        world.kubelet.finish(NAMES.host_key(Key("default", "web")))
        await asyncio.sleep(2 * LIFE)
        assert len(minted(world)) == 1
        assert world.journal.find("delete", SECRETS, side=Side.HOST) == []


async def test_clocks_that_differ_by_more_than_a_tokens_life() -> None:
    async with running() as world:
        world.virtual.registry.now = lambda: wall() - 3 * LIFE
        began = clock()
        world.virtual.create(with_token())
        await asyncio.sleep(2 * LIFE)
        assert [at - began for at in minted(world)] == pytest.approx([0, RENEWED, 2 * RENEWED], abs=3)


async def test_a_secret_that_somebody_deletes_on_the_host_is_back_at_once() -> None:
    async with running() as world:
        world.virtual.create(with_token())
        await world.settle_running()
        first = kept(world)
        assert first is not None
        world.host.remove(SECRETS, token_secret_key(NAMES, Key("default", "web")))
        await world.settle()
        second = kept(world)
        assert second is not None
        assert second["data"] != first["data"]
