"""One version apart, agents and control planes understand each other: golden frames of each version.

Directions: an older agent's frames must be decoded as they were meant (golden/vN/*.msgpack), and what we
send to an older agent must hold nothing that it cannot take (golden/vN/schema.json, made by its own code).
"""

import asyncio
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cairn.core.ids import NodeId
from cairn.db.engine import Database
from cairn.db.feed import Feed
from cairn.fleet import service as fleet
from cairn.fleet.stream import NodeStreams
from cairn.sim.link import Wire
from cairn.wire import link
from cairn.wire.link import (
    OLDEST_WIRE_VERSION,
    WIRE_VERSION,
    Confirmed,
    Hello,
    Refused,
    Spec,
    Welcome,
)
from cairn.wire.report import FREE_STEP_GIB, NodeReport, digest_of
from cairn.wire.spec import NodeSpec
from tests.wire import samples

GOLDEN = Path(__file__).parent / "golden"
FRAMES = sorted(GOLDEN.glob("v*/*.msgpack"))
NODE = NodeId("n1")

DROPPED: Mapping[str, str] = {}
"""Fields that an older version had and that mean nothing any more, by "Frame.field.field": the reason."""

NEVER_SENT_TO_OLDER = {
    "Confirmed": "fleet/stream.py sends it to agents of version 2 only",
    "Renewed": "the answer to Renew, which older agents never send",
}
FROM_AGENTS = {"Hello", "Report", "Answer", "Renew"}


def plain(data: bytes) -> Any:
    return msgspec.msgpack.decode(data)


def words(frame: Any) -> str:
    return json.dumps(frame, default=repr, sort_keys=True)


# --- what older peers sent ---------------------------------------------------------------------------


def test_there_are_frames_of_every_version_that_is_understood() -> None:
    for version in range(OLDEST_WIRE_VERSION, WIRE_VERSION + 1):
        assert len(list((GOLDEN / f"v{version}").glob("*.msgpack"))) >= 10


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_frames_are_still_understood(path: Path) -> None:
    data = path.read_bytes()
    frame = link.decode(data)
    assert type(frame).__name__ == path.stem.partition(".")[0]
    lost = list(missing(plain(data), plain(link.encode(frame)), type(frame).__name__))
    assert not lost, f"no longer understood, a renamed field maybe: {lost}"


def missing(before: Any, after: Any, where: str) -> Any:
    """What was said and is not there after decoding and encoding."""
    if isinstance(before, dict):
        for key, value in before.items():
            if key not in after:
                if f"{where}.{key}" not in DROPPED:
                    yield f"{where}.{key}"
            else:
                yield from missing(value, after[key], f"{where}.{key}")
    elif isinstance(before, list):
        if len(before) != len(after):
            yield where
        for one, other in zip(before, after, strict=False):
            yield from missing(one, other, where)
    elif before != after:
        yield f"{where}: {before!r} became {after!r}"


def test_the_frames_of_our_own_version_are_complete() -> None:
    """Before a release: `python -m tests.wire.make`. After it: a change needs a new wire version."""
    folder = GOLDEN / f"v{WIRE_VERSION}"
    kept = {path.stem: plain(path.read_bytes()) for path in folder.glob("*.msgpack")}
    made = {name: plain(link.encode(frame)) for name, frame in samples.frames()}  # type: ignore[arg-type]
    assert made.keys() == kept.keys()
    for name, frame in made.items():
        assert words(frame) == words(kept[name]), f"{name}: see tests/wire/make.py"


# --- what older peers are sent -----------------------------------------------------------------------


class Peer:
    """Whether a peer of an older version can decode a frame, by the schema that its own code wrote.

    As msgspec does it: unknown fields are passed over, unknown kinds, members and types are not."""

    def __init__(self, version: int) -> None:
        self._schema = json.loads((GOLDEN / f"v{version}" / "schema.json").read_text())

    def complaints(self, frame: Any) -> list[str]:
        return list(self._look(self._schema, frame, frame.get("type", "?")))

    def _look(self, schema: Any, value: Any, where: str) -> Any:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            yield from self._look(self._schema["$defs"][name], value, where)
        elif "discriminator" in schema:
            kinds = schema["discriminator"]["mapping"]
            if value.get("type") not in kinds:
                yield f"{where}: unknown kind {value.get('type')}"
            else:
                yield from self._look({"$ref": kinds[value["type"]]}, value, where)
        elif "anyOf" in schema:
            tries = [list(self._look(one, value, where)) for one in schema["anyOf"]]
            if all(tries):
                yield from min(tries, key=len)
        elif "enum" in schema:
            if value not in schema["enum"]:
                yield f"{where}: unknown member {value!r}"
        elif "type" in schema:
            yield from self._look_at_type(schema, value, where)

    def _look_at_type(self, schema: Any, value: Any, where: str) -> Any:
        kinds: dict[str, Any] = {
            "object": dict, "array": list, "string": (str, bytes), "integer": int,
            "number": (int, float), "boolean": bool, "null": type(None),
        }  # fmt: skip
        if not isinstance(value, kinds[schema["type"]]):
            yield f"{where}: {value!r} is no {schema['type']}"
        elif schema["type"] == "object":
            for key in schema.get("required", ()):
                if key not in value:
                    yield f"{where}: {key} is missing"
            for key, inner in schema.get("properties", {}).items():
                if key in value:
                    yield from self._look(inner, value[key], f"{where}.{key}")
        elif schema["type"] == "array" and isinstance(schema.get("items"), dict):
            for one in value:
                yield from self._look(schema["items"], one, where)


@pytest.mark.parametrize("version", range(OLDEST_WIRE_VERSION, WIRE_VERSION))
def test_older_agents_can_take_what_they_are_sent(version: int) -> None:
    peer = Peer(version)
    sent = 0
    for name, frame in samples.frames():
        kind = name.partition(".")[0]
        if kind not in FROM_AGENTS and kind not in NEVER_SENT_TO_OLDER:
            sent += 1
            assert peer.complaints(plain(link.encode(frame))) == [], name  # type: ignore[arg-type]
    assert sent >= 6


def test_the_peer_complains_about_what_it_cannot_take() -> None:
    peer = Peer(1)
    assert peer.complaints(plain(link.encode(Confirmed(number=1)))) != []
    good = plain((GOLDEN / "v1" / "Report.msgpack").read_bytes())
    assert peer.complaints(good) == []
    good["report"]["guests"][0]["state"] = "receiving"
    assert peer.complaints(good) == ["Report.report.guests.state: unknown member 'receiving'"]
    del good["report"]["guests"][0]["id"]
    assert "Report.report.guests: id is missing" in peer.complaints(good)
    good["report"]["number"] = "1"
    assert "Report.report.number: '1' is no integer" in peer.complaints(good)


# --- in conversation ---------------------------------------------------------------------------------


def converse(database: Database, hello: Hello, frames: int) -> list[link.Frame]:
    """The first frames that a real control plane answers with."""

    async def meet() -> list[link.Frame]:
        feed = Feed()
        database.on_wake(feed.wake)
        streams = NodeStreams(
            database=database,
            feed=feed,
            compile_spec=lambda tx, n: NodeSpec(node_id=n, number=fleet.node(tx, n).spec_number),
            take_report=fleet.take_report,
        )
        wire = Wire(random.Random(1), delay_s_max=0.0, repeats=0.0)
        serving = asyncio.create_task(streams.serve(wire.control_end, NODE))
        await wire.agent_end.send(hello)
        heard = [await wire.agent_end.receive() for _ in range(frames)]
        wire.agent_end.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await streams.close()
        return heard

    enrol = {"hostname": "alpha", "zone": "nova", "roles": ("compute",)}
    database.write_now(lambda tx: fleet.enrol(tx, NODE, **enrol))  # type: ignore[arg-type]
    return asyncio.run(meet())


def test_an_agent_of_version_1_gets_its_spec_in_full(database: Database) -> None:
    golden = msgspec.structs.replace(
        link.decode((GOLDEN / "v1" / "Hello.msgpack").read_bytes()),
        wire_version=1,
        node_id=NODE,
        kind="node",
        spec_number=1,  # Even if it knew: it does not know what Confirmed is.
    )
    assert isinstance(golden, Hello)
    welcome, spec = converse(database, golden, 2)
    assert isinstance(welcome, Welcome)
    assert welcome.wire_version == 1
    assert isinstance(spec, Spec)
    peer = Peer(1)
    for frame in (welcome, spec):
        assert peer.complaints(plain(link.encode(frame))) == []


def test_an_agent_of_our_version_is_spared_the_spec_that_it_knows(database: Database) -> None:
    hello = Hello(wire_version=WIRE_VERSION, node_id=NODE, spec_number=1)
    welcome, confirmed = converse(database, hello, 2)
    assert isinstance(welcome, Welcome)
    assert welcome.wire_version == WIRE_VERSION
    assert confirmed == Confirmed(number=1)


@pytest.mark.parametrize("version", [OLDEST_WIRE_VERSION - 1, WIRE_VERSION + 1])
def test_an_agent_too_old_or_too_new_hears_what_is_spoken_here(
    database: Database, version: int
) -> None:
    (refused,) = converse(database, Hello(wire_version=version, node_id=NODE), 1)
    assert isinstance(refused, Refused)
    assert refused.oldest_wire_version == OLDEST_WIRE_VERSION
    assert refused.newest_wire_version == WIRE_VERSION
    assert f"wire version {version}" in refused.reason


def test_a_report_of_version_1_counts_as_news_once() -> None:
    """It carries no digest of its own, so the control plane makes one."""
    frame = link.decode((GOLDEN / "v1" / "Report.msgpack").read_bytes())
    report = frame.report  # type: ignore[union-attr]
    assert isinstance(report, NodeReport)
    assert report.digest == b""
    later = msgspec.structs.replace(report, number=report.number + 1)
    assert digest_of(report) == digest_of(later)
    fuller = msgspec.structs.replace(
        report.facts, disk_free_gib=report.facts.disk_free_gib + FREE_STEP_GIB
    )
    assert digest_of(report) != digest_of(msgspec.structs.replace(report, facts=fuller))
