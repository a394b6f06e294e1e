"""`/docs`: the OpenAPI document as a page that needs no outside network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, Response

from serve.errors import NotFoundError

router = APIRouter(include_in_schema=False)

# Addresses are relative, so that the page works behind a prefix. Without a validator address Swagger UI asks none.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>rushes</title>
<link rel="stylesheet" href="docs/static/swagger-ui.css">
<link rel="icon" href="docs/static/favicon.png">
</head>
<body>
<div id="page"></div>
<script src="docs/static/swagger-ui-bundle.js"></script>
<script src="docs/static/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""
# Swagger UI sets styles on its elements and draws with data URIs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = frozenset({"swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"})
_KEEP = {"cache-control": "private, max-age=86400"}


@router.get("/docs")
async def page() -> Response:
    """The page."""
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})


@router.get("/docs/static/{name}")
async def static(name: str) -> Response:
    """What the page needs: files of an installed package, and the few words that start it."""
    if name == "start.js":
        return Response(START, media_type="text/javascript")
    if name not in FILES:
        raise NotFoundError("there is nothing at this address")
    return FileResponse(Path(str(files("fastapi_offline") / "static" / name)), headers=_KEEP)
