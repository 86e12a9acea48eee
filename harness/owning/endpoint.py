"""Suspects behind an HTTP endpoint: the questions of a key as requests, within a budget, and again where they fail.

Nothing leaves the machine but the queries. No redirect is followed, since it would carry the token elsewhere, and no
text of an error shows a header: tokens are neither stored nor printed.
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.errors import UsageError
from harness.owning.answers import LEAST, labels_as_logits
from harness.owning.mapping import Mapping, answers_in, body_of, from_environment
from harness.owning.querylog import QueryLog, name_of, open_log
from harness.owning.suspects import Suspect
from harness.text import printable

if TYPE_CHECKING:
    import httpx
    from torch import Tensor

    from harness.owning.folder import About
    from harness.values import Answers

PAUSE, LONGEST = 0.5, 30.0
"""Seconds before the first further try, and before any: each is twice the one before."""
MOST_BYTES = 2**24
AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""


class _Failed(Exception):
    """A try that may succeed later. ``wait`` is how long the endpoint asks to wait, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass
class Endpoint:
    """An endpoint that is asked inputs, each once."""

    url: str = field(repr=False)
    client: httpx.Client = field(repr=False)
    mapping: Mapping
    log: QueryLog
    classes: int
    budget: int | None = None
    say: Callable[[str], None] = lambda line: None
    _last: float = 0.0

    @staticmethod
    def sleep(seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def __call__(self, x: Tensor) -> Tensor:
        """The answers to inputs ``[n, ...]`` as logits ``[n, classes]``."""
        import torch

        names = [name_of(each) for each in x]
        new = {name: place for place, name in enumerate(names) if name not in self.log.answers}
        todo = list(new.items())
        size = max(1, self.mapping.request.batch)
        for start in range(0, len(todo), size):
            part = todo[start : start + size]
            self.log.add([name for name, _ in part], self._asked(x[[place for _, place in part]]))
        made = [self._logits(self.log.answers[name]) for name in names]
        return torch.cat(made) if made else torch.zeros(0, self.classes)

    def cost(self, x: Tensor) -> int:
        """Number of the inputs ``[n, ...]`` that are not answered yet."""
        return len({name_of(each) for each in x} - self.log.answers.keys())

    def can_ask(self, x: Tensor) -> bool:
        """True where the budget suffices for these inputs, each answered at the first try."""
        return self.budget is None or self.log.sent + self.cost(x) <= self.budget

    def _logits(self, answer: int | list[float]) -> Tensor:
        import torch

        if isinstance(answer, int):
            return labels_as_logits([answer], self.classes)
        made = torch.tensor([answer])
        return made.log().clamp_min(LEAST) if self.mapping.response.kind == "probabilities" else made

    def _asked(self, x: Tensor) -> list[int | list[float]]:
        """The answers to one request, tried again where that may help."""
        body = body_of(self.mapping.request, x)
        limits = self.mapping.limits
        for tried in range(limits.retries + 1):
            self._charge(len(x))
            try:
                said = self._sent(body)
            except _Failed as failed:
                wait = max(failed.wait, min(LONGEST, PAUSE * 2**tried))
                if tried == limits.retries or failed.wait > limits.patience:
                    asks = f" and asks to wait {failed.wait:.0f} s" if failed.wait > limits.patience else ""
                    raise UsageError(
                        f"{address(self.url)} {failed}{asks}, after {tried + 1} tries; {len(self.log.answers)} answers "
                        "are kept: the same command goes on"
                    ) from None
                self.say(f"{address(self.url)} {failed}: again in {wait:.1f} s")
                self.sleep(wait)
            else:
                return answers_in(self.mapping.response, said, len(x), self.classes, not self.mapping.request.batch)
        raise AssertionError("the last try ends the loop")

    def _charge(self, count: int) -> None:
        """Count inputs before they are sent. Raises :class:`UsageError` where they would pass the budget."""
        if self.budget is not None and self.log.sent + count > self.budget:
            raise UsageError(
                f"{count} more queries after {self.log.sent} would pass the budget of {self.budget}: "
                f"{len(self.log.answers)} answers are kept, and a larger --budget goes on"
            )
        self._wait_for_turn()
        self.log.sending(count)

    def _wait_for_turn(self) -> None:
        rate = self.mapping.limits.per_second
        if rate:
            ahead = self._last + 1 / rate - time.monotonic()
            if ahead > 0:
                self.sleep(ahead)
        self._last = time.monotonic()

    def _sent(self, body: Any) -> Any:
        """The JSON of a response. Raises :class:`_Failed`, or :class:`UsageError` where a further try cannot help."""
        import httpx

        limit = self.mapping.limits.timeout
        try:
            with self.client.stream("POST", self.url, json=body) as response:
                data, until = b"", time.monotonic() + limit
                for chunk in response.iter_bytes():
                    data += chunk
                    if time.monotonic() > until:
                        raise _Failed(f"does not end its answer within {limit:g} s")
                    if len(data) > MOST_BYTES:
                        raise UsageError(f"{address(self.url)} answers more than {MOST_BYTES >> 20} MiB")
        except httpx.TimeoutException:
            raise _Failed(f"does not answer within {limit:g} s") from None
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL):
            raise UsageError(f"{address(self.url)} cannot be asked: its address or a header is malformed") from None
        except httpx.HTTPError as error:  # its text may quote what was sent
            raise _Failed(f"cannot be reached ({type(error).__name__})") from None
        return self._content(response, data)

    def _content(self, response: httpx.Response, data: bytes) -> Any:
        status, name = response.status_code, address(self.url)
        if status in AGAIN:
            raise _Failed(f"answers {status} {response.reason_phrase}".rstrip(), _wait_of(response))
        if status in (401, 403):
            raise UsageError(
                f"{name} refuses ({status}): name a token in the mapping's [request.headers], such as "
                'Authorization = "Bearer ${API_TOKEN}", and export that variable'
            )
        if 300 <= status < 400:
            to = address(response.headers.get("location", ""))
            raise UsageError(f"{name} redirects ({status}) to {to}: type that address, redirects are not followed")
        if status >= 400:
            raise UsageError(f"{name} answers {status} {response.reason_phrase}: {_excerpt(data)}")
        try:
            return json.loads(data)
        except ValueError:
            kind = response.headers.get("content-type", "something").partition(";")[0]
            raise UsageError(f"{name} answers {printable(kind)} where JSON is expected: {_excerpt(data)}") from None


def _wait_of(response: httpx.Response) -> float:
    """The seconds that ``Retry-After`` asks to wait: a number, or a date."""
    said = response.headers.get("retry-after", "")
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _excerpt(data: bytes) -> str:
    return repr(printable(" ".join(data[:400].decode("utf-8", "replace").split()))[:80])


def is_url(text: str) -> bool:
    """True for the address of an endpoint."""
    return text.lower().startswith(("http://", "https://"))


def address(url: str) -> str:
    """A URL as it may be shown and stored: without the user, the query and the fragment, which may be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the address"
    return printable(f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}")


@contextmanager
def endpoint(
    url: str,
    mapping: Mapping,
    about: About,
    key: str,
    log: Path,
    budget: int | None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Suspect]:
    """The suspect behind a URL, whose ``${NAME}`` are taken from the environment. ``key`` names the owner's key.

    Raises :class:`UsageError`.
    """
    try:
        import httpx
    except ImportError as error:
        raise UsageError("an address needs httpx: type pip install httpx") from error
    headers = mapping.headers()
    full = from_environment(url, "the address")
    known = {"url": address(url), "key": key, "mapping": mapping.text()}
    with open_log(log, known) as opened:
        try:
            # Certificates are read where there is one to check, and no redirect leads to another.
            is_secure = full.lower().startswith("https:")
            client = httpx.Client(headers=headers, timeout=mapping.limits.timeout, verify=is_secure)
        except (ValueError, TypeError, UnicodeError, httpx.HTTPError):
            raise UsageError(f"{address(url)} cannot be asked: a header of the mapping is malformed") from None
        with client:
            asked = Endpoint(full, client, mapping, opened, about.classes, budget, say)
            answers: Answers = "labels" if mapping.response.kind == "labels" else "probabilities"
            yield Suspect("endpoint", asked, None, answers, max(1, mapping.request.batch), asked)
