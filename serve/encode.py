"""JSON in and out for routes that carry thousands of numbers: orjson both ways, models for the document only."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np
import orjson
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from serve.errors import BadRequestError, InvalidError
from serve.models import Timing

EncodingFormat = Literal["float", "base64"]
Body = dict[str, Any]
Given = TypeVar("Given", bound="Options")


class Options(BaseModel):
    """What a body says besides its items; nothing is converted and nothing unknown is passed over."""

    model_config = ConfigDict(extra="forbid", strict=True)


async def read_body(request: Request) -> Body:
    """The JSON object of a request; `BadRequestError` for anything else."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise BadRequestError(f"the body is {kind!r}: send application/json", code="invalid_content_type")
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is no JSON: {error}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise InvalidError("the body is no JSON object")
    return body


def take(body: Body, field: str) -> Any:
    """Remove a field that must be there, and return it."""
    if body.get(field) is None:
        raise InvalidError(f"{field}: it is missing", param=field)
    return body.pop(field)


def read_options(kind: type[Given], body: Body) -> Given:
    """What is left of a body once its items are taken; null means not given."""
    try:
        return kind.model_validate({name: value for name, value in body.items() if value is not None})
    except ValidationError as error:
        # Without the values: one may be megabytes long.
        errors = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in errors]) from error


def documented_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra=` of a route that reads its body itself, as this model describes it."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema, parts)}}}}


def _inlined(schema: Any, parts: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(item, parts) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(parts[schema["$ref"].rpartition("/")[2]], parts)
    return {name: _inlined(item, parts) for name, item in schema.items()}


def encoded(vectors: NDArray[np.float32], encoding_format: EncodingFormat) -> list[Any]:
    """Each row of (rows, dimension) for `answer`: as numbers, or as base64 of little-endian float32."""
    if encoding_format == "float":
        return list(np.ascontiguousarray(vectors, np.float32))
    return [b2a_base64(row.tobytes(), newline=False).decode() for row in np.asarray(vectors, "<f4")]


def answer(body: Any) -> Response:
    """A finished answer of plain values and rows of numbers."""
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def spend(request: Request, timing: Timing) -> None:
    """Say where the time went, in the headers of the answer."""
    spent_s = request.scope["state"]["exchange"].spent_s
    spent_s["queue"] = spent_s.get("queue", 0.0) + timing.queue_s
    spent_s["model"] = spent_s.get("model", 0.0) + timing.model_s
