"""The transport, HTTP/1.1 and HTTP/2: sockets and bytes, no models.

Exported is HTTP/1.1, on which Tornado applications run too. What speaks HTTP/2 imports its modules.
"""

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
