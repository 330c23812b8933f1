"""Draws a life as a page of Markdown: a Mermaid diagram and the whole table.

`docs/states` is made with this (`python -m tests.life.test_diagrams`) and a test holds the two equal, so
that nobody reads a diagram of what once was.
"""

from collections import defaultdict
from enum import StrEnum

from cairn.life.machine import Life


def page(life: Life[StrEnum]) -> str:
    """The whole page. Sorted, so that the same table is always the same text."""
    return "\n".join(
        [
            f"# {life.what.capitalize()}: its states",
            "",
            "Made from the table in the code; a test holds it to that. What the table lacks is",
            "refused with a conflict (409).",
            "",
            "```mermaid",
            "stateDiagram-v2",
            *_arrows(life),
            "```",
            "",
            *_table(life),
            "",
        ]
    )


def _arrows(life: Life[StrEnum]) -> list[str]:
    """One arrow a pair of states. An administrator's resets lead from anywhere to anywhere: table only."""
    events: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (state, event), following in life.table.items():
        if not event.startswith("reset to "):
            events[_word(state), _word(following)].append(event)
    return [
        f"    {state} --> {following}: {', '.join(sorted(names))}"
        for (state, following), names in sorted(events.items())
    ]


def _table(life: Life[StrEnum]) -> list[str]:
    rows = sorted((event, str(state), str(to)) for (state, event), to in life.table.items())
    lines = [f"| {event} | {state} | {to} |" for event, state, to in rows]
    return ["| event | in state | leads to |", "|---|---|---|", *lines]


def _word(state: StrEnum) -> str:
    """Mermaid reads a dash in a name as the beginning of an arrow."""
    return str(state).replace("-", "_")
