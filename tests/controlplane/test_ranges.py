"""The host's range of Service addresses, from what an API server answers to dry runs."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.controlplane.ranges import Address, range_around
from syncer.errors import ConfigError


async def found(cidr: str, offset: int) -> tuple[str, int]:
    """What is found from an address in the range, and how often it was asked for."""
    network = ip_network(cidr)
    asked = 0

    async def contains(address: Address) -> bool:
        nonlocal asked
        asked += 1
        # As kube-apiserver's allocator: never the first address, nor the last of IPv4.
        last = network[-2] if address.version == 4 else network[-1]
        return address.version == network.version and int(network[1]) <= int(address) <= int(last)

    return await range_around(ip_address(int(network[0]) + offset), contains), asked


@given(base=st.integers(0, 2**32 - 1), bits=st.integers(4, 20), place=st.floats(0, 1, exclude_max=True), six=st.booleans())
async def test_it_is_found_from_any_of_its_addresses(base: int, bits: int, place: float, six: bool) -> None:
    width = 128 if six else 32
    number = ((0xFD00 << 112) | base) if six else base
    cidr = str(ip_network((number, width - bits), strict=False))
    range_found, asked = await found(cidr, int(place * 2**bits))
    assert range_found == cidr
    assert asked < 15


@pytest.mark.parametrize("cidr", ["10.0.0.0/11", "10.0.0.0/8", "fd00::/107", "fd00::/64"])
async def test_one_that_old_api_servers_do_not_take(cidr: str) -> None:
    with pytest.raises(ConfigError, match="wider than"):
        await found(cidr, 0)
