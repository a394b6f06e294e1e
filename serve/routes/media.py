"""Routes of media."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
