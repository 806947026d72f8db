"""The routes: films in, answers out."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from mammo_ml import __version__
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.web.answers import (
    RESEARCH_USE_ONLY,
    ClassifyAnswer,
    Failure,
    HealthAnswer,
    LocateAnswer,
    ModelAnswer,
    SlotHealth,
)
from mammo_ml.web.bodies import Buffers, Upload, upload_of
from mammo_ml.web.guards import Guards
from mammo_ml.web.models import Model, ServedClassifier, ServedLocator, boxes_as_records, tiles_as_records
from mammo_ml.web.preparing import Answer, canonical_of
from mammo_ml.web.refusals import RequestError
from mammo_ml.web.sandbox import Sandbox
from mammo_ml.web.slots import Slot, Watch

STATIC = Path(__file__).parent / "static"
VIEW_EDGE_PX = 4096
"""The page is sent no more pixels along an edge: a browser's canvas holds no more on many devices."""
WAITING = 64
M = TypeVar("M", bound=Model)

_FILM = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["film"],
                    "properties": {
                        "film": {"type": "string", "format": "binary", "description": "PGM, PNG, TIFF, JPEG or DICOM"},
                        "pixel_spacing_mm": {"type": "number", "description": "where the file does not tell it"},
                    },
                }
            },
        },
    },
    "parameters": [
        {
            "name": "pixel_spacing_mm",
            "in": "query",
            "required": False,
            "schema": {"type": "number", "exclusiveMinimum": 0},
            "description": "edge of a pixel, where the file does not tell it",
        }
    ],
}
_FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "no film in the request"},
    401: {"model": Failure, "description": "no token, or a wrong one"},
    403: {"model": Failure, "description": "addressed by another name, or from another site's page"},
    408: {"model": Failure, "description": "the film came too slowly"},
    413: {"model": Failure, "description": "too large"},
    422: {"model": Failure, "description": "not a film that can be answered; the problems say why"},
    503: {"model": Failure, "description": "busy, or no model to answer with; see Retry-After"},
}


class Turnstile:
    """Lets so many in at once; so many more wait, the rest are sent away."""

    def __init__(self, at_once: int, waiting: int = WAITING) -> None:
        self._most, self._inside = at_once + waiting, 0
        self._room = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn.

        Raises:
            RequestError: 503, where too many wait already.
        """
        if self._inside >= self._most:
            raise RequestError(503, "too many films are waiting", "Try again.", retry_after_s=5)
        self._inside += 1
        try:
            async with self._room:
                yield
        finally:
            self._inside -= 1


@dataclass
class Service:
    """What the routes work with.

    Attributes:
        locator, classifier: the models that are served.
        sandbox: reads films.
        hosts, token: as `Guards` takes them.
        poll_s: the registry is looked at so often; 0: never.
    """

    locator: Slot[ServedLocator]
    classifier: Slot[ServedClassifier]
    sandbox: Sandbox
    hosts: tuple[str, ...] = ()
    token: str = ""
    poll_s: float = 5.0
    buffers: Buffers = field(default_factory=Buffers)
    reading: Turnstile = field(default_factory=lambda: Turnstile(2))
    thinking: Turnstile = field(default_factory=lambda: Turnstile(1))

    def watch(self) -> Watch:
        """A watch over both slots."""
        return Watch([self.locator, self.classifier], self.poll_s)


def create_app(service: Service) -> FastAPI:
    """The application; its models are those that the slots have found, and are looked after while it runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = service.watch()
        if service.poll_s:
            watch.start()
        yield
        if service.poll_s:
            await run_sync(watch.stop)
        service.sandbox.close()

    app = FastAPI(
        title="mammo-ml lesion locator",
        version=__version__,
        description=RESEARCH_USE_ONLY,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=_FAILURES,
    )
    _add_films(app, service)
    _add_facts(app, service)
    _add_pages(app)
    _add_failures(app)
    app.add_middleware(Guards, hosts=service.hosts, token=service.token)
    return app


# ------------------------------------------------------------------------------------------------------------- films


def _add_films(app: FastAPI, service: Service) -> None:
    @app.post("/v1/locate", summary="Find lesions on a film", openapi_extra=_FILM, tags=["films"])
    async def locate(request: Request) -> LocateAnswer:
        begin = time.monotonic()
        prepared = await _read(service, request, {"what": "prepare"})
        model = _serving(service.locator)
        async with service.thinking.turn():
            located = await run_sync(model.answer, canonical_of(prepared))
        common = _common(model, prepared, begin)
        boxes, tiles = boxes_as_records(located), tiles_as_records(located)
        return LocateAnswer.model_validate(
            common | {"p_abnormal": round(located.p_abnormal, 6), "boxes": boxes, "tiles": tiles}
        )

    @app.post("/v1/classify", summary="Tell normal, benign and malignant films", openapi_extra=_FILM, tags=["films"])
    async def classify(request: Request) -> ClassifyAnswer:
        begin = time.monotonic()
        prepared = await _read(service, request, {"what": "prepare"})
        model = _serving(service.classifier)
        async with service.thinking.turn():
            probabilities = await run_sync(model.answer, canonical_of(prepared))
        return ClassifyAnswer.model_validate(_common(model, prepared, begin) | probabilities)

    @app.post(
        "/v1/view",
        summary="The film as grey pixels, a PGM",
        openapi_extra=_FILM,
        tags=["films"],
        response_class=Response,
        responses={200: {"content": {"image/x-portable-graymap": {}}, "description": f"edges up to {VIEW_EDGE_PX} px"}},
    )
    async def view(request: Request) -> Response:
        shown = await _read(service, request, {"what": "view", "max_edge_px": VIEW_EDGE_PX})
        pixels, facts = shown.arrays[0], shown.facts
        height, width = pixels.shape
        stored = "u1" if facts["max_value"] == 255 else ">u2"
        content = f"P5\n{width} {height}\n{facts['max_value']}\n".encode() + pixels.astype(stored).tobytes()
        told = {name: str(facts[name] or "") for name in ("width_px", "height_px", "pixel_spacing_mm")}
        headers = {f"Film-{name.replace('_', '-')}": value for name, value in told.items()}
        return Response(content, media_type="image/x-portable-graymap", headers=headers)


async def _read(service: Service, request: Request, what: Mapping[str, Any]) -> Answer:
    """The film of a request, as the sandbox gives it."""
    body = await service.buffers.read(request)
    try:
        upload: Upload = await upload_of(request, body)
        asked = {**what, "suffix": upload.suffix, "spacing_mm": upload.spacing_mm}
        async with service.reading.turn():
            return await run_sync(service.sandbox.ask, asked, upload.data)
    finally:
        service.buffers.release(body)


def _serving(slot: Slot[M]) -> M:
    if slot.model is None:
        raise RequestError(503, f"{slot.name} has no version to answer with", slot.fault, retry_after_s=60)
    return slot.model


def _common(model: ServedLocator | ServedClassifier, prepared: Answer, begin: float) -> dict[str, Any]:
    """What `Answered` holds."""
    facts = prepared.facts
    return {
        "film": facts,
        "model": {"name": model.name, "version": model.number, "bundle_sha256": model.bundle.content_sha256},
        "seen_in_training": model.bundle.seen_in_training(facts["sha256"]),
        "warnings": facts["warnings"],
        "seconds": round(time.monotonic() - begin, 3),
    }


# ------------------------------------------------------------------------------------------------------------- facts


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model", summary="What answers, and what its scores mean", tags=["facts"])
    async def model() -> ModelAnswer:
        one, other = service.locator.model, service.classifier.model
        return ModelAnswer(locate=one.facts() if one else None, classify=other.facts() if other else None)

    @app.get("/health", summary="Whether it works", tags=["facts"])
    async def health(request: Request) -> JSONResponse:
        slots: list[Slot[Any]] = [service.locator, service.classifier]
        down, degraded = service.locator.model is None, any(slot.fault for slot in slots)
        status = "down" if down else "degraded" if degraded else "ok"
        told = [
            SlotHealth(name=slot.name, version=slot.model.number if slot.model else None, fault=slot.fault)
            for slot in slots
            if request.scope["has_token"]
        ]
        return JSONResponse(HealthAnswer(status=status, models=told).model_dump(), 503 if down else 200)


def _add_pages(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html")


# ---------------------------------------------------------------------------------------------------------- failures


def _add_failures(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        return JSONResponse(error.content, error.status, error.headers)

    @app.exception_handler(MammoError)
    async def not_a_film(_: Request, error: MammoError) -> JSONResponse:
        problems = error.problems if isinstance(error, BadInputError) else [str(error)]
        remedy = " ".join(str(error).splitlines()[1 + len(problems) :]) if isinstance(error, BadInputError) else ""
        told = "; ".join(problems)
        content = Failure(error=f"the film is refused: {told}", remedy=remedy or "Send another.", problems=problems)
        return JSONResponse(content.model_dump(), 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return JSONResponse(
            RequestError(422, "the request is not as /docs describes it", "See /docs.", problems).content, 422
        )

    @app.exception_handler(HTTPException)
    async def no_such_path(_: Request, error: HTTPException) -> JSONResponse:
        told = {404: "there is nothing at this path", 405: "this path takes another method"}
        content = RequestError(error.status_code, told.get(error.status_code, "refused"), "See /docs.").content
        return JSONResponse(content, error.status_code, error.headers)
