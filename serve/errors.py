"""Every error a client meets, in the shape of OpenAI's: status, message, the field it is about, and a code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

RETRY_AFTER_S = 1


class ApiError(Exception):
    """An answer that is no success; `param` names the field of the request it is about."""

    status = 500
    kind = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param = message, param
        self.code = code or self.code

    @property
    def headers(self) -> dict[str, str]:
        """What goes with the answer."""
        return {}


class BadRequestError(ApiError):
    """400: the body is no JSON, or no form."""

    status, kind, code = 400, "invalid_request_error", "bad_request"


class NoKeyError(ApiError):
    """401: no key, or one that opens nothing."""

    status, kind, code = 401, "authentication_error", "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        """How to come with a key."""
        return {"www-authenticate": "Bearer"}


class ForbiddenError(ApiError):
    """403: the key may not do this."""

    status, kind, code = 403, "permission_error", "insufficient_scope"


class NotFoundError(ApiError):
    """404: there is no such thing."""

    status, kind, code = 404, "invalid_request_error", "not_found"


class WrongMethodError(ApiError):
    """405: the address takes other methods."""

    status, kind, code = 405, "invalid_request_error", "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"this address takes {allowed}")
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        """What it takes."""
        return {"allow": self.allowed}


class TooSlowError(ApiError):
    """408: the client took too long to send its request."""

    status, kind, code = 408, "invalid_request_error", "request_timeout"


class ConflictError(ApiError):
    """409: the corpus is in a state in which this cannot be done; the message says what to do first."""

    status, kind, code = 409, "invalid_request_error", "conflict"


class TooLargeError(ApiError):
    """413: more bytes, items or seconds than a request may have."""

    status, kind, code = 413, "invalid_request_error", "too_large"


class InvalidError(ApiError):
    """422: a field holds what it cannot mean."""

    status, kind, code = 422, "invalid_request_error", "invalid_value"


class BusyError(ApiError):
    """429: full; the same request works a little later."""

    status, kind, code = 429, "rate_limit_error", "overloaded"

    def __init__(self, message: str, *, retry_after_s: int = RETRY_AFTER_S, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """When to come back, in seconds."""
        return {"retry-after": str(self.retry_after_s)}


class UnavailableError(BusyError):
    """503: a model or the database is away; the service finds it again by itself."""

    status, kind, code = 503, "server_error", "unavailable"


class DeadlineError(ApiError):
    """504: the work took longer than a request may, and was ended."""

    status, kind, code = 504, "server_error", "timeout"


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorBody = Field(description="What went wrong, and with which field.")


_ALL = {
    error.status: error
    for error in (
        BadRequestError, NoKeyError, ForbiddenError, NotFoundError, TooSlowError, ConflictError, TooLargeError,
        InvalidError, BusyError, UnavailableError, DeadlineError,
    )
}  # fmt: skip
_EVERYWHERE = (400, 401, 403, 408, 413, 422, 429, 503, 504)


def documented(*more: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: what every route may answer, and `more`."""
    statuses = sorted({*_EVERYWHERE, *more})
    return {
        status: {"model": ErrorEnvelope, "description": (_ALL[status].__doc__ or "").partition(": ")[2]}
        for status in statuses
    }


def envelope(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that says so."""
    body = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, error.status, {**error.headers, **(headers or {})})
