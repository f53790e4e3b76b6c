"""A language model as judge: grammar, creativity, consistency and plot, 1 to 10, as TinyStories has it.

    judge = Judge("http://localhost:8000/v1", "gpt-4o", key=os.environ["OPENAI_API_KEY"])
    judge.grade("Once upon a time.", "There was a cat.")      # {"grammar": 8.0, …}, or {} if it did not say

Two turns, as in the paper: first it is asked what it makes of the text, then for the grades. Any endpoint that speaks
OpenAI's chat completions will do. Texts go to that endpoint and to no other place; the key is never shown.
Source: Eldan & Li 2023 (arXiv 2305.07759), 3.1.
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import RunError, UserError
from ..io.files import load_json

GRADES = ("grammar", "creativity", "consistency", "plot")
LOOK = (
    "The following exercise: a writer is given the beginning of a text and continues it. The symbol *** marks where "
    "the beginning ends and the writer's own part starts:\n\n{beginning}\n*** {written}\n\n"
    "Give your general assessment of the part the writer wrote, the one after the symbol ***. Is it grammatically "
    "correct? Is it consistent with the beginning? Pay special attention to whether the writer manages to complete the "
    "sentence or text that was begun."
)
ASK = (
    "Now grade the writer's part in terms of grammar, creativity, consistency with the beginning, and whether the plot "
    "makes sense, each from 1 to 10. Answer with one JSON object and nothing else: "
    '{"grammar": 1, "creativity": 1, "consistency": 1, "plot": 1}'
)
AGAIN = (408, 409, 429, 500, 502, 503, 504)  # worth another try


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key goes to the endpoint that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class Judge:
    """An endpoint and a model of it. `retries` more tries, ever later, where the endpoint is busy or out of reach."""

    endpoint: str
    model: str
    key: str = ""
    timeout: float = 60.0
    retries: int = 4
    wait: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/]", self.endpoint):
            raise UserError(f"{self.endpoint!r} is no endpoint", "give its base: --endpoint https://api.openai.com/v1")
        if not self.model:
            raise UserError("no judge named", "name a model of the endpoint: --judge-model gpt-4o")

    def grade(self, beginning: str, written: str) -> dict[str, float]:
        """A continuation's grades; {} where the judge names none, asked twice."""
        talk = [{"role": "user", "content": LOOK.format(beginning=beginning, written=written)}]
        talk += [{"role": "assistant", "content": self.ask(talk)}, {"role": "user", "content": ASK}]
        for _ in range(2):
            if found := grades(self.ask(talk)):
                return found
        return {}

    def ask(self, talk: list[dict[str, str]]) -> str:
        """The judge's next message. RunError, in one line, where the endpoint gives none."""
        body = json.dumps({"model": self.model, "messages": talk, "temperature": 0}).encode()
        url = self.endpoint.rstrip("/") + "/chat/completions"
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(url, body, headers)
        for attempt in range(self.retries + 1):
            try:
                with urllib.request.build_opener(_Stay).open(request, timeout=self.timeout) as reply:
                    return _content(reply.read(), url)
            except urllib.error.HTTPError as error:
                said = _first_line(error.read(2000))
                if error.code not in AGAIN or attempt == self.retries:
                    cure = "check the key" if error.code in (401, 403) else "check --endpoint and --judge-model"
                    raise RunError(f"{url} answers {error.code}{said}", cure) from None
                delay = _seconds(error.headers.get("Retry-After"), 2.0**attempt)
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                if attempt == self.retries:
                    reason = getattr(error, "reason", None) or error or "no answer"
                    raise RunError(f"{url} can't be reached: {reason}", "check --endpoint and the network") from None
                delay = 2.0**attempt
            self.wait(delay)
        raise AssertionError  # the last attempt returns or raises


def grades(text: str) -> dict[str, float]:
    """The four grades in a reply: a JSON object, or "Grammar: 8/10" and so on; {} unless all are there, 1 to 10."""
    found = {}
    for name in GRADES:
        match = re.search(rf"{name}\W{{0,6}}(?:\w+\W{{1,6}}){{0,3}}?(\d+(?:\.\d+)?)", text, re.IGNORECASE)
        if match and 1 <= float(match[1]) <= 10:
            found[name] = float(match[1])
    return found if len(found) == len(GRADES) else {}


def _content(data: bytes, url: str) -> str:
    try:
        return str(load_json(data)["choices"][0]["message"]["content"] or "")
    except (ValueError, KeyError, IndexError, TypeError):
        raise RunError(f"{url} does not answer as OpenAI's does", "check --endpoint: it mostly ends in /v1") from None


def _first_line(data: bytes) -> str:
    """What an error reply says, if it says it as OpenAI's does."""
    try:
        return ": " + " ".join(str(load_json(data)["error"]["message"]).split())[:200]
    except (ValueError, KeyError, TypeError):
        return ""


def _seconds(header: str | None, default: float) -> float:
    return min(60.0, float(header)) if header and re.fullmatch(r"\d+(\.\d+)?", header) else default
