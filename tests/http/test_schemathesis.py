"""Requests made up by schemathesis from the OpenAPI document: whatever comes, nothing fails with a 500.

In the suite a few for each operation, the same at each run. By hand as many as there is time for:
`python -m tests.http.test_schemathesis CASES [SEED] [SERVICE] [postgresql-url]`.
"""

import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import hypothesis
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given

from cairn.http import openapi
from cairn.http.routes import Route, Service
from tests.http.everything import World, variables

CASES = 3
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")  # what deletes comes last
ASKED_OTHERWISE = {
    "/v3/auth/tokens": "hashes a password each time",
    "/v3/users/{user_id}/password": "hashes a password each time",
}
NAMES = ("keystone", "nova", "glance", "neutron", "cinder", "cairn")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World("sqlite://", tmp_path_factory.mktemp("control"))
    yield made
    made.database.close()


@pytest.mark.parametrize("name", NAMES)
def test_no_made_up_request_fails(world: World, name: str) -> None:
    asked, failures = fuzz(world, name, cases=CASES, seed=4)
    assert not failures, "\n".join(failures[:20])
    assert asked > 50


def fuzz(world: World, name: str, *, cases: int, seed: int) -> tuple[int, list[str]]:
    """How many requests were made of the service, and those that failed."""
    logging.disable(logging.CRITICAL)
    service = next(s for s in world.services if s.name == name)
    text = msgspec.json.encode(openapi.document([service], title=name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = schemathesis.openapi.from_dict(msgspec.json.decode(text))
        operations = {
            (operation.method.upper(), operation.path): operation
            for operation in (found.ok() for found in schema.get_all_operations())
        }
    run = _Run(world, service)
    routes = {(r.method, service.root + r.path): r for r in service.routes if not r.streams}
    for key in sorted(routes, key=lambda k: METHODS.index(k[0])):
        if routes[key].path not in ASKED_OTHERWISE:
            run.operation(operations[key], routes[key], cases=cases, seed=seed)
    return run.asked, run.failures


class _Run:
    def __init__(self, world: World, service: Service) -> None:
        self.world = world
        self.service = service
        self.asked = 0
        self.failures: list[str] = []

    def operation(self, operation: Any, route: Route, *, cases: int, seed: int) -> None:
        numbers = iter(range(10**9))

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=cases,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            self._ask(case, route, is_known=next(numbers) % 4 != 3)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ask()

    def _ask(self, case: Any, route: Route, *, is_known: bool) -> None:
        """Three of four ask for things that are there: the others never come far."""
        parts = dict(case.path_parameters or {})
        for variable in variables(route):
            value = self.world.value(self.service, variable, "admin")
            if is_known and value is not None:
                parts[variable.name] = value
        parts = {k: quote(str(v), safe="") or "x" for k, v in parts.items()}
        path = (self.service.root + route.path).format(**parts)
        if case.query:
            path += "?" + urlencode(case.query, doseq=True)
        body = case.body if isinstance(case.body, bytes) else self._json(case.body)
        headers = {k: str(v) for k, v in dict(case.headers or {}).items() if str(v).isascii()}
        headers = {k: v for k, v in headers.items() if v.isprintable()}
        newest = self.service.versions
        if newest is not None and self.asked % 3:
            headers["OpenStack-API-Version"] = f"{newest.service} {newest.maximum}"
        answer = self.world.api.call(route.method, path, body, who="admin", headers=headers)
        self.asked += 1
        if answer.status_code >= 500 and answer.status_code != 501:
            said = f"{route.method} {path[:200]} {str(body)[:400]}"
            self.failures.append(f"{answer.status_code}: {said} {headers}")

    @staticmethod
    def _json(body: Any) -> bytes | None:
        if type(body).__name__ == "NotSet":
            return None
        try:
            return msgspec.json.encode(body)
        except (TypeError, ValueError, UnicodeEncodeError, OverflowError):
            return None


if __name__ == "__main__":
    CASES = int(sys.argv[1])
    made = World(sys.argv[4] if len(sys.argv) > 4 else "sqlite://", Path(tempfile.mkdtemp()))
    for each in NAMES if len(sys.argv) < 4 or sys.argv[3] == "all" else sys.argv[3].split(","):
        total, found = fuzz(made, each, cases=CASES, seed=int(sys.argv[2]) if sys.argv[2:] else 1)
        print(f"{each}: {total} requests, {len(found)} failed", flush=True)
        for line in found[:40]:
            print("  ", line, flush=True)
