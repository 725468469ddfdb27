"""Registries for tests: Debian's docker-registry on 127.0.0.1, and a front that asks for logins and breaks things."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import aiohttp
import anyio
from aiohttp import web
from anyio import to_thread
from yarl import URL

_CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {store}}}
  delete: {{enabled: true}}
  cache: {{blobdescriptor: inmemory}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@asynccontextmanager
async def real_registry(folder: Path) -> AsyncGenerator[str]:
    """docker-registry for the length of the block, with its store in `folder`; gives its `host:port`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "registry.yml"
    config.write_text(_CONFIG.format(store=folder / "store", port=port))
    process = _started(config, folder / "registry.log")
    try:
        await _listening(process, port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            await to_thread.run_sync(lambda: process.wait(5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _started(config: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(["docker-registry", "serve", str(config)], stdout=output, stderr=output)


async def _listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            stream = await anyio.connect_tcp("127.0.0.1", port)
        except OSError:
            await anyio.sleep(0.03)
        else:
            await stream.aclose()
            return
    raise RuntimeError(f"docker-registry does not listen on port {port}")


@dataclass
class Seen:
    """A request that came to the front."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body_size: int = 0


@dataclass
class Fault:
    """What to do instead of, or to, the next `times` requests that match."""

    method: str
    path: str
    """A regular expression for the path with its query."""

    times: int = 1
    status: int | None = None
    """Answer with this instead of asking the registry."""

    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    cut_after: int | None = None
    """Break the connection after as many bytes of the answer."""

    drop: bool = False
    """Break the connection without an answer, after a MiB of the request at most."""

    change: Callable[[bytes], bytes] | None = None
    """Change the body of the answer."""

    spoil: Callable[[bytes], bytes] | None = None
    """Change the body of the request."""

    hang: float | None = None
    """Take nothing of the request for as many seconds, then break the connection."""

    stall: float | None = None
    """Send half of the answer, then nothing for as many seconds."""

    ignore_range: bool = False
    """Answer a request for a range with everything."""


@dataclass
class Front:
    """A proxy before a registry. `auth` may be changed at any time."""

    upstream: str
    host: str = ""
    auth: str = "none"
    """none, basic, bearer."""

    users: dict[str, str] = field(default_factory=lambda: {"alice": "s3cr:t"})
    anonymous_pull: bool = False
    token_life: float = 60.0
    token_answer: Callable[[str], dict[str, object]] | None = None
    faults: list[Fault] = field(default_factory=list[Fault])
    seen: list[Seen] = field(default_factory=list[Seen])
    tokens: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])

    def basic(self) -> list[str]:
        """The `Authorization` headers of those who may come in."""
        pairs = (f"{name}:{password}".encode() for name, password in self.users.items())
        return ["Basic " + base64.b64encode(pair).decode() for pair in pairs]

    def count(self, method: str, path: str) -> int:
        """How many requests of this kind came."""
        return sum(one.method == method and re.search(path, one.path) is not None for one in self.seen)


@asynccontextmanager
async def front(upstream: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Front]:
    """A front before the registry at `upstream` for the length of the block."""
    state = Front(upstream)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        server = _Server(state, session)
        app = web.Application(client_max_size=2**40)
        app.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            host, port = runner.addresses[0][:2]
            state.host = f"{host}:{port}"
            yield state
        finally:
            await runner.cleanup()


class _Server:
    def __init__(self, state: Front, session: aiohttp.ClientSession) -> None:
        self._state, self._session = state, session

    async def handle(self, request: web.Request) -> web.StreamResponse:
        state = self._state
        seen = Seen(request.method, request.path, request.query_string, dict(request.headers))
        state.seen.append(seen)
        if request.path == "/token":
            return await self._token(request)
        fault = self._fault(request)
        if fault and fault.drop:
            await request.content.read(1024 * 1024)
            return _broken(request)
        if fault and fault.hang:
            await anyio.sleep(fault.hang)
            return _broken(request)
        if fault and fault.status:
            return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
        if not self._allowed(request):
            return self._challenge(request)
        body = await request.read()
        seen.body_size = len(body)
        if fault and fault.spoil:
            body = fault.spoil(body)
        return await self._forward(request, body, fault)

    def _fault(self, request: web.Request) -> Fault | None:
        for fault in self._state.faults:
            if fault.times and fault.method == request.method and re.search(fault.path, request.path_qs):
                fault.times -= 1
                return fault
        return None

    def _allowed(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "")
        if self._state.auth == "basic":
            return given in self._state.basic()
        if self._state.auth == "bearer":
            scope, end = self._state.tokens.get(given.removeprefix("Bearer "), ("", 0.0))
            wanted = "pull" if request.method in ("GET", "HEAD") else "push"
            return time.monotonic() < end and (wanted in scope or request.path == "/v2/")
        return True

    def _challenge(self, request: web.Request) -> web.Response:
        if self._state.auth == "basic":
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="tests"'})
        found = re.match(r"/v2/(.+)/(blobs|manifests)/", request.path)
        rights = "pull" if request.method in ("GET", "HEAD") else "pull,push"
        scope = f',scope="repository:{found[1]}:{rights}"' if found else ""
        realm = f"http://{self._state.host}/token?account=tests"
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="tests"{scope}'})

    async def _token(self, request: web.Request) -> web.Response:
        state = self._state
        fault = self._fault(request)
        if fault:
            return web.Response(status=fault.status or 500, headers=fault.headers, body=fault.body)
        fields = dict(request.query) if request.method == "GET" else dict(await request.post())
        scope, given = str(fields.get("scope", "")), request.headers.get("Authorization", "")
        known = given in state.basic()
        known = known or fields.get("refresh_token") == "refresh"
        if not known and (given or not (state.anonymous_pull and "push" not in scope)):
            return web.json_response({"details": "incorrect username or password"}, status=401)
        text = f"token-{len(state.tokens)}"
        state.tokens[text] = (scope, time.monotonic() + state.token_life)
        answer = state.token_answer(text) if state.token_answer else {"token": text, "expires_in": state.token_life}
        return web.json_response(answer)

    async def _forward(self, request: web.Request, body: bytes, fault: Fault | None) -> web.StreamResponse:
        headers = {key: value for key, value in request.headers.items() if key not in ("Authorization", "Connection")}
        if fault and fault.ignore_range:
            headers.pop("Range", None)
        path = URL(request.raw_path, encoded=True).raw_path_qs  # a proxy gets the whole address
        url = f"http://{self._state.upstream}{path}"
        async with self._session.request(
            request.method, URL(url, encoded=True), headers=headers, data=BytesIO(body), allow_redirects=False
        ) as answer:
            content = await answer.read()
            out = {key: value for key, value in answer.headers.items() if key not in ("Connection", "Content-Length")}
        if request.method == "HEAD":
            out["Content-Length"] = answer.headers.get("Content-Length", "0")
        if fault and fault.change:
            content = fault.change(content)
        out.update(fault.headers if fault else {})
        if fault and (fault.cut_after is not None or fault.stall is not None):
            return await _partly(request, answer.status, out, content, fault)
        return web.Response(status=answer.status, headers=out, body=None if request.method == "HEAD" else content)


async def _partly(
    request: web.Request, status: int, headers: dict[str, str], content: bytes, fault: Fault
) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2 if fault.cut_after is None else fault.cut_after])
    if fault.stall:
        await anyio.sleep(fault.stall)
    return _broken(request, response)


def _broken(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    transport = request.transport
    if transport:
        transport.abort()
    return response or web.Response()
