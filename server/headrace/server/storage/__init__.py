"""Where models come from: storage URIs to a local folder.

download.py   the flow   ·   uri.py        what a URI means   ·   remote.py   one remote file
object_stores.py, web.py, hub.py, snapshots.py   the sources   ·   cache.py, archive.py, progress.py
"""

from headrace.server.storage.download import Options, download, is_downloaded, unfinished
from headrace.server.storage.remote import StorageError
from headrace.server.storage.uri import UnsupportedUri, parse

__all__ = [
    "Options",
    "StorageError",
    "UnsupportedUri",
    "download",
    "is_downloaded",
    "parse",
    "unfinished",
]
