"""Runs one peer's server; started with the Python of the peer's own environment, where smallhold is not installed.

    python peer_process.py NAME SETTINGS        NAME is llama-server or llama-cpp-python, SETTINGS a JSON object

It ends when its standard input does, so that no server outlives a benchmark that was killed.
"""

import json
import os
import runpy
import sys
import threading
from typing import Any


def main() -> None:
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    {"llama-server": llama_server, "llama-cpp-python": llama_cpp_python}[name](settings)


def llama_server(settings: dict[str, Any]) -> None:
    """llama.cpp's own server inside xllamacpp: nested settings are attributes of its parameters."""
    import xllamacpp  # type: ignore[import-not-found, unused-ignore]

    parameters = xllamacpp.CommonParams()
    for key, value in settings.items():
        *path, last = key.split(".")
        target = parameters
        for part in path:
            target = getattr(target, part)
        setattr(target, last, value)
    print(xllamacpp.get_system_info(), file=sys.stderr, flush=True)
    server = xllamacpp.Server(parameters)
    print(f"listening on {server.listening_address}", file=sys.stderr, flush=True)
    threading.Event().wait()


def llama_cpp_python(settings: dict[str, Any]) -> None:
    """llama-cpp-python's server; settings are its flags."""
    sys.argv = ["llama_cpp.server", *(f"--{key}={value}" for key, value in settings.items())]
    runpy.run_module("llama_cpp.server", run_name="__main__")


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
