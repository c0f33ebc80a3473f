"""The server of a studio: the page, the files of its folder, and who may see them."""

from __future__ import annotations

import contextlib
import hmac
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from fastapi import FastAPI
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response

from noiseward.errors import ArgumentError, RunError
from noiseward.runs.files import lock
from noiseward.studio.desk import Desk
from noiseward.studio.jobs import Jobs
from noiseward.studio.page import CSS, JS, build_page, make_theme
from noiseward.studio.places import Places

__all__ = ["build_app", "serve"]

LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")
SERVED = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".html", ".csv", ".md", ".safetensors")
COOKIE = "noiseward_token"


class Guard:
    """Lets in who calls this machine by its own name, or shows the token.

    A page that listens on the loopback address alone may be asked for by a page of another site under a name of that
    one's own (DNS rebinding), so the name must be local. One that others can reach needs the token, once as `?token=`;
    from then on a cookie has it.

    Arguments:
        app: what is guarded.
        token: empty where the page is local.
    """

    def __init__(self, app: Any, token: str = "") -> None:
        self.app, self.token = app, token

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        refusal = self._check(scope)
        await (self.app if refusal is None else refusal)(scope, receive, send)

    def _check(self, scope: Any) -> Response | None:
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        if not self.token:
            host = headers.get("host", "").rsplit(":", 1)[0]
            return None if host in LOCAL else PlainTextResponse("this page is for its own machine", 403)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if hmac.compare_digest(given.encode(), self.token.encode()):
            answer = RedirectResponse(scope["path"], 303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            return answer
        cookies = dict(part.strip().partition("=")[::2] for part in headers.get("cookie", "").split(";"))
        shown = cookies.get(COOKIE, "") or headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(shown.encode(), self.token.encode()):
            return None
        return PlainTextResponse("this page needs its token: open the address that the server printed", 401)


def build_app(desk: Desk, *, token: str = "") -> FastAPI:
    """The page of a desk as an app.

    Arguments:
        desk: what it shows.
        token: what others must show; empty for a page of this machine alone.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.jobs.close()

    app = FastAPI(title="Noiseward Studio", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, token=token)

    @app.get("/files/{path:path}")
    def send(path: str) -> Response:
        found = find_file(desk.places, path)
        if found is None:
            return PlainTextResponse("no such file", 404)
        headers = {"Content-Security-Policy": "sandbox allow-scripts", "X-Content-Type-Options": "nosniff"}
        return FileResponse(found, headers=headers)

    page = build_page(desk)
    return gr.mount_gradio_app(
        app, page, path="/", css_paths=CSS, theme=make_theme(),
        js=JS.read_text(encoding="utf-8"), ssr_mode=False, show_error=True,
        allowed_paths=[str(desk.places.runs.resolve())], blocked_paths=[str(desk.places.own.resolve())],
        footer_links=[], max_file_size="64mb", app_kwargs={"openapi_url": None},
    )  # fmt: skip


def find_file(places: Places, path: str) -> Path | None:
    """A file that the page may show: an image, a page, a table or noise of the folder of runs, and nothing else."""
    folder = places.runs.resolve()
    try:
        found = (folder / path).resolve()
    except (OSError, ValueError):
        return None
    if folder not in found.parents or found.suffix.lower() not in SERVED or not found.is_file():
        return None
    hidden = [part for part in found.relative_to(folder).parts if part.startswith(".")]
    return found if not hidden or found.is_relative_to(folder / ".studio" / "live") else None


def serve(
    runs: Path, *, host: str = "127.0.0.1", port: int = 7860, token: str = "", allow_code: bool = False,
    opened: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Serve a folder of runs until Ctrl-C.

    Arguments:
        runs: the folder.
        host: address to listen on.
        port: 0 takes a free one.
        token: what others must show, where `host` is not local.
        allow_code: whether functions can be written in the page; only where `host` is local.
        opened: called with the address of the page.

    Raises:
        ArgumentError: the port is taken, or a token is missing.
        RunError: another studio serves the folder.
    """
    import uvicorn

    is_local = host in LOCAL
    if not is_local and not token:
        raise ArgumentError(f"--host {host} can be reached by others and needs a token; set NOISEWARD_TOKEN")
    if allow_code and not is_local:
        raise ArgumentError("--allow-code runs what is written in the page and needs a local --host, as 127.0.0.1")
    places = Places(runs.resolve())
    try:
        places.own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{runs} cannot be written ({error.strerror}); give another folder") from None
    try:
        holding = lock(places.own)
        holding.__enter__()
    except RunError:
        raise RunError(f"another studio serves {runs}; use that one, or give another folder") from None
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((host.strip("[]"), port))
            except OSError as error:
                reason = error.strerror or error
                raise ArgumentError(f"cannot listen on {host} port {port} ({reason}); give another --port") from None
            taken = listening.getsockname()[1]
            jobs = Jobs(places)
            desk = Desk(places, jobs, allow_code=allow_code, is_local=is_local)
            app = build_app(desk, token="" if is_local else token)
            named = f"[{host}]" if ":" in host and not host.startswith("[") else host
            shown = f"http://{named}:{taken}/" + ("" if is_local else f"?token={token}")
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
            listening.listen(128)
            opened(shown)
            try:
                with contextlib.suppress(KeyboardInterrupt):  # which the server raises again once it has ended
                    uvicorn.Server(config).run(sockets=[listening])
            finally:
                jobs.close()
    finally:
        holding.__exit__(None, None, None)
