"""What went wrong inside, as an answer: the errors of the floors below, of FastAPI, and of nobody's making."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cluster.db.connect import RefusedError
from cluster.db.patience import DatabaseAwayError
from cluster.db.pool import PoolBusyError
from cluster.errors import RushesError, UsageError
from serve.errors import (
    ApiError,
    BadRequestError,
    BusyError,
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    WrongMethodError,
    envelope,
)

MOST_NAME_CHARS = 200

logger = logging.getLogger("rushes.serve")


def told(error: Exception) -> ApiError:
    """The answer for an error; one of ours keeps its words, any other keeps its secrets."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RefusedError):
        # Its words name host and user.
        logger.error("%s", error)
    if isinstance(error, DatabaseAwayError | RefusedError):
        return UnavailableError("the database is away; it is looked for again with every request", retry_after_s=2)
    if isinstance(error, PoolBusyError):
        return BusyError(str(error))
    if isinstance(error, UsageError):
        return InvalidError(str(error))
    if isinstance(error, RushesError):
        return ConflictError(str(error))
    if isinstance(error, RequestValidationError):
        return _no_json() if isinstance(error.body, bytes) else _invalid(error.errors())
    if isinstance(error, HTTPException):
        return _plain(error)
    logger.error("a fault of the service", exc_info=error)
    return ApiError("the service failed on this request; its log says why", code="internal")


async def handle(request: Request, error: Exception) -> Response:
    """FastAPI's exception handler for all of them."""
    answer = told(error)
    request.scope["state"]["cause"] = answer.code
    return envelope(answer)


def _no_json() -> ApiError:
    return BadRequestError(
        "the body is no JSON by its content type: send application/json", code="invalid_content_type"
    )


def _invalid(errors: Sequence[Any]) -> ApiError:
    first = errors[0]
    # FastAPI says first where in the request the field is; a field may itself be called `query`.
    place = first["loc"][1:]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    # An unknown field is as long as its client likes.
    name = name if len(name) <= MOST_NAME_CHARS else f"{name[:MOST_NAME_CHARS]}..."
    if first["type"] == "json_invalid":
        return BadRequestError(f"the body is no JSON: {first['ctx']['error']}", code="invalid_json")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidError(f"{name or 'the request'}: {_words(first)}{more}", param=name or None)


def _words(error: Any) -> str:
    """What pydantic says, in words that need no pydantic."""
    if error["type"] == "missing":
        return "it is missing"
    if error["type"] == "extra_forbidden":
        return "there is no such field; `/docs` lists those that are taken"
    if error["type"] == "value_error":
        said = str(error["ctx"]["error"])
        return "it is no file: send a form with a file in this field" if "UploadFile" in said else said
    return str(error["msg"])


def _plain(error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return NotFoundError("there is nothing at this address; `/docs` lists those there are")
    if error.status_code == 405:
        return WrongMethodError((error.headers or {}).get("Allow", ""))
    if isinstance(error.__cause__, ValueError | RecursionError):
        return BadRequestError("the body cannot be read: it is no UTF-8, too deep, or has a number too long")
    said = str(error.detail)
    # A file that is sent as the whole body looks to Starlette like a form of very many fields.
    is_no_form = said.startswith("Too many fields")
    answer = ApiError("the body is no form: send multipart/form-data" if is_no_form else said, code="http_error")
    answer.status, answer.kind = error.status_code, "invalid_request_error"
    return answer
