"""Rules to matches, one line each."""

import pytest

from cairn.core.ids import SecurityGroupId
from cairn.drivers.networks.firewall import group_acls
from cairn.wire.spec import GroupRuleSpec, GroupSpec

GROUP = SecurityGroupId("0a-1b")
IN4, IN6 = "outport == @sg_0a_1b && ip4", "outport == @sg_0a_1b && ip6"


def rule(
    protocol: str | None = None,
    low: int | None = None,
    high: int | None = None,
    *,
    direction: str = "ingress",
    ethertype: str = "IPv4",
    cidr: str | None = None,
    group: str | None = None,
) -> GroupRuleSpec:
    return GroupRuleSpec(
        direction=direction,
        ethertype=ethertype,
        protocol=protocol,
        port_min=low,
        port_max=high,
        remote_cidr=cidr,
        remote_group=SecurityGroupId(group) if group else None,
    )


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (rule(), IN4),
        (rule(ethertype="IPv6"), IN6),
        (rule(direction="egress"), "inport == @sg_0a_1b && ip4"),
        (rule("tcp"), f"{IN4} && tcp"),
        (rule("TCP", 22, 22), f"{IN4} && tcp && tcp.dst == 22"),
        (rule("tcp", 22), f"{IN4} && tcp && tcp.dst == 22"),
        (rule("udp", 5000, 5010), f"{IN4} && udp && udp.dst >= 5000 && udp.dst <= 5010"),
        (rule("6", 0, 0), f"{IN4} && tcp && tcp.dst == 0"),
        (rule("132", 7), f"{IN4} && sctp && sctp.dst == 7"),
        (rule("icmp"), f"{IN4} && icmp4"),
        (rule("1", 8), f"{IN4} && icmp4 && icmp4.type == 8"),
        (rule("icmp", 3, 4), f"{IN4} && icmp4 && icmp4.type == 3 && icmp4.code == 4"),
        (rule("icmpv6", 128, 0, ethertype="IPv6"),
         f"{IN6} && icmp6 && icmp6.type == 128 && icmp6.code == 0"),
        (rule("icmp", ethertype="IPv6"), f"{IN6} && icmp6"),
        (rule("58", ethertype="IPv6"), f"{IN6} && icmp6"),
        (rule("vrrp"), f"{IN4} && ip.proto == 112"),
        (rule("47"), f"{IN4} && ip.proto == 47"),
        (rule(cidr="10.0.0.7"), f"{IN4} && ip4.src == 10.0.0.7/32"),
        (rule(cidr="10.0.0.7/8"), f"{IN4} && ip4.src == 10.0.0.0/8"),
        (rule(cidr="0.0.0.0/0"), IN4),
        (rule(cidr="::/0", ethertype="IPv6"), IN6),
        (rule(cidr="10.0.0.0/8", direction="egress"),
         "inport == @sg_0a_1b && ip4 && ip4.dst == 10.0.0.0/8"),
        (rule(group="0a-1b"), f"{IN4} && ip4.src == $sg_0a_1b_ip4"),
        (rule("tcp", 80, ethertype="IPv6", group="2c"),
         f"{IN6} && ip6.src == $sg_2c_ip6 && tcp && tcp.dst == 80"),
    ],
)  # fmt: skip
def test_a_rule_is_this_match(given: GroupRuleSpec, match: str) -> None:
    (acl,), refused = group_acls(GroupSpec(id=GROUP, rules=(given,)))
    assert (acl.match, refused) == (match, ())
    assert acl.direction == ("to-lport" if given.direction == "ingress" else "from-lport")
    assert acl.action == "allow-related"


def test_a_stateless_group_remembers_nothing() -> None:
    (acl,), _ = group_acls(GroupSpec(id=GROUP, rules=(rule("tcp"),), stateful=False))
    assert acl.action == "allow-stateless"


def test_equal_rules_are_one() -> None:
    acls, _ = group_acls(GroupSpec(id=GROUP, rules=(rule("tcp"), rule("6"), rule("tcp", 1))))
    assert len(acls) == 2


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (rule("no such thing"), "protocol no such thing"),
        (rule("256"), "protocol 256"),
        (rule(cidr="10.0.0.0/40"), "remote_ip_prefix 10.0.0.0/40"),
        (rule(cidr="10.0.0.0/8 || 1"), "remote_ip_prefix"),
    ],
)
def test_a_rule_that_cannot_be_is_left_out_and_named(given: GroupRuleSpec, why: str) -> None:
    acls, (refused,) = group_acls(GroupSpec(id=GROUP, rules=(given, rule("tcp"))))
    assert len(acls) == 1
    assert refused.startswith(f"rule of security group {GROUP}: {why}")
