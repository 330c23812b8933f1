"""Questions to a host: what only it knows and a request wants now, such as a console's last lines.

A question changes nothing and may be lost; the asker hears `Unavailable` and may ask again.
"""

from collections.abc import Awaitable, Callable

from cairn.core.ids import NodeId
from cairn.wire.link import Asked

Ask = Callable[[NodeId, Asked], Awaitable[bytes]]
"""`await ask(node_id, ConsoleLog(...))`: the answer's bytes. Raises NotFound (the host says so) or
Unavailable (no connection to the host, or no answer within ANSWER_SECONDS_MAX)."""

ANSWER_SECONDS_MAX = 10.0
