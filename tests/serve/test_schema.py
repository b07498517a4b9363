"""Requests made from the published OpenAPI, right and wrong ones: none finds a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error

from llamune import serve
from llamune.serve import app as app_module
from llamune.store import Adapter, Model, library
from tests.serve.fakes import FakeEngine, tiny_library

OPERATIONS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("GET", "/api/version"),
    ("GET", "/api/tags"),
    ("GET", "/api/ps"),
    ("POST", "/api/show"),
    ("POST", "/api/generate"),
    ("POST", "/api/chat"),
    ("POST", "/api/embed"),
    ("HEAD", "/api/blobs/{digest}"),
    ("POST", "/api/blobs/{digest}"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
]
HEADERS = {"Host": "localhost"}


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[schemathesis.BaseSchema]:
    """Return what the server publishes, over a library of tiny models and a fake engine."""

    def open_fake(model: Model, *, adapters: Sequence[Adapter], **_: Any) -> FakeEngine:
        return FakeEngine()

    monkeypatch.setattr(app_module, "open_engine", open_fake)
    tiny_library(library(), tmp_path)
    database = serve.open_database()
    app = serve.create_app(library(), database, with_keys=False)
    yield schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)
    database.dispose()


def test_every_operation_is_published(published: schemathesis.BaseSchema) -> None:
    found = [result.ok() for result in published.get_all_operations()]
    assert {(one.method.upper(), one.path) for one in found} == set(OPERATIONS)


def test_every_error_is_published_in_the_shape_of_its_api(
    published: schemathesis.BaseSchema,
) -> None:
    raw = published.raw_schema
    for path, methods in raw["paths"].items():
        shape = "OpenAiError" if path.startswith("/v1") else "OllamaError"
        for operation in methods.values():
            errors = {status for status in operation["responses"] if status >= "400"}
            assert {"400", "404", "422", "429", "503"} <= errors
            for status in errors:
                content = operation["responses"][status]["content"]["application/json"]
                assert content["schema"]["$ref"].endswith(shape)
    assert "HTTPValidationError" not in raw["components"]["schemas"]


def of_the_library(case: schemathesis.Case) -> schemathesis.Case:
    """Let every second request name models that are there: names made up get no further."""
    body = case.body
    if isinstance(body, dict) and len(str(body)) % 2:
        known = {"model": "a", "name": "a", "from": "base", "source": "base"}
        body.update({key: name for key, name in known.items() if isinstance(body.get(key), str)})
    return case


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_that_the_schema_allows_or_forbids_finds_a_fault(
    published: schemathesis.BaseSchema, method: str, path: str
) -> None:
    operation = published[path][method]
    allowed = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
    forbidden = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
    can_be_wrong = list(operation.body) and method != "GET"
    cases = st.one_of(allowed, forbidden) if can_be_wrong else allowed

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(case=cases.map(of_the_library))
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=[not_a_server_error], headers=HEADERS)

    ask()
