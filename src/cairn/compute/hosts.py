"""All hosts as arrays: which of ten thousand fits best, in some tens of microseconds.

The arrays are a copy of what the database said a moment ago, and of the places given since. A stale copy
does no harm: the claim itself is guarded in the database, and nobody hears "no valid host" before the
copy was made anew. What the arrays do not know of a host, `schedule.refusal` is asked about.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cairn.compute import schedule
from cairn.compute.schedule import Need
from cairn.core.ids import NodeId
from cairn.fleet.records import Node
from cairn.placement.records import Amounts, Room

Numbers = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]

CANDIDATES_MAX = 16  # looked at closely before every host is


class Hosts:
    """A copy of all hosts and their room. `spread` moves equals apart, so that placers side by side do
    not all prefer the same host."""

    def __init__(
        self,
        nodes: Sequence[Node],
        rooms: Mapping[NodeId, Room],
        *,
        spread: Mapping[NodeId, float] | None = None,
    ) -> None:
        self.nodes = sorted((n for n in nodes if n.id in rooms), key=lambda n: n.id)
        self.refused = [n for n in nodes if n.id not in rooms]  # that have never reported
        self._index = {n.id: i for i, n in enumerate(self.nodes)}
        capacity = [_row(rooms[n.id].capacity) for n in self.nodes]
        taken = [_row(rooms[n.id].taken) for n in self.nodes]
        self._capacity: Numbers = np.array(capacity, dtype=np.int64).reshape(-1, 3)
        self._taken: Numbers = np.array(taken, dtype=np.int64).reshape(-1, 3)
        self._open = np.array(
            [n.is_usable and "compute" in n.roles for n in self.nodes], dtype=bool
        )
        names = sorted({n.zone for n in self.nodes})
        self._zones = {name: number for number, name in enumerate(names)}
        self._zone: Numbers = np.array([self._zones[n.zone] for n in self.nodes], dtype=np.int64)
        apart = [(spread or {}).get(n.id, 0.0) for n in self.nodes]
        self._spread: Shares = np.array(apart, dtype=np.float64)
        self._emptiness: Shares = self._emptiness_of(self._capacity, self._taken) + self._spread

    def renew_rooms(self, taken: Sequence[tuple[NodeId, int, int, int]]) -> None:
        """What is taken, as the database says now."""
        known = [(self._index[row[0]], *row[1:]) for row in taken if row[0] in self._index]
        self._taken = np.zeros_like(self._taken)
        if known:
            rows: Numbers = np.array(known, dtype=np.int64)
            self._taken[rows[:, 0]] = rows[:, 1:]
        self._emptiness = self._emptiness_of(self._capacity, self._taken) + self._spread

    def trial(self) -> "Hosts":
        """A copy to give places on, until it is known whether they hold."""
        copy = object.__new__(Hosts)
        copy.__dict__.update(self.__dict__)
        copy._taken = self._taken.copy()
        copy._emptiness = self._emptiness.copy()
        return copy

    def take(self, node_id: NodeId, amounts: Amounts) -> None:
        index = self._index[node_id]
        self._taken[index] += _row(amounts)
        here = slice(index, index + 1)
        share = self._emptiness_of(self._capacity[here], self._taken[here])
        self._emptiness[index] = share[0] + self._spread[index]

    def adopt(self, trial: "Hosts") -> None:
        """The places given on the trial hold."""
        self._taken, self._emptiness = trial._taken, trial._emptiness

    def best(self, need: Need, allowed: Collection[NodeId] | None, most: int) -> list[Node]:
        """The hosts that fit, the emptiest first, at most `most`. Empty when none does."""
        fits = self._fitting(need, allowed)
        scores = np.where(fits, self._emptiness, -np.inf)
        found: list[Node] = []
        for _ in range(min(max(most, CANDIDATES_MAX), len(self.nodes))):
            index = int(scores.argmax())
            if scores[index] == -np.inf:
                return found
            if schedule.refusal(need, self.nodes[index], self._room(index)) is None:
                found.append(self.nodes[index])
                if len(found) == most:
                    return found
            scores[index] = -np.inf
        if not found:
            # The best were refused for what the arrays do not know: look at every one that is left.
            for index in np.argsort(-scores, kind="stable"):
                if scores[index] == -np.inf:
                    break
                if schedule.refusal(need, self.nodes[index], self._room(int(index))) is None:
                    return [self.nodes[index]]
        return found

    def rooms(self) -> dict[NodeId, Room]:
        return {n.id: self._room(i) for i, n in enumerate(self.nodes)}

    def _fitting(self, need: Need, allowed: Collection[NodeId] | None) -> npt.NDArray[np.bool_]:
        fits = self._open.copy()
        for column, wanted in enumerate(_row(need.amounts)):
            if wanted > 0:
                fits &= self._capacity[:, column] - self._taken[:, column] >= wanted
        if need.zone is not None:
            fits &= self._zone == self._zones.get(need.zone, -1)
        for ids in (need.node_ids, allowed):
            if ids is not None:
                only = np.zeros(len(self.nodes), dtype=bool)
                only[[self._index[i] for i in ids if i in self._index]] = True
                fits &= only
        return fits

    def _room(self, index: int) -> Room:
        return Room(
            node_id=self.nodes[index].id,
            capacity=_amounts(self._capacity[index]),
            taken=_amounts(self._taken[index]),
        )

    @staticmethod
    def _emptiness_of(capacity: Numbers, taken: Numbers) -> Shares:
        """As `fit.emptiness`, for all at once."""
        shares = np.where(capacity > 0, 1 - taken / np.maximum(capacity, 1), np.inf)
        least = shares.min(axis=1) if len(shares) else np.zeros(0)
        return np.where(np.isinf(least), 0.0, least)


def _row(amounts: Amounts) -> tuple[int, int, int]:
    return amounts.vcpus, amounts.memory_mib, amounts.disk_gib


def _amounts(row: Numbers) -> Amounts:
    vcpus, memory_mib, disk_gib = row.tolist()
    return Amounts(vcpus=vcpus, memory_mib=memory_mib, disk_gib=disk_gib)
