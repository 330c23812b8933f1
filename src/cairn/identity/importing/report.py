"""What becomes of an import, counted by kind, with a remark for whatever is not simply taken over."""

from typing import Any

NOTES_MAX = 2000


class Report:
    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = {}
        self.notes: list[str] = []
        self.notes_total = 0

    @property
    def has_changes(self) -> bool:
        return any(numbers.get("new") for numbers in self.counts.values())

    def new(self, kind: str, count: int = 1) -> None:
        self._add(kind, "new", count)

    def here(self, kind: str) -> None:
        """The same id is here: it stays as it is."""
        self._add(kind, "here", 1)

    def merged(self, kind: str, note: str) -> None:
        """Another id with the same name is here: that one is meant from now on."""
        self._add(kind, "merged", 1)
        self.note(note)

    def left_out(self, kind: str, note: str) -> None:
        self._add(kind, "left_out", 1)
        self.note(note)

    def note(self, text: str) -> None:
        self.notes_total += 1
        if len(self.notes) < NOTES_MAX:
            self.notes.append(text)

    def shown(self, *, dry_run: bool) -> dict[str, Any]:
        return {
            "dry_run": dry_run,
            "changed": self.has_changes and not dry_run,
            "counts": self.counts,
            "notes": self.notes,
            "notes_total": self.notes_total,
        }

    def _add(self, kind: str, what: str, count: int) -> None:
        numbers = self.counts.setdefault(kind, {})
        numbers[what] = numbers.get(what, 0) + count
