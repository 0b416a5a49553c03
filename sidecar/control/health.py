"""The health port: `/health`, `/ready`, `/metrics`, and nothing else, ever.

A sidecar's readiness takes the APP out of its Service, so `/ready` is 503 only before the traffic port serves and while
draining. Everything else that is wrong (a bad policy, a lost database, an arm without quality evidence) is text in a 200.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import orjson
from aiohttp import web
from msgspec import Struct

from sidecar import __version__

_JSON: Final = "application/json"


class Readiness(Struct, frozen=True):
    """What `/ready` says. `notes` are sentences for people."""

    ready: bool
    state: str  # "starting" | "serving" | "draining"
    notes: Sequence[str] = ()
    detail: Mapping[str, object] = {}


def health_app(readiness: Callable[[], Readiness], metrics: Callable[[str], tuple[str, bytes]]) -> web.Application:
    """The aiohttp application of the health port. `metrics(accept)` gives content type and body."""

    async def health(_request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps({"status": "ok", "version": __version__}), content_type=_JSON)

    async def ready(_request: web.Request) -> web.Response:
        now = readiness()
        body = orjson.dumps({"ready": now.ready, "state": now.state, "notes": list(now.notes), **now.detail})
        return web.Response(body=body, status=200 if now.ready else 503, content_type=_JSON)

    async def scrape(request: web.Request) -> web.Response:
        kind, body = metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    app = web.Application(client_max_size=1024)
    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", scrape)
    return app
