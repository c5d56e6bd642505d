"""What the server does that decoding children are forked from, once, before it answers its first request.

Importing this module is doing it, so nothing but the server imports it (`pipeline.decode_launch` has it preloaded):
credentials leave the environment and the memory that held it, the network leaves where the system permits that, and
decoders are loaded, so that a child is there as soon as it is forked. Out: `SERVER_PID`, `HAS_NO_NETWORK`.
"""

from __future__ import annotations

import gc
import importlib
import os

from pipeline.confinement import forget_credentials, leave_network

__all__ = ["HAS_NO_NETWORK", "SERVER_PID"]

SERVER_PID = os.getpid()

forget_credentials()
# Before any library starts a thread: only a process of one thread may enter a user namespace.
HAS_NO_NETWORK = leave_network()

_DECODERS = (
    "pipeline.drafting", "pipeline.decode_child", "pebble.pool.process",
    "PIL.MpoImagePlugin", "PIL.AvifImagePlugin", "PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin", "PIL.TiffImagePlugin", "PIL.WebPImagePlugin", "pillow_heif",
)  # fmt: skip

for _name in _DECODERS:
    try:
        importlib.import_module(_name)
    except ImportError:
        # An optional one, or one that tells its absence better to the first item that needs it.
        continue

# What all children share stays shared: a collection would touch, and so copy, every page of it.
gc.freeze()
