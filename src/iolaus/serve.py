"""A run's predictions over HTTP, for programs and by a form in the browser."""

import errno
import math
import socket
from importlib.util import find_spec
from pathlib import Path

from iolaus.commands import install_command
from iolaus.errors import UserError
from iolaus.finished import restored

NEEDED = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
PATIENCE_S = 5  # that a request under way has once the server is to end


def serve(
    folder: Path, overrides: list[str], checkpoint: str, allow: list[str], host: str, port: int, most_mb: float
) -> None:
    """Answer requests until Ctrl-C. Requests wait for one another: there is one model.

    Args:
        folder: the run's.
        overrides: settings KEY=VALUE to change.
        checkpoint: best, last, previous, or a file.
        allow: packages of one's own that the settings may name.
        host: address to listen on; 127.0.0.1 is this machine alone.
        port: to listen on; 0: any that is free.
        most_mb: of a request; a larger one is refused.

    Raises:
        UserError: for a port in use, a host that is not this machine's, packages that are missing, and as predict does.
    """
    if missing := [package for module, package in NEEDED.items() if find_spec(module) is None]:
        raise UserError(f"serve: needs {', '.join(missing)}: {install_command('serve')}")
    if not 0 < most_mb < math.inf:
        raise UserError(f"--most-mb: must be above 0 and finite; received {most_mb:g}")
    with _listening(host, port) as place:  # before the model is read, which takes seconds
        run = restored(folder, overrides, checkpoint, allow)
        import uvicorn

        from iolaus.endpoint import application

        app = application(run, folder, int(most_mb * 2**20))
        settings = uvicorn.Config(
            app, log_level="warning", lifespan="off", timeout_graceful_shutdown=PATIENCE_S, server_header=False
        )
        shown = f"[{host}]" if ":" in host else host
        print(f"{folder} answers at http://{shown}:{place.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
        try:
            uvicorn.Server(settings).run(sockets=[place])
        finally:
            print("stopped", flush=True)


def _listening(host: str, port: int) -> socket.socket:
    """A socket at an address, which none other has."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port: must be from 0 to 65535; received {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place = socket.socket(family, kind)
    except (OSError, UnicodeError):
        raise UserError(f"--host: {host} is no address of this machine; try 127.0.0.1 or 0.0.0.0") from None
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
        place.listen(64)
    except OSError as error:
        place.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"--port: {port} is in use; choose another, as in --port {port + 1}, or 0 for any"
            ) from None
        if error.errno == errno.EACCES:
            raise UserError(f"--port: {port} is not for users; choose one from 1024, as in --port 8000") from None
        raise UserError(
            f"--host: {host} is no address of this machine: {error.strerror}; try 127.0.0.1 or 0.0.0.0"
        ) from None
    return place
