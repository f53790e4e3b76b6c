"""The judge against a server on this machine that speaks as OpenAI's does, and misbehaves as real ones do."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sonarllm_cli.errors import RunError, UserError
from sonarllm_cli.runtime import choose
from sonarllm_cli.score.judge import Judge, grades
from sonarllm_cli.score.tasks import evaluate
from sonarllm_cli.score.writers import judged

GOOD = '{"grammar": 8, "creativity": 6, "consistency": 7.5, "plot": 5}'
WANT = {"grammar": 8.0, "creativity": 6.0, "consistency": 7.5, "plot": 5.0}


@pytest.fixture
def server():
    """Answers with what stands in `replies`, each (status, text of the message or raw bytes, headers); then GOOD."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append((self.path, self.headers.get("Authorization"), body))
            status, said, headers = server.replies.pop(0) if server.replies else (200, GOOD, {})
            raw = json.dumps({"choices": [{"message": {"content": said}}]}).encode() if isinstance(said, str) else said
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.replies, server.asked = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def judge(server, **options):
    waits = []
    made = Judge(server.url, "m", key="secret", wait=waits.append, **options)
    return made, waits


def test_it_asks_in_two_turns_and_reads_the_grades(server):
    server.replies = [(200, "Looks {fine}.", {})]
    assert judge(server)[0].grade("A {beginning}.", "A cat sat.") == WANT
    (path, key, first), (_, _, second) = server.asked
    assert path == "/v1/chat/completions" and key == "Bearer secret" and first["model"] == "m"
    assert "A {beginning}.\n*** A cat sat." in first["messages"][0]["content"]
    assert [m["role"] for m in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][1]["content"] == "Looks {fine}."


def test_a_busy_endpoint_is_asked_again_ever_later(server):
    busy = (503, b"", {})
    server.replies = [busy, (429, b"", {"Retry-After": "7"}), busy, (200, "well", {})]
    asked, waits = judge(server)
    assert asked.grade("A", "B") == WANT and waits == [1.0, 7.0, 4.0]


def test_a_refusal_is_one_line_without_the_key(server):
    server.replies = [(401, json.dumps({"error": {"message": "wrong\nkey"}}).encode(), {})]
    with pytest.raises(RunError) as error:
        judge(server)[0].grade("A", "B")
    assert str(error.value) == f"{server.url}/chat/completions answers 401: wrong key; check the key"
    assert len(server.asked) == 1


def test_the_key_follows_no_redirect(server):
    server.replies = [(302, b"", {"Location": server.url.replace("/v1", "/elsewhere")})]
    with pytest.raises(RunError, match="answers 302"):
        judge(server)[0].grade("A", "B")
    assert len(server.asked) == 1


def test_what_is_no_answer_is_named(server):
    server.replies = [(200, b"<html>", {})]
    with pytest.raises(RunError, match="does not answer as OpenAI's does"):
        judge(server)[0].grade("A", "B")


def test_a_judge_without_grades_is_asked_twice_and_then_passed_over(server):
    server.replies = [(200, "Fine.", {}), (200, "I'd rather not.", {}), (200, "Grammar: 11/10", {})]
    assert judge(server)[0].grade("A", "B") == {} and len(server.asked) == 3


def test_nobody_there_is_one_line_after_all_tries(server):
    server.shutdown()
    server.server_close()
    asked, waits = judge(server, retries=2)
    with pytest.raises(RunError, match="can't be reached"):
        asked.ask([])
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (GOOD, WANT),
        ("Grammar: 8/10, Creativity: 6/10, Consistency: 7.5/10, Plot: 5/10", WANT),
        ("**Grammar score**: 8\n**Creativity** - 6\nConsistency = 7.5\nPlot is a 5", WANT),
        ('{"grammar": 8, "creativity": 6, "consistency": 7}', {}),
        ('{"grammar": 0, "creativity": 6, "consistency": 7, "plot": 1}', {}),
    ],
)
def test_grades_are_read_as_judges_write_them(text, want):
    assert grades(text) == want


@pytest.mark.parametrize("endpoint", ["", "localhost:80", "file:///etc/passwd", "ftp://x"])
def test_what_is_no_endpoint_is_refused(endpoint):
    with pytest.raises(UserError, match="is no endpoint"):
        Judge(endpoint, "m")


def test_the_task_is_a_mean_over_the_texts_that_were_graded(home, server, tmp_path):
    rows = [{"text": f"It is tool {i}. It works. It is fast. It is free."} for i in range(2)]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    server.replies = [(200, "Fine.", {}), (200, "no", {}), (200, "no", {})]
    run = judged(judge(server)[0])
    found = evaluate("judge", "tiny-llm", [str(tmp_path / "docs.jsonl")], runtime=choose("cpu"), beam=1, run=run)
    assert found["figures"] == WANT | {"graded": 1, "texts": 2}
    assert [s["grades"] for s in found["samples"]] == [{}, WANT]
