"""The web application of `iolaus serve`: rows, texts or files in, predictions out. https://www.starlette.io."""

import asyncio
import json
import logging
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iolaus.errors import UserError
from iolaus.finished import Finished
from iolaus.form import page
from iolaus.predict import is_finite_row, of_file, predicted
from iolaus.strict_json import to_json

log = logging.getLogger("iolaus")

MOST_ITEMS = 10_000  # rows or texts of a request as JSON; a file may have more
MOST_LETTERS = 500  # of a message
FORMS = 'send {"rows": [{"COLUMN": VALUE, ...}, ...]}, {"texts": ["...", ...]}, or a file as multipart/form-data'

Source = Path | str


class SmallRequests:
    """Refuses requests that are larger than a limit, before and while they come in.

    Args:
        app: what answers the others.
        most_bytes: of a request's body.
    """

    def __init__(self, app: ASGIApp, most_bytes: int):
        self.app = app
        self.most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.most_bytes:
                raise self._refusal()
            return message

        if told.isdigit() and int(told) > self.most_bytes:
            await _told(self._refusal().detail, 413)(scope, receive, send)
        else:
            await self.app(scope, limited, send)

    def _refusal(self) -> HTTPException:
        return HTTPException(
            413, f"the request is larger than {self.most_bytes / 2**20:g} MB; send less at a time, or set --most-mb"
        )


def application(run: Finished, folder: Path, most_bytes: int) -> Starlette:
    """The application: POST /predict, GET /health, and a form at GET /.

    Args:
        run: what predicts.
        folder: the run's, for the form's title.
        most_bytes: of a request.
    """
    turn = asyncio.Lock()  # one model, one request at a time

    async def predict(request: Request) -> Response:
        with tempfile.TemporaryDirectory(prefix="iolaus-") as place:
            sources = await _sources(request, run, Path(place))
            try:
                async with turn:
                    rows, warnings = await run_in_threadpool(_rows, run, sources, most_bytes)
            except UserError as error:
                raise HTTPException(400, _as_sent(str(error), place).removeprefix("predict: ")[:MOST_LETTERS]) from None
        told = {"warnings": [_as_sent(line, place)[:MOST_LETTERS] for line in warnings]} if warnings else {}
        return _json({"predictions": rows} | told)

    async def health(request: Request) -> Response:
        known = {"status": "ok", "run": str(folder), "name": run.settings.get("name")}
        return _json(known | {"task": type(run.task).__name__, "checkpoint": run.checkpoint.name})

    async def form(request: Request) -> Response:
        return HTMLResponse(page(str(run.settings.get("name") or folder.name), run.data))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code in (404, 405):  # Starlette's own words tell neither what was asked nor what may be
            asked = f"{request.method} {request.url.path}"[:MOST_LETTERS]
            return _told(
                f"{asked}: not answered here; send POST /predict, GET /health, or GET / for a form", error.status_code
            )
        return _told(error.detail, error.status_code)

    async def failed(request: Request, error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return _told("the prediction failed, which is a fault of the server; its terminal says more", 500)

    return Starlette(
        routes=[
            Route("/", form),
            Route("/health", health),
            Route("/predict", predict, methods=["POST"]),
        ],
        middleware=[Middleware(SmallRequests, most_bytes=most_bytes)],
        exception_handlers={HTTPException: refused, Exception: failed},
    )


def _json(content: Any, status: int = 200) -> Response:
    return Response(to_json(content, ensure_ascii=False), status, media_type="application/json")


def _told(text: str, status: int) -> Response:
    return _json({"error": text}, status)


def _as_sent(text: str, place: str) -> str:
    """A message that names files as they were sent."""
    return re.sub(rf"{re.escape(place)}/\d+/", "", text)


async def _sources(request: Request, run: Finished, place: Path) -> list[Source]:
    """What a request gives to predict for; its files are written to a folder.

    Raises:
        HTTPException: for what is neither JSON of a known form nor files.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await _uploaded(request, place)
    try:
        content = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(400, f"the request is no JSON; {FORMS}") from None
    try:
        return list(_given(content, run.data))
    except UserError as error:
        raise HTTPException(400, str(error)) from None


async def _uploaded(request: Request, place: Path) -> list[Source]:
    sources: list[Source] = []
    async with request.form() as form:
        for number, (_, value) in enumerate(form.multi_items()):
            if isinstance(value, UploadFile):
                if not value.filename:
                    continue  # of a form whose field was left empty
                name = re.sub(r"[^\w.+ -]+", "_", Path(value.filename.replace("\\", "/")).name).lstrip(".")[-100:]
                file = place / str(number) / (name or "file")
                file.parent.mkdir()
                file.write_bytes(await value.read())
                sources.append(file)
            elif value.strip():
                sources.append(value)
    if not sources:
        raise HTTPException(400, f"the form has no file and no text; {FORMS}")
    return sources


def _given(content: Any, data: Any) -> Iterator[str]:
    """The texts of a request as JSON, rows as texts among them."""
    if isinstance(content, list):
        content = {"texts" if content and all(isinstance(item, str) for item in content) else "rows": content}
    if isinstance(content, dict) and isinstance(content.get("text"), str) and len(content) == 1:
        content = {"texts": [content["text"]]}
    if not isinstance(content, dict) or len(content) != 1 or content.keys() - {"rows", "texts"}:
        raise UserError(f"the request is neither rows nor texts; {FORMS}")
    ((kind, items),) = content.items()
    if not isinstance(items, list) or not items:
        raise UserError(f"{kind}: must be a list with one or more; {FORMS}")
    if len(items) > MOST_ITEMS:
        raise UserError(f"{kind}: {len(items)} are more than {MOST_ITEMS} at a time; send them as a file")
    for number, item in enumerate(items, 1):
        if kind == "texts" and not isinstance(item, str):
            raise UserError(f"texts: number {number} is no text; received {str(item)[:100]}")
        try:
            yield item if kind == "texts" else data.row_text(item)
        except UserError as error:
            raise UserError(f"rows: number {number}: {error}") from None


def _rows(run: Finished, sources: list[Source], most_bytes: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of all sources, as `iolaus predict` gives them; and what there is to warn of."""
    found = []
    run.data.unseen.take()  # of a request that was refused
    for number, source in enumerate(sources, 1):
        if isinstance(source, Path):
            _check_archive(source, most_bytes)
        try:
            for row in predicted(run.task, run.data, source):
                named = of_file(row, source.name) if isinstance(source, Path) else row
                assert isinstance(named, dict)  # what cannot be read was raised
                found.append(named)
        except UserError as error:
            if isinstance(source, Path):
                raise
            raise UserError(f"number {number}: {str(error).removeprefix('the text: line 1, ')}") from None
        run.data.unseen.rename("the text: line 1", f"number {number}")
    warnings = run.data.unseen.take()
    if undefined := sum(not is_finite_row(row) for row in found):
        warnings.append(f"{undefined} of {len(found)} predictions are NaN or infinite, and null here")
    return found, warnings


def _check_archive(file: Path, most_bytes: int) -> None:
    """Refuse an archive that would unpack to much more than a request may be."""
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
        except zipfile.BadZipFile:
            raise UserError(f"{file.name} is a damaged archive") from None
        if size > 4 * most_bytes:
            raise UserError(f"{file.name} unpacks to {size / 2**20:.0f} MB, too much for a request")
