"""`python -m cairn.sim.load.control STATE`: the control process that is measured.

It is `cairn control` without the fetching of noVNC's pages, which no simulated client opens.
"""

import sys
from pathlib import Path

from cairn import settings as settings_file
from cairn.app import run_control


def main() -> None:
    state = Path(sys.argv[1])
    pages = state / "pages"
    pages.mkdir(exist_ok=True)
    run_control(settings_file.load(state), pages=pages)


if __name__ == "__main__":
    main()
