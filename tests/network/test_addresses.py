"""Arithmetic of addresses, by properties."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.core.errors import Conflict, Invalid
from cairn.network import addresses
from cairn.network.records import Range

blocks = st.one_of(
    st.builds(
        lambda n, p: ipaddress.ip_network((n, p), strict=False),
        st.integers(0, 2**32 - 1), st.integers(16, 32),
    ),
    st.builds(
        lambda n, p: ipaddress.ip_network((n, p), strict=False),
        st.integers(2**33, 2**128 - 1), st.integers(112, 128),
    ),
)  # fmt: skip


@given(blocks, st.data())
def test_default_pools_hold_every_usable_address_but_the_gateway(
    block: addresses.Cidr, data: st.DataObject
) -> None:
    gateway = str(block[data.draw(st.integers(0, block.num_addresses - 1))])
    pools = addresses.default_pools(block, gateway)
    first, last = addresses.usable(block)
    count = last - first + 1
    assert addresses.size(pools) == count - (first <= int(ipaddress.ip_address(gateway)) <= last)
    assert not addresses.holds(pools, gateway)
    if pools:
        index = data.draw(st.integers(0, addresses.size(pools) - 1))
        assert addresses.holds(pools, addresses.nth(pools, index))


@given(blocks, blocks)
def test_overlap_is_symmetric_and_means_a_shared_address(
    one: addresses.Cidr, two: addresses.Cidr
) -> None:
    found = addresses.overlapping(one, [str(two)]) is not None
    assert found == (addresses.overlapping(two, [str(one)]) is not None)
    shares = (
        one.version == two.version and int(one[0]) <= int(two[-1]) and int(two[0]) <= int(one[-1])
    )
    assert found == shares


@given(st.lists(st.integers(24, 28), max_size=12))
def test_prefixes_cut_from_a_pool_never_overlap_and_fill_it(lengths: list[int]) -> None:
    taken: list[str] = []
    for length in lengths:
        found = addresses.first_free_prefix(["10.0.0.0/22"], length, taken)
        if found is None:
            free = 2**10 - sum(ipaddress.ip_network(t).num_addresses for t in taken)
            assert length < 28 or free < 16
            continue
        block = ipaddress.ip_network(found)
        assert block.subnet_of(ipaddress.ip_network("10.0.0.0/22"))  # type: ignore[arg-type]
        assert addresses.overlapping(block, taken) is None
        taken.append(found)


@given(st.binary(min_size=3, max_size=3))
def test_autoconfigured_address_is_unique_to_its_mac(random: bytes) -> None:
    mac = addresses.new_mac(random)
    block = addresses.cidr("fd00::/64", "cidr")
    address = ipaddress.ip_address(addresses.autoconfigured(block, mac))
    assert address in block
    assert int(address).to_bytes(16)[-3:] == random


@pytest.mark.parametrize("text", ["10.0.0.1/24", "10.0.0.0", "10.0.0.0/33", "x", "", "fd00::1/64"])
def test_unclean_cidr_is_refused_by_name(text: str) -> None:
    with pytest.raises(Invalid, match="cidr"):
        addresses.cidr(text, "cidr")


@pytest.mark.parametrize(
    "text", ["", "x", "00:00:00:00:00:00", "01:00:5e:00:00:01", "fa:16:3e:00:00", "fa163e000001"]
)
def test_bad_mac_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="mac_address"):
        addresses.mac(text)


def test_pools_that_overlap_or_hold_the_gateway_are_refused() -> None:
    block = addresses.cidr("10.0.0.0/24", "cidr")
    with pytest.raises(Conflict, match="overlapping"):
        addresses.checked_pools(block, [("10.0.0.2", "10.0.0.9"), ("10.0.0.9", "10.0.0.12")], None)
    with pytest.raises(Conflict, match="Gateway ip"):
        addresses.checked_pools(block, [("10.0.0.1", "10.0.0.9")], "10.0.0.1")
    with pytest.raises(Invalid, match="not valid"):
        addresses.checked_pools(block, [("10.0.0.9", "10.0.0.2")], None)
    kept = addresses.checked_pools(
        block, [("10.0.0.20", "10.0.0.30"), ("10.0.0.2", "10.0.0.9")], None
    )
    assert kept[0] == Range(start="10.0.0.2", end="10.0.0.9")
