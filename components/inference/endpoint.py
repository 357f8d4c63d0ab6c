"""A captioner behind an OpenAI-compatible server (vLLM, SGLang, hosted): `http://HOST:PORT/v1#MODEL`.

Every answer is kept by the hash of its request, before it is used: a run that was killed asks nothing again, and the
dataset can be made again from the kept answers though the server is not deterministic. They are the record.
"""

import base64
import http.client
import io
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from PIL import Image

from components.common.environment import LOOPBACK
from components.common.errors import CapfiltError, ConfigError, ModelError
from components.common.seeding import digest_of
from components.common.storage import Store
from components.data.decoding import Pixels, within
from components.inference.config import EndpointConfig
from components.inference.families import ENDPOINT_JPEG, ENDPOINT_SIDE
from components.inference.protocols import WHOLE, Finish, Written
from components.model.config import DecodingConfig

logger = logging.getLogger(__name__)

KEY_VARIABLE = "CAPFILT_ENDPOINT_KEY"
_MOST_BYTES = 4 << 20  # of an answer
_LONGEST_PAUSE = 60.0
_DENIED = (401, 403, 404)
_PASSING = (408, 409, 425, 429)  # and all from 500 on
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}


class Address(NamedTuple):
    """Where a server is, and which of its models is meant."""

    base: str
    model: str


def address_of(place: str) -> Address:
    """The parts of `http://HOST:PORT/v1#MODEL`.

    Raises:
        ConfigError: it names no model, or a key would travel in the open.
    """
    parts = urlsplit(place)
    if not parts.fragment or not parts.hostname or parts.query or parts.username or parts.password:
        raise ConfigError(f"{place} is no endpoint: write http://HOST:PORT/v1#MODEL, a key goes into {KEY_VARIABLE}")
    if os.environ.get(KEY_VARIABLE) and parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ConfigError(f"{place}: {KEY_VARIABLE} would be sent in the open: use https, or unset it")
    return Address(place.partition("#")[0].rstrip("/"), parts.fragment)


class _Counts:
    """What was asked so far, of all threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sent = self.answered = self.kept = self.failed = self.row = self.tokens = 0

    def __str__(self) -> str:
        return (
            f"{self.sent} requests sent, {self.answered} answered with {self.tokens} tokens, {self.kept} answers found "
            f"kept, {self.failed} captions failed"
        )


class EndpointCaptioner:
    """A captioner that is asked over HTTP.

    Args:
        place: see `address_of`.
        decoding: settled; greedy (temperature 0) or nucleus.
        config: how the server is asked.
        answers: where answers are kept.
    """

    size = WHOLE

    def __init__(self, place: str, decoding: DecodingConfig, config: EndpointConfig, answers: Store) -> None:
        if decoding.method == "beam":
            raise ConfigError("servers do not search by beam: set decoding.method to greedy or nucleus")
        self.address, self.decoding, self.config, self.answers = address_of(place), decoding, config, answers
        self.counts = _Counts()
        self._send = urllib.request.build_opener(_NoRedirect, *_direct(self.address.base)).open

    def write(self, images: Sequence[Pixels] | Pixels, seeds: Sequence[Sequence[int]]) -> list[list[Written]]:
        """Texts of images `[H, W, 3]`, one per seed; see AnyCaptioner.

        Raises:
            ModelError: the server denies the request: no such model, or the key is none.
            CapfiltError: the budget is spent, or too many captions failed in a row; all answers are kept.
        """
        with ThreadPoolExecutor(self.config.concurrency, "endpoint") as pool:
            urls = list(pool.map(_data_url, images))
            asked = [
                [pool.submit(self._answer, url, seed) for seed in row] for url, row in zip(urls, seeds, strict=True)
            ]
            try:
                return [[one.result() for one in row] for row in asked]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def request(self, image: str, seed: int) -> dict[str, Any]:
        """What is sent for an image (a data URL)."""
        drawn = self.decoding.method == "nucleus"
        content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": self.decoding.prompt}]
        more: dict[str, Any] = {"top_p": self.decoding.top_p, "seed": seed % 2**31} if drawn else {}
        if drawn and self.decoding.top_k:
            more["top_k"] = self.decoding.top_k
        if self.decoding.repetition_penalty != 1.0:
            more["repetition_penalty"] = self.decoding.repetition_penalty
        if self.decoding.min_length:
            more["min_tokens"] = self.decoding.min_length
        return {
            "model": self.address.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.decoding.max_length,
            "temperature": self.decoding.temperature if drawn else 0.0,
            **more,
        }

    def _answer(self, image: str, seed: int) -> Written:
        request = self.request(image, seed)
        digest = digest_of(request)
        key = f"{digest[:2]}/{digest}.json"
        if self.answers.exists(key):
            with self.counts.lock:
                self.counts.kept += 1
            return _written(json.loads(self.answers.read(key)))
        fault = ""
        for attempt in range(self.config.attempts):
            answer = self._once(json.dumps(request).encode(), attempt)
            if isinstance(answer, dict):
                self.answers.write(key, json.dumps(answer, sort_keys=True).encode(), if_absent=True)
                return _written(answer)
            fault = answer
        self._failed(fault)
        return Written("", "error", 0, fault)

    def _once(self, body: bytes, attempt: int) -> dict[str, Any] | str:
        """An answer, or why there is none this time; pauses before the next attempt."""
        self._spend()
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.address.base}/chat/completions"
        wait = self.config.pause * 2**attempt
        try:
            with self._send(urllib.request.Request(url, body, headers), timeout=self.config.timeout) as reply:
                return self._received(_parsed(reply.read(_MOST_BYTES + 1)))
        except urllib.error.HTTPError as error:
            error.close()
            fault = f"HTTP {error.code}"
            if error.code in _DENIED:
                raise ModelError(
                    f"{url} answers {error.code} for model {self.address.model!r}: check address, model and "
                    f"{KEY_VARIABLE} ({self.counts})"
                ) from error
            if error.code < 500 and error.code not in _PASSING:
                return self._lasting(fault)
            wait = max(wait, _asked_to_wait(error))
        except (OSError, http.client.HTTPException, ValueError) as error:
            fault = f"{type(error).__name__}: {error}"[:200]
        if attempt + 1 < self.config.attempts:
            logger.info("%s: %s; again in %.1f s", url, fault, min(wait, _LONGEST_PAUSE))
            time.sleep(min(wait, _LONGEST_PAUSE))
        return fault

    def _lasting(self, fault: str) -> dict[str, Any]:
        """A refusal of this very request: asked again it would be the same, and it is kept as an answer."""
        return self._received({"text": "", "finish": "error", "tokens": 0, "detail": fault})

    def _received(self, answer: dict[str, Any]) -> dict[str, Any]:
        with self.counts.lock:
            self.counts.answered += 1
            self.counts.tokens += answer["tokens"]
            self.counts.row = 0
        return answer

    def _spend(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            CapfiltError: the budget is spent.
        """
        counts, config = self.counts, self.config
        with counts.lock:
            spent = (config.max_requests is not None and counts.sent >= config.max_requests) or (
                config.max_tokens is not None and counts.tokens >= config.max_tokens
            )
            if not spent:
                counts.sent += 1
                return
        raise CapfiltError(
            f"{self.address.base}: the budget is spent ({counts}). All answers are kept: raise endpoint.max_requests "
            "or endpoint.max_tokens and run again"
        )

    def _failed(self, fault: str) -> None:
        """Count a caption that failed for good.

        Raises:
            CapfiltError: it is one too many in a row.
        """
        with self.counts.lock:
            self.counts.failed += 1
            self.counts.row += 1
            over = self.counts.row >= self.config.give_up_after
        if over:
            raise CapfiltError(
                f"{self.address.base} has failed {self.counts.row} captions in a row, the last with {fault!r} "
                f"({self.counts}). All answers are kept: see to the server and run again"
            )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would carry the key elsewhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _direct(base: str) -> list[urllib.request.BaseHandler]:
    """Never through a proxy to this machine itself."""
    return [urllib.request.ProxyHandler({})] if urlsplit(base).hostname in LOOPBACK else []


def _data_url(image: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(within(image, ENDPOINT_SIDE)).save(buffer, "JPEG", quality=ENDPOINT_JPEG)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _parsed(data: bytes) -> dict[str, Any]:
    """What is kept of a reply: text, why it ended, tokens, and what the server says of itself.

    Raises:
        ValueError: it is none.
    """
    if len(data) > _MOST_BYTES:
        raise ValueError("an answer of more than 4 MiB")
    try:
        reply = json.loads(data)
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        text, reason = choice["message"]["content"] or "", str(choice["finish_reason"])
        tokens = int(usage.get("completion_tokens") or len(text.split()))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"a reply of another form: {error!r}") from error
    told = {"model": str(reply.get("model", "")), "system_fingerprint": str(reply.get("system_fingerprint") or "")}
    if reason not in _FINISHES:
        return {"text": "", "finish": "error", "tokens": tokens, "detail": reason, **told}
    return {"text": str(text).strip(), "finish": reason, "tokens": tokens, "detail": "", **told}


def _written(answer: dict[str, Any]) -> Written:
    return Written(answer["text"], answer["finish"], answer["tokens"], answer["detail"])


def _asked_to_wait(error: urllib.error.HTTPError) -> float:
    """Seconds by the server's Retry-After; 0 if it gives none."""
    try:
        return float(error.headers.get("Retry-After") or 0)
    except ValueError:  # a date
        return 0.0
