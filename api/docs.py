"""/docs: swagger's own files from a pip package; no CDN and no inline script, so it works offline under the CSP."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, Response

router = APIRouter(include_in_schema=False)
_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}

PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>orc — API</title>
  <link rel="stylesheet" href="docs/swagger-ui.css">
  <link rel="icon" href="docs/favicon.png">
</head>
<body>
  <div id="swagger-ui"></div>
  <script src="docs/swagger-ui-bundle.js"></script>
  <script src="docs/start.js"></script>
</body>
</html>
"""

START = """window.ui = SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true,
  persistAuthorization: false, validatorUrl: null
});
"""


@router.get("/docs")
def page() -> HTMLResponse:
    """The page."""
    return HTMLResponse(PAGE)


@router.get("/docs/start.js")
def start() -> Response:
    """What starts it."""
    return Response(START, media_type="text/javascript")


@router.get("/docs/{name}")
def asset(name: str) -> Response:
    """One of swagger's own files."""
    if name not in _FILES:
        return Response(status_code=404)
    path = Path(str(files("fastapi_offline") / "static" / name))
    return FileResponse(path, media_type=_FILES[name], headers={"Cache-Control": "max-age=86400"})
