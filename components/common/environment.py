"""The environment as programs we start, and our own requests, shall see it: nothing a caller left behind leaks in.

A pod of a PyTorchJob brings torchrun's variables, Kubernetes a `<SERVICE>_PORT` for every service beside it, a desk's
machine a proxy for everything. What decides our own processes is said explicitly; the rest of its kind is taken away.
"""

import os
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPResponse
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NO_PROXY = ("no_proxy", "NO_PROXY")  # some libraries read the one, some the other
# torchrun takes every `PET_*` as one of its options, also beside the option itself, and its workers inherit the
# rendezvous of a group around us (`TORCHELASTIC_*`); RANK and its kind it sets anew for each worker.
_LAUNCHERS = ("PET_", "TORCHELASTIC_")


def without(
    prefixes: Iterable[str], *, keep: Iterable[str] = (), source: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """A copy of an environment without the names that begin with a prefix, except those that begin with one to keep."""
    out, stay = tuple(prefixes), tuple(keep)
    return {name: value for name, value in source.items() if not name.startswith(out) or name.startswith(stay)}


def without_launcher(source: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A copy of an environment without what a launcher of trainings around us left in it."""
    return without(_LAUNCHERS, source=source)


def reach_loopback_directly() -> None:
    """Keep this process and all that it starts from asking a proxy for what is on this machine."""
    listed = [part.strip() for name in _NO_PROXY for part in os.environ.get(name, "").split(",") if part.strip()]
    if "*" in listed:
        return
    value = ",".join(dict.fromkeys([*listed, *LOOPBACK]))
    for name in _NO_PROXY:
        os.environ[name] = value


def opener(url: str) -> Callable[..., HTTPResponse]:
    """`urllib.request.urlopen`, but never through a proxy to this machine itself."""
    if urlsplit(url).hostname in LOOPBACK:
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    return urllib.request.urlopen
