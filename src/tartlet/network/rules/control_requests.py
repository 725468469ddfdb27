"""What a peer may ask over the control channel, and the errors it is answered with (JSON-RPC 2.0, section 5.1).

Every function raises Fault.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, cast

PARSE_ERROR, INVALID_REQUEST, UNKNOWN_METHOD, BAD_PARAMETERS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
REVISION_REUSED, ISOLATION_FIXED = -32001, -32002
LONGEST_REQUEST = 1 << 20
"""Bytes of one line. A longer one is answered with a parse error and passed over."""

MOST_TARGETS = 4096
LONGEST_ID = LONGEST_REVISION = 256
"""Bytes in UTF-8."""


class Fault(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def parsed(line: bytes | None) -> dict[str, Any]:
    """The object in a line; None stands for a line that was too long."""
    if line is None:
        raise Fault(PARSE_ERROR, f"the request is longer than {LONGEST_REQUEST} bytes")
    try:
        # json and not msgspec, which keeps the last of two members with one name
        request = json.loads(line.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise Fault(PARSE_ERROR, "the request is not JSON") from exc
    if not isinstance(request, dict):
        raise Fault(INVALID_REQUEST, "a request is one object")
    return cast("dict[str, Any]", request)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Fault(INVALID_REQUEST, "a member stands there twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def identity_of(request: dict[str, Any]) -> str | int:
    """What the answer is told apart by."""
    identity = request.get("id")
    if isinstance(identity, str) and _bytes(identity) <= LONGEST_ID:
        return identity
    if isinstance(identity, int) and not isinstance(identity, bool) and identity >= 0:
        return identity
    raise Fault(INVALID_REQUEST, "`id` has to be a string of at most 256 bytes or an integer from 0")


def call_in(request: dict[str, Any]) -> tuple[str, object]:
    """The method and its parameters."""
    unknown = sorted(request.keys() - {"jsonrpc", "id", "method", "params"})
    if unknown:
        raise Fault(INVALID_REQUEST, f"unknown member {unknown[0][:100]!r}")
    if request.get("jsonrpc") != "2.0" or not isinstance(request.get("method"), str):
        raise Fault(INVALID_REQUEST, '`jsonrpc` has to be "2.0", and `method` a string')
    return request["method"], request.get("params")


def lists_in(params: object) -> tuple[list[str], list[str], str | None]:
    """`allow`, `block` and the revision of `softnet.policy.set`."""
    members = cast("dict[str, object]", params) if isinstance(params, dict) else {}
    if not {"allow", "block"} <= members.keys() <= {"allow", "block", "desiredRevision"}:
        raise Fault(BAD_PARAMETERS, "softnet.policy.set takes `allow`, `block` and perhaps `desiredRevision`")
    allow, block = (_strings(name, members[name]) for name in ("allow", "block"))
    if len(allow) + len(block) > MOST_TARGETS:
        raise Fault(BAD_PARAMETERS, f"there are more than {MOST_TARGETS} targets")
    return allow, block, _revision(members["desiredRevision"]) if "desiredRevision" in members else None


def _strings(name: str, value: object) -> list[str]:
    elements = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(element, str) for element in elements):
        raise Fault(BAD_PARAMETERS, f"`{name}` has to be an array of strings")
    return cast("list[str]", elements)


def _revision(value: object) -> str:
    if isinstance(value, str) and 1 <= _bytes(value) <= LONGEST_REVISION:
        return value
    raise Fault(BAD_PARAMETERS, "`desiredRevision` has to be a string of 1 to 256 bytes")


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))
