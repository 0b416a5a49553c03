"""The bench of the injector asks about a pod of the size that it says, and its pod is injected."""

import orjson

from bench import inject
from sidecar.inject.options import Defaults
from sidecar.inject.review import answer, owner_of


def test_the_review_is_a_deployments_pod_of_six_kilobytes() -> None:
    body = inject.review()
    assert 5_500 < len(body) < 6_500
    told = answer(body, Defaults(), 4, native=True)
    assert (told.status, told.result) == (200, "injected")
    owner = owner_of(body)
    assert owner is not None
    assert owner.kind == "ReplicaSet"
    assert orjson.loads(told.body)["response"]["allowed"] is True
