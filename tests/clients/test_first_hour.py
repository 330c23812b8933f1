"""The commands of docs/guide/first-hour.md, run as they stand there, in their order.

Only what must differ on a machine that does other things: `/var/lib/cairn` is another directory, `sudo`
runs the command as it is, the home directory is empty. What the guide shows (`text` blocks) must be in the
output of the commands before it; `…` stands for anything.
"""

import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.rooms import ROOT, a_room

pytestmark = pytest.mark.clients

GUIDE = ROOT / "docs/guide/first-hour.md"
LIMIT_S = 600  # The machine may be busy with others; alone it takes two minutes.
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "@@ block"


def test_the_guide_works(tmp_path: Path) -> None:
    blocks = BLOCK.findall(GUIDE.read_text())
    assert len(blocks) >= 10
    (tmp_path / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "sudo").chmod(0o755)
    with a_room() as room:
        script = ["set -e -o pipefail"]
        for number, (kind, text) in enumerate(blocks):
            if kind == "sh":
                script += [f"echo '{MARK} {number}'", text]
        path = f"{tmp_path}:{room.environment['PATH']}"
        log = tmp_path / "said"
        text = "\n".join(script).replace("/var/lib/cairn", str(room.state))
        try:
            done = room.run(
                *("bash", "-c", f"exec >{log} 2>&1\n{text}"),
                timeout_s=LIMIT_S,
                variables={"HOME": str(tmp_path), "PATH": path},
            )
        except subprocess.TimeoutExpired:
            pytest.fail(f"it takes longer than {LIMIT_S} s:\n{log.read_text()}")
        assert done.returncode == 0, f"{log.read_text()}\n{room.logs()}"
        assert room.left_overs() == []
    said = dict(_outputs(log.read_text()))
    last = 0
    for number, (kind, text) in enumerate(blocks):
        if kind == "sh":
            last = number
            continue
        for line in text.splitlines():
            assert _is_in(line, said[last]), f"{line!r} is not in the output:\n{said[last]}"


def _outputs(text: str) -> list[tuple[int, str]]:
    parts = re.split(rf"^{MARK} (\d+)\n", text, flags=re.MULTILINE)
    return [(int(number), said) for number, said in zip(parts[1::2], parts[2::2], strict=True)]


def _is_in(line: str, said: str) -> bool:
    # The clients draw their tables as wide as the widest cell.
    pattern = "[^\n]*".join(re.escape(part) for part in " ".join(line.split()).split("…"))
    return (
        re.search(pattern, "\n".join(" ".join(one.split()) for one in said.splitlines()))
        is not None
    )
