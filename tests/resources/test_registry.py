from __future__ import annotations

import importlib
import pkgutil

import pytest

from syncer import resources
from syncer.kube.types import Key, Side
from syncer.resources import ALL
from syncer.sync.spec import SyncSpec
from tests.resources.apply import NAMES

NAMED = [pytest.param(spec, id=spec.name) for spec in ALL]


def test_every_module_is_registered() -> None:
    modules = [importlib.import_module(f"{resources.__name__}.{found.name}") for found in pkgutil.iter_modules(resources.__path__)]
    declared = [[value for value in vars(module).values() if isinstance(value, SyncSpec)] for module in modules]
    assert all(declared)
    assert {spec.name for specs in declared for spec in specs} == {spec.name for spec in ALL}
    assert len({spec.name for spec in ALL}) == len(ALL)
    assert {spec.part_of for spec in ALL if spec.part_of} <= {spec.name for spec in ALL}


@pytest.mark.parametrize("spec", NAMED)
def test_it_watches_both_halves_of_its_pairs(spec: SyncSpec) -> None:
    places = {(watch.side, watch.resource) for watch in spec.watches}
    for ref in (spec.virtual_ref(Key("", "")), spec.host_ref(NAMES, Key("", ""))):
        assert ref is None or (ref.side, ref.resource) in places


@pytest.mark.parametrize("spec", NAMED)
def test_it_watches_what_wakes_it_and_what_it_indexes(spec: SyncSpec) -> None:
    places = {(watch.side, watch.resource) for watch in spec.watches}
    assert places >= {(wake.side, wake.resource) for wake in spec.wakes} | {(wake.side, wake.resource) for wake in spec.index_wakes} | set(
        spec.indexes
    )


@pytest.mark.parametrize("spec", NAMED)
def test_it_asks_for_the_right_to_watch_what_its_pairs_need_on_the_host(spec: SyncSpec) -> None:
    allowed = {(right.group, right.resource) for right in spec.host_rights if {"list", "watch"} <= set(right.verbs)}
    ref = spec.host_ref(NAMES, Key("", ""))
    assert ref is None or (ref.resource.group, ref.resource.plural) in allowed


def test_watches_can_be_shared() -> None:
    slims = {(watch.side, watch.resource, watch.slim) for spec in ALL for watch in spec.watches}
    assert len(slims) == len({(side, resource) for side, resource, _ in slims}), "what is watched together is kept in one form"
    assert all(not watch.after_others or watch.side is Side.HOST for spec in ALL for watch in spec.watches)


def test_an_index_name_means_one_thing() -> None:
    declared = {
        (place, name, function) for spec in ALL for place, functions in spec.indexes.items() for name, function in functions.items()
    }
    assert len(declared) == len({(place, name) for place, name, _ in declared})
