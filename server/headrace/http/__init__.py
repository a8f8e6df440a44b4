"""The HTTP/1.1 transport: sockets and bytes, no models. Tornado applications run on it."""

from headrace.http.eager import in_task, start
from headrace.http.exchange import Buffer, Exchange, Gone
from headrace.http.limits import Breach, Limits, Refusal, Render, render
from headrace.http.response import Headers
from headrace.http.server import HttpServer, ShortPath

__all__ = [
    "Breach",
    "Buffer",
    "Exchange",
    "Gone",
    "Headers",
    "HttpServer",
    "Limits",
    "Refusal",
    "Render",
    "ShortPath",
    "in_task",
    "render",
    "start",
]
