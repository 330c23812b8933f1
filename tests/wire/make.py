"""Write the golden frames of the wire version that the code speaks: `python -m tests.wire.make`.

Until a release is out its frames may be made anew; afterwards they stay as they are, and a change of the
wire gets a new version. Frames of an older release are made by running this file over its source:
`PYTHONPATH=OLD/src python tests/wire/make.py`.
"""

import json
import sys
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cairn.wire import link
from tests.wire import samples

GOLDEN = Path(__file__).parent / "golden"


def main() -> None:
    folder = GOLDEN / f"v{link.WIRE_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, frame in samples.frames():
        (folder / f"{name}.msgpack").write_bytes(link.encode(frame))  # type: ignore[arg-type]
    # What a peer of this version can take, for tests of what a later one sends it.
    schema = msgspec.json.schema(link.Frame)
    (folder / "schema.json").write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
