"""The webhook's HTTP: `POST /mutate`, answered within the API server's patience, and nothing else.

Every answer is JSON. What a pod holds is never logged: an event of a review has its result, reason, owner and duration.
TLS, the listeners and the process are not known here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
import structlog
from aiohttp import ClientError, web

from sidecar.clock import monotonic
from sidecar.inject.counts import FAILED, UNREAD, Counts
from sidecar.inject.lookups import Lookups
from sidecar.inject.options import Defaults
from sidecar.inject.review import MAX_REVIEW_BYTES, answer, owner_of

log = structlog.get_logger()
BODY_S: Final = 3.0  # for the body to arrive: with the lookup's 0.3 s well below the webhook's timeout of 5 s
OnBug = Callable[[str, BaseException], None]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Reviews:
    """Answers reviews by the newest good configuration. While `draining`, each answer ends its connection."""

    def __init__(self, defaults: Callable[[], Defaults], lookups: Lookups, counts: Counts, on_bug: OnBug) -> None:
        self.draining = False
        self.last = float("-inf")  # when the last review came, by the monotonic clock
        self._defaults, self._lookups, self._counts, self._on_bug = defaults, lookups, counts, on_bug

    def app(self) -> web.Application:
        """The application of the webhook's port."""
        app = web.Application(client_max_size=MAX_REVIEW_BYTES, middlewares=[self._always_json])
        app.router.add_post("/mutate", self._mutate)
        return app

    async def _mutate(self, request: web.Request) -> web.Response:
        self.last = began = monotonic()
        result = FAILED
        try:
            result = UNREAD
            async with asyncio.timeout(BODY_S):
                body = await request.read()
            result = FAILED
            owner = owner_of(body)
            replicas = await self._lookups.replicas(owner)
            told = answer(body, self._defaults(), replicas, self._lookups.native)
            result = told.result
        finally:
            took_s = monotonic() - began
            self._counts.review(result, took_s)
        whose = {} if owner is None else {"namespace": owner.namespace, "owner": f"{owner.kind}/{owner.name}"}
        log.info("inject.review", result=told.result, reason=told.reason, seconds=round(took_s, 6), **whose)
        return web.Response(status=told.status, body=told.body, content_type="application/json")

    @web.middleware
    async def _always_json(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = _problem(error.status, error.reason)
            if error.status == 405:
                response.headers["Allow"] = "POST"
        except TimeoutError:
            response = _problem(408, f"the review did not arrive within {BODY_S:g} s")
            response.force_close()
        except (OSError, ClientError):
            response = _problem(400, "the review was cut off")  # nobody reads it: its sender is gone
        except Exception as error:  # noqa: BLE001 - the pod starts without us; the next review may be fine
            self._on_bug("review", error)
            response = _problem(500, "a bug of the injector; its log has the place")
        if self.draining:
            response.force_close()  # the API server's next review opens a connection, to a replica that stays
        return response


def _problem(status: int, message: str) -> web.Response:
    return web.Response(status=status, body=orjson.dumps({"error": message}), content_type="application/json")
