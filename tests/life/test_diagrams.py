"""docs/states shows the lives as they are. `python -m tests.life.test_diagrams` writes them anew."""

from pathlib import Path
from typing import Any

import pytest

from cairn.compute.migration_records import MIGRATION_LIFE
from cairn.compute.records import SERVER_LIFE
from cairn.fleet.records import NODE_LIFE
from cairn.image.records import IMAGE_LIFE
from cairn.life.diagram import page
from cairn.life.machine import Life
from cairn.volume.records import SNAPSHOT_LIFE, VOLUME_LIFE

FOLDER = Path(__file__).parents[2] / "docs/states"
LIVES: tuple[Life[Any], ...] = (
    SERVER_LIFE,
    VOLUME_LIFE,
    SNAPSHOT_LIFE,
    IMAGE_LIFE,
    NODE_LIFE,
    MIGRATION_LIFE,
)


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.what)
def test_page_is_what_the_table_says(life: Life[Any]) -> None:
    assert (FOLDER / f"{life.what}.md").read_text() == page(life), (
        "write them anew: python -m tests.life.test_diagrams"
    )


def test_every_page_has_its_life() -> None:
    assert {file.stem for file in FOLDER.glob("*.md")} == {life.what for life in LIVES}


if __name__ == "__main__":
    for one in LIVES:
        (FOLDER / f"{one.what}.md").write_text(page(one))
