"""A sample of `benchmarks/contract.py`: the server keeps to its OpenAPI document; one that does not is caught."""

from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse

from rag.replies import Health


@pytest.fixture(scope="module")
def contract() -> ModuleType:
    """Imported here, for schemathesis takes seconds, which each process of a run would spend while it collects."""
    from benchmarks import contract

    return contract


@pytest.mark.slow
def test_the_server_keeps_the_contract_of_its_openapi_document(contract: ModuleType, tmp_path: Path) -> None:
    app, index, key = contract.make_app(tmp_path)
    with closing(index):
        tally = contract.check(app, key, examples=15, chains=15, phases=("fuzzing", "stateful"))
    assert "\n\n".join(tally.breaches.values()) == ""
    document = app.openapi()
    operations = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert set(tally.requests) == operations
    for operation, statuses in tally.statuses.items():
        assert statuses[200] > 0, operation
        assert max(statuses) < 500, operation
    for asked in ("GET /metrics", "GET /v1/documents", "POST /v1/chat/completions", "POST /v1/search"):
        assert tally.statuses[asked][401] > 0, asked  # asked without the key, too
    assert tally.requests["GET /v1/documents/text"]["stateful"] > 0
    assert tally.statuses["GET /v1/documents/text"][200] > 0


def test_a_server_that_breaks_its_contract_is_caught(contract: ModuleType) -> None:
    app = FastAPI()

    @app.get("/crash", response_model=Health)
    def crash(n: int) -> JSONResponse:
        return JSONResponse({"status": "ok"}, status_code=500 if n < 0 else 200)

    @app.get("/shape", response_model=Health)
    def shape() -> JSONResponse:
        return JSONResponse({"status": "no"})

    @app.get("/status", response_model=Health)
    def status() -> JSONResponse:
        return JSONResponse({"status": "ok"}, status_code=202)

    breaches = contract.check(app, "unused", examples=10, chains=1, phases=("fuzzing",)).breaches
    assert {name.split(":")[0] for name in breaches} == {"GET /crash", "GET /shape", "GET /status"}
