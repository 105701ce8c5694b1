"""Build the app: security headers, size limits, clear errors, and the routes of `pages`, `api` and `admin`."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..forecasts import Forecaster
from ..masking import check_masking
from ..records import LeaseLost, NoSuchAnnotator, StoreError
from ..store.store import FeedbackStore
from . import api, explaining, media, my_data, pages, taking_part, training
from .admin import adjudicate, forecast, items, overview, participation, people, study, uploads
from .admin.display import ADMIN_PAGES, FILTERS
from .admin.figures import Analyse, Figures
from .admin.forecast import Forecasts
from .admin.uploads import MAX_UPLOAD, Uploads
from .auth import COOKIE, Gate, add_sessions
from .responses import AsciiJSON, problem_text
from .words import Refusal, choose, load, say

__all__ = ["Guard", "create_app"]

_HERE = Path(__file__).parent
_UPLOADS = "/admin/upload"
_HEADINGS = {  # of the pages that say what went wrong
    403: "error_403",
    404: "page_unknown",
    413: "error_413",
    422: "error_422",
    429: "error_429",
    503: "error_503",
}
MAX_BODY = 8 * 2**20  # bytes. A correction of 1 MB of text takes up to 6 MB as JSON.

# No inline script or style, nothing from elsewhere, no innerHTML: model output cannot become code.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",  # an invitation's link is a secret
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def create_app(
    store: FeedbackStore,
    *,
    secret: bytes,
    secure_cookies: bool = False,
    url: str = "http://localhost:8000",
    project: str = "",
    analyse: Analyse | None = None,
    forecaster: Forecaster | None = None,
) -> FastAPI:
    """Build the annotation app over a store.

    Args:
        store: stays open when the app ends, since it belongs to the caller.
        secret: signs cookies. It must have at least 16 bytes. The same secret after a restart keeps everyone signed in.
        secure_cookies: send cookies over HTTPS only. Turn it on behind a proxy that speaks HTTPS.
        url: the address under which people reach the app, for the links that admins send.
        analyse: estimates annotators' ability and items' difficulty, see `figures.Figures`.
        forecaster: tells the labels that a target accuracy takes, see `forecast.Forecasts`.
        project: the name of the project, if the app is one of several, see `projects.create_projects`.

    Raises:
        ValueError: the store's settings ask for masks, and the extra `privacy` is not installed.
    """
    check_masking(store.settings)
    app = FastAPI(
        title="rlhf-envs feedback",
        description="Judge completions. Sign in with POST /api/login, then send its `csrf` as X-CSRF-Token.",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,  # FastAPI's documentation pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # such a redirect would go wherever the Host header says
        default_response_class=AsciiJSON,
    )
    app.state.store, app.state.gate, app.state.templates = store, Gate(store), Jinja2Templates(_HERE / "templates")
    app.state.figures, app.state.forecasts = Figures(store, analyse), Forecasts(store, forecaster)
    app.state.uploads, app.state.project = Uploads(), project
    app.state.templates.env.globals["project"] = project
    app.state.templates.env.filters.update(FILTERS)
    app.state.templates.env.globals["admin_pages"] = ADMIN_PAGES
    app.state.url, app.state.secure_cookies = url.rstrip("/"), secure_cookies
    app.include_router(pages.router, include_in_schema=False)
    admins = (overview, study, items, participation, people, uploads, adjudicate, forecast)
    for part in (*admins, taking_part, my_data):
        app.include_router(part.pages, include_in_schema=False)
    app.include_router(media.router, include_in_schema=False)
    app.include_router(api.router, prefix="/api")
    app.include_router(explaining.router, prefix="/api")
    app.include_router(taking_part.api, prefix="/api")
    app.include_router(training.api, prefix="/api")
    app.include_router(overview.api, prefix="/api/admin")
    app.include_router(forecast.api, prefix="/api/admin")
    app.include_router(adjudicate.api, prefix="/api/adjudication")
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(LeaseLost, lambda request, error: _answer(request, 409, str(error)))
    app.add_exception_handler(StoreError, _store_error)
    app.add_exception_handler(NoSuchAnnotator, _signed_out)
    app.state.cookie = f"{COOKIE}_{project}" if project else COOKIE
    app.state.secret = secret
    add_sessions(app, secret, secure_cookies, app.state.cookie)
    app.add_middleware(Guard)
    return app


class Guard:
    """Add the security headers, and refuse bodies that are too large."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        root = scope.get("root_path", "")
        path = scope["path"].removeprefix(root)
        headers_in = Headers(scope=scope)
        is_read = "transfer-encoding" not in headers_in
        read, most = 0, MAX_UPLOAD if path.endswith(_UPLOADS) else MAX_BODY

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Browsers ask about static files each time (and get a 304), so a new version shows at once.
                cached = "no-cache" if path.startswith("/static/") else "no-store"
                headers = MutableHeaders(scope=message)
                if not is_read:  # else uvicorn would read the rest of a body of any length, to throw it away
                    headers["connection"] = "close"
                keeps = path.startswith("/media/") and message["status"] == 200  # pictures say it themselves
                if "content-security-policy" not in headers:  # else the app of a project has set them
                    headers.update({**_HEADERS, "cache-control": headers["cache-control"] if keeps else cached})
                to = headers.get("location", "")
                if root and to.startswith("/") and not to.startswith(f"{root}/"):  # a redirect within the app
                    headers["location"] = root + to
            await send(message)

        async def receive_limited() -> Message:
            nonlocal read, is_read
            message = await receive()
            read += len(message.get("body", b""))
            is_read = is_read or not message.get("more_body", False)
            if read > most:
                raise Refusal(413, "too_large", n=most)
            return message

        length = headers_in.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > most:
            refusal = AsciiJSON({"detail": load()["en"]("too_large", n=most)}, 413)
            await refusal(scope, receive, send_guarded)
        else:
            await self.app(scope, receive_limited, send_guarded)


def _is_page(request: Request) -> bool:
    return not request.url.path.removeprefix(request.scope.get("root_path", "")).startswith("/api/")


def _answer(request: Request, status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Say what went wrong, to programs as JSON and to people as a page."""
    if not _is_page(request):
        return AsciiJSON({"detail": detail}, status, headers=headers)
    if status == 401:
        return RedirectResponse("/login", 303)
    heading = pages.words_of(request)(_HEADINGS.get(status, "error_other"))
    return pages.render(request, "error.html", {"heading": heading, "detail": detail}, status, headers)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = pages.words_of(request)
    key = {404: "page_unknown", 405: "method_unknown"}.get(error.status_code, "")
    is_ours = isinstance(error, Refusal) or not _is_page(request)
    detail = words(key) if key and not is_ours else say(error, words)
    return _answer(request, error.status_code, detail, dict(error.headers or {}))


def _bad_request(request: Request, error: Exception) -> Response:
    # Without the input, which may be huge or impossible to encode.
    assert isinstance(error, RequestValidationError)
    words, found = pages.words_of(request), error.errors()[:10]
    if _is_page(request) and words.language != "en":  # the messages are pydantic's, in English
        detail = words("fields_malformed", fields=", ".join(str(e["loc"][-1]) for e in found))
    else:
        detail = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found)
        detail = problem_text(detail)
    return _answer(request, 422, detail)


def _signed_out(request: Request, error: Exception) -> Response:
    """Answer somebody whose account was closed while we answered: their session has ended with it."""
    return _answer(request, 401, choose(request)("sign_in_first"))


def _store_error(request: Request, error: Exception) -> Response:
    return _answer(request, 503, choose(request)("store_fails", reason=error), {"Retry-After": "2"})
