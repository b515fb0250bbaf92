"""Runs what was built as the image would be run: by its user, with its volumes, and nothing else to write to."""

import contextlib
import fcntl
import signal
import socket
import string
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from base import SetupError, say
from dockerfile import Stage
from image_root import Image, bind, copy_root, enter, show

HEALTH = "http://127.0.0.1:8080/health"


def run_image(stage: Stage, image: Image, volumes: Path) -> None:
    """Run it as `docker run --read-only` would, and ask it. Raises `SetupError`."""
    loopback_up()
    for one in stage.instructions:
        if one.name == "ENV":
            image.env |= {
                name: string.Template(value).safe_substitute(image.env)
                for name, _, value in (word.partition("=") for word in one.words)
            }
    image.workdir, image.user = stage.last("WORKDIR")[0], stage.last("USER")[0]
    if image.user.split(":")[0] in ("", "0", "root"):
        raise SetupError("the image's user is root")
    subprocess.run(["mount", "--bind", str(image.root), str(image.root)], check=True)
    show(image.root)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(image.root)], check=True)
    for volume in stage.last("VOLUME"):
        place = volumes / volume.lstrip("/")
        copy_volume(image.root / volume.lstrip("/"), place)
        belongs(place, volume, image.user)
        bind(place, image.root / volume.lstrip("/"))
    say("== the image, by its user, over a root that cannot be written")
    entry = stage.last("ENTRYPOINT")
    said = _start(image, ["/bin/sh", "-c", "touch /opt/smallhold/x 2>/dev/null || touch /tmp/x 2>/dev/null"]).wait()
    if said == 0:
        raise SetupError("the root can be written")
    if _start(image, [*entry, "keys", "create", "--label", "check"], quiet=True).wait():
        raise SetupError("no API key can be made")
    server = _start(image, [*entry, *stage.last("CMD")])
    try:
        began = time.monotonic()
        until(lambda: answers(HEALTH) == 200, server)
        say(f"/health answers after {time.monotonic() - began:.1f} s")
        if _start(image, stage.last("HEALTHCHECK"), quiet=True).wait() == 0:
            raise SetupError("the health check says healthy though there are no weights")
        say("without weights the health check says that it is not ready")
        server.send_signal(signal.SIGTERM)
        if status := server.wait(60):
            raise SetupError(f"SIGTERM ended it with {status}, not 0")
        say("SIGTERM ended it with 0")
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()


def _start(image: Image, command: Sequence[str], *, quiet: bool = False) -> "subprocess.Popen[bytes]":
    return enter(image.root, command, image.env, image.workdir, image.user, quiet=quiet)


def copy_volume(source: Path, place: Path) -> None:
    """A named volume begins as a copy of what the image has there, its owner included."""
    place.parent.mkdir(parents=True, exist_ok=True)
    copy_root(source, place)


def belongs(place: Path, volume: str, user: str) -> None:
    """A volume is the image's user's, and its group's: useradd by itself takes another. Raises `SetupError`."""
    status = place.stat()
    if (owner := f"{status.st_uid}:{status.st_gid}") != user:
        raise SetupError(f"{volume} belongs to {owner}, and the image's user is {user}")


def until(holds: Callable[[], bool], server: "subprocess.Popen[bytes]", seconds: float = 120) -> None:
    """Wait. Raises `SetupError` where the server ends or the time is over."""
    ends = time.monotonic() + seconds
    while not holds():
        if server.poll() is not None or time.monotonic() > ends:
            raise SetupError(f"the server does not answer; it {'runs' if server.poll() is None else 'has ended'}")
        time.sleep(0.1)


def answers(address: str) -> int:
    """The status of a GET, 0 where nobody answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def loopback_up() -> None:
    """In a network namespace of its own even this machine's own address has to be switched on."""
    up_and_running, set_flags = 0x1 | 0x40, 0x8914  # IFF_UP | IFF_RUNNING; SIOCSIFFLAGS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, set_flags, struct.pack("16sh", b"lo", up_and_running))
