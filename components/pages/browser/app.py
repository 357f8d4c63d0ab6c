"""The browser's pages and what they are made of. Every state is in the address; only marks change anything."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment

from components.common.errors import CapfiltError, ConfigError
from components.data.pictures import small_jpeg
from components.pages.browser.compare import KINDS
from components.pages.browser.security import guard
from components.pages.browser.state import Browser
from components.pages.browser.view import PAGE_SIZE, View, policy_of, sorts
from components.pages.browser.wording import label, reason_words
from components.pages.templates import templates

_HERE = Path(__file__).parent
_STATIC = {
    "look.css": (_HERE.parent / "look.css", "text/css"),
    "browser.css": (_HERE / "static" / "browser.css", "text/css"),
    "browser.js": (_HERE / "static" / "browser.js", "text/javascript"),
    "htmx.min.js": (_HERE / "static" / "htmx.min.js", "text/javascript"),
}
_THUMB, _LARGE = 224, 1024  # pixels
_MARK_BYTES = 1024
_Maker = Callable[[int, int], bytes | None]  # of a JPEG, by the numbers of version and image; None without the image
_POLICIES = {
    "keep_both": "keep both: every text that passes",
    "replace": "replace: synthetic texts that pass",
    "best_of": "best of: the best text that passes",
    "best_each": "best each: the best web text and the best synthetic one that pass",
    "fallback": "fallback: synthetic only without web",
}


def create_app(browser: Browser) -> FastAPI:
    """The application over these versions."""
    app = FastAPI(title="capfilt browse", docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(guard)
    app.exception_handler(CapfiltError)(_told)
    pages = _Pages(browser)
    app.get("/", response_class=HTMLResponse)(pages.grid)
    app.get("/compare", response_class=HTMLResponse)(pages.compare)
    app.get("/sample/{version}/{image}", response_class=HTMLResponse)(pages.sample)
    app.get("/find/{key:path}", response_class=HTMLResponse)(pages.find)
    app.get("/thumb/{digest}/{image}")(pages.thumb)
    app.get("/image/{digest}/{image}")(pages.large)
    app.get("/static/{name}")(_static)
    app.get("/favicon.ico")(lambda: Response(status_code=204))
    app.post("/mark/{version}/{row}", response_class=HTMLResponse)(pages.mark)
    return app


def _environment() -> Environment:
    made = templates(_HERE / "templates")
    made.filters |= {"amount": "{:,}".format, "reason": reason_words, "label": label, "percent": "{:.1%}".format}
    made.filters["pairs"] = lambda names: [(name, reason_words(name)) for name in names]
    return made


async def _told(request: Request, error: Exception) -> HTMLResponse:
    """A product's error as a page that says what is wrong and how to mend it."""
    status = 400 if isinstance(error, ConfigError) else 409
    return HTMLResponse(_environment().get_template("error.html.j2").render(message=str(error)), status)


def _static(name: str) -> Response:
    if name not in _STATIC:
        return Response(status_code=404)
    path, kind = _STATIC[name]
    return FileResponse(path, media_type=kind, headers={"Cache-Control": "no-cache"})


def _sort_words(scores: list[str]) -> list[tuple[str, str]]:
    """The orders of the grid and what they are called."""
    words = {"random": "at random", "near": "nearest to the threshold", "disagree": "scores disagree most"}
    words |= {"short": "shortest first", "long": "longest first"}
    for name in scores:
        words |= {f"low:{name}": f"lowest {label(name)}", f"high:{name}": f"highest {label(name)}"}
    return [("", "as they lie, or as found"), *((name, words[name]) for name in sorts(scores) if name in words)]


class _Pages:
    """The answers."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self._templates = _environment()
        self._small: _Maker = lru_cache(2048)(partial(self._jpeg, _THUMB))

    def grid(self, request: Request) -> HTMLResponse:
        """The candidates of a view; only the results where the page is there already."""
        browser, version = self.browser, self.browser.main
        view = View.parse(request.query_params, list(version.scores))
        part = request.headers.get("hx-request") == "true" and "hx-history-restore-request" not in request.headers
        results = browser.results(view)
        values = {
            "view": view,
            "results": results,
            "what_if": browser.what_if(view) if version.can_be_cut and (view.policy or view.at is not None) else [],
            "policy": policy_of(version, view),
            "part": part,
        }
        page = self._render("results.html.j2" if part else "grid.html.j2", **values)
        page.headers["HX-Push-Url"] = view.link(page=results.page)
        page.headers["Vary"] = "HX-Request"
        return page

    def compare(self, kind: str = "otherwise", page: int = 1) -> HTMLResponse:
        """Captions that the two versions treat differently."""
        comparison = self.browser.comparison
        if kind not in KINDS:
            raise ConfigError(f"kind={kind}: use {', '.join(KINDS)}")
        found = comparison.select(kind)
        pages = max(1, -(-len(found) // PAGE_SIZE))
        page = min(max(page, 1), pages)
        shown = found[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
        pairs = [self._pair(int(comparison.before[one]), int(comparison.after[one])) for one in shown]
        values = {"kind": kind, "kinds": KINDS, "counts": comparison.counts, "page": page, "pages": pages}
        return self._render("compare.html.j2", pairs=pairs, **values)

    def _pair(self, before: int, after: int) -> list[Any]:
        """A caption's card in each version that knows it."""
        rows = enumerate((before, after))
        return [self.browser.cards(number, np.array([row], np.int32))[0] if row >= 0 else None for number, row in rows]

    def sample(self, version: int, image: int) -> HTMLResponse:
        """An image with all its candidates, and where it comes from."""
        one = self.browser.version(version)
        if not 0 <= image < one.images:
            raise ConfigError(f"there is no image {image} here: start from the first page, /")
        (card,) = self.browser.cards(version, np.array(one.rows_of(image), np.int32))
        other = self._elsewhere(version, card.key, card.shard)
        entry = one.manifest.shards[int(one.image_shard[image])]
        return self._render("sample.html.j2", card=card, one=one, other=other, entry=entry, number=version)

    def _elsewhere(self, version: int, key: str, shard: str) -> tuple[int, int] | None:
        """The same image in the other version, by the number of that and its own."""
        for number, other in enumerate(self.browser.versions):
            if number != version and (image := other.find(key, shard)) is not None:
                return number, image
        return None

    def find(self, key: str) -> HTMLResponse:
        """The sample of a key."""
        image = self.browser.main.find(key)
        if image is None:
            raise ConfigError(f"{self.browser.main.uri} has no sample {key!r} with a text")
        return self.sample(len(self.browser.versions) - 1, image)

    def thumb(self, digest: str, image: int) -> Response:
        """A small picture of an image."""
        return self._picture(digest, image, self._small)

    def large(self, digest: str, image: int) -> Response:
        """An image as large as a screen shows it."""
        return self._picture(digest, image, partial(self._jpeg, _LARGE))

    def _picture(self, digest: str, image: int, make: _Maker) -> Response:
        """Always a JPEG that was made here: whatever bytes lie under an image's name, none reaches a browser."""
        digests = [one.manifest.digest[:16] for one in self.browser.versions]
        if digest not in digests or not 0 <= image < self.browser.versions[digests.index(digest)].images:
            return Response(status_code=404)
        data = make(digests.index(digest), image)
        if data is None:
            return Response(status_code=404)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400, immutable"})

    def _jpeg(self, side: int, version: int, image: int) -> bytes | None:
        try:
            data = self.browser.versions[version].picture(image)
            return None if data is None else small_jpeg(data, side)
        except CapfiltError:  # gone, or no image: the page shows its words instead
            return None

    async def mark(self, version: int, row: int, request: Request) -> HTMLResponse:
        """Note whether a caption is right, wrong, or neither."""
        body = await request.body()
        right = {"yes": True, "no": False, "": None}
        given = parse_qs(body[:_MARK_BYTES].decode("ascii", "replace"), keep_blank_values=True).get("right", ["?"])[0]
        if given not in right:
            raise ConfigError("a mark is yes, no or empty")
        caption = self.browser.caption(version, row)
        kept = bool(self.browser.version(version).kept[row])
        self.browser.marks.set(caption, kept=kept, right=right[given])
        return self._render("marked.html.j2", text=self.browser.text(version, row))

    def _render(self, template: str, **values: object) -> HTMLResponse:
        browser = self.browser
        digest = browser.main.manifest.digest
        shares = [(word, browser.marks.share(digest, kept=word == "kept")) for word in ("kept", "dropped")]
        common = {
            "browser": browser,
            "main": browser.main,
            "policies": _POLICIES,
            "sort_words": _sort_words(list(browser.main.scores)),
            "shares": [(word, share) for word, share in shares if share is not None],
        }
        return HTMLResponse(self._templates.get_template(template).render(common | values))
