"""An AdmissionReview v1 in bytes -> the answer in bytes. Never raises, never blocks a pod but where `strict` says so.

What cannot be injected is allowed as it is, with a warning that names the reason: the pod starts and its app calls the
provider directly. A body that is no review, so that no uid can be answered, gets HTTP 400 with one sentence. Nothing here
has side effects, so a dry run is answered like any other.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import orjson

from sidecar.errors import ConfigError
from sidecar.inject import identity
from sidecar.inject.identity import Owner
from sidecar.inject.options import Defaults, opted_out, read_options
from sidecar.inject.patch import Operation
from sidecar.inject.pod import MAX_TOLD, Injection, Reason, inject, status
from sidecar.inject.tree import Place, WrongShape

MAX_REVIEW_BYTES = 8 * 2**20  # the API server takes requests of 3 MiB; a review holds the object, escaped anew
VERSION = "admission.k8s.io/v1"
_WARNING_CHARS = 256  # as Kubernetes asks: longer ones are cut by clients
_REASON_CHARS = 1024

__all__ = ["Answer", "Owner", "answer", "owner_of"]
Result = Literal["injected", "skipped", "already", "refused", "malformed"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the webhook answers: HTTP status and body; `result` and `reason` are words of closed sets, for metrics."""

    status: int
    body: bytes
    result: Result
    reason: Reason


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What is to be answered, before it is written down; `denied` is the message of a refusal."""

    result: Result
    reason: Reason = ""
    operations: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()
    denied: str = ""


def answer(body: bytes, defaults: Defaults, replicas: int | None, native: bool) -> Answer:
    """The answer to one review.

    `replicas` are the pods that run the policy, as the owner says (None: nobody knows); `native` tells whether the
    cluster has native sidecars. The result is `injected`, `already` (ours is there), `skipped` (not wanted or not
    possible), `refused` (an annotation is wrong) or `malformed` (no review, or no pod that we can read).
    """
    try:
        review = _review(body)
        uid = review["request"]["uid"].text()
    except ValueError as error:
        return _bad_request(str(error), "too-large" if len(body) > MAX_REVIEW_BYTES else "json")
    except WrongShape as error:
        return _bad_request(str(error), "uid")
    if not uid:
        return _bad_request("request.uid is missing: this is no AdmissionReview with a request", "uid")
    try:
        outcome = _judged(review, defaults, replicas, native)
    except WrongShape as error:
        told = f"llm-sidecar is not injected: {error}"
        outcome = _Outcome("malformed", "shape", warnings=(told,))
    found = review.mapping().get("apiVersion")
    version = found if isinstance(found, str) and found.startswith("admission.k8s.io/") else VERSION
    try:
        body = _written(uid, version, outcome)
    except orjson.JSONEncodeError:  # what we copied is nested deeper than JSON is written
        told = "llm-sidecar is not injected: a member of the pod is nested deeper than any of Kubernetes"
        outcome = _Outcome("malformed", "shape", warnings=(told,))
        body = _written(uid, version, outcome)
    return Answer(200, body, outcome.result, outcome.reason)


def owner_of(body: bytes) -> Owner | None:
    """The controller of the pod in a review, for the look-up of its replicas; None for a bare pod or no review."""
    try:
        request = _review(body)["request"]
        metadata = request["object"]["metadata"]
        namespace = request["namespace"].text() or metadata["namespace"].text()
        found = identity.owner(metadata, namespace)
    except (ValueError, WrongShape):
        return None
    return found if found is not None and found.namespace and found.kind and found.name else None


def _review(body: bytes) -> Place:
    """The body's JSON. Raises ValueError when it is none, or more of it than any review has."""
    if len(body) > MAX_REVIEW_BYTES:
        raise ValueError(f"the body is larger than {MAX_REVIEW_BYTES} bytes: no review is")
    try:
        return Place(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the body is not JSON ({error.msg.partition(':')[0]} at byte {error.pos})") from None


def _judged(review: Place, defaults: Defaults, replicas: int | None, native: bool) -> _Outcome:
    if review["apiVersion"].value != VERSION:
        told = f"llm-sidecar is not injected: it reads {VERSION}; set admissionReviewVersions: [v1] in the webhook"
        return _Outcome("malformed", "version", warnings=(told,))
    request = review["request"]
    kind = request["kind"]
    if (kind["group"].text(), kind["kind"].text()) != ("", "Pod"):
        told = "llm-sidecar is asked about something else than a Pod; let the webhook's rules name pods only"
        return _Outcome("skipped", "kind", warnings=(told,))
    if request["operation"].text() != "CREATE":
        return _Outcome("skipped", "operation")
    if request["subResource"].text():
        return _Outcome("skipped", "subresource")
    pod = request["object"]
    if pod["spec"].is_absent:
        raise WrongShape("request.object.spec is missing")
    namespace = request["namespace"].text() or pod["metadata"]["namespace"].text()
    return _of_pod(Place(pod.value), namespace, defaults, (replicas, native))


def _of_pod(pod: Place, namespace: str, defaults: Defaults, cluster: tuple[int | None, bool]) -> _Outcome:
    annotations, labels = (pod["metadata"][name].mapping() for name in ("annotations", "labels"))
    if opted_out(annotations, labels):
        return _Outcome("skipped", "opt-out")
    try:
        made: Injection = inject(pod, namespace, read_options(annotations, labels, defaults, *cluster))
    except ConfigError as error:
        problems = str(error).splitlines()
        if defaults.strict:
            return _Outcome("refused", "annotation", denied="; ".join(problems))
        told = tuple(f"llm-sidecar is not injected: {problem}" for problem in problems)
        reason = "; ".join(problems)[:_REASON_CHARS]
        return _Outcome("refused", "annotation", tuple(status(pod, {"injected": False, "reason": reason})), told)
    return _Outcome(made.result, made.reason, made.operations, made.warnings)


def _written(uid: str, version: str, outcome: _Outcome) -> bytes:
    """The review that answers: RFC 6902 in base64, and warnings that fit into HTTP headers."""
    response: dict[str, object] = {"uid": uid, "allowed": not outcome.denied}
    if outcome.operations:
        patch = base64.b64encode(orjson.dumps(outcome.operations)).decode("ascii")
        response |= {"patchType": "JSONPatch", "patch": patch}
    if outcome.warnings:
        response["warnings"] = list(_told(outcome.warnings))
    if outcome.denied:
        message = f"llm-sidecar: {_line(outcome.denied)[:_REASON_CHARS]}"
        response["status"] = {"code": 400, "reason": "BadRequest", "message": message}
    response["auditAnnotations"] = {"result": outcome.result, "reason": outcome.reason or "none"}
    return orjson.dumps({"apiVersion": version, "kind": "AdmissionReview", "response": response})


def _told(warnings: Iterable[str]) -> Iterable[str]:
    for warning in list(warnings)[:MAX_TOLD]:
        line = _line(warning)
        yield line if len(line) <= _WARNING_CHARS else f"{line[: _WARNING_CHARS - 3]}..."


def _line(text: str) -> str:
    """The text without control characters, which a header cannot have."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _bad_request(what: str, reason: Reason) -> Answer:
    status = 413 if reason == "too-large" else 400
    return Answer(status, orjson.dumps({"error": f"llm-sidecar: {_line(what)}"}), "malformed", reason)
