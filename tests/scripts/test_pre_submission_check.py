"""The helper runs what it says, tells a failure from a skip, and says what to do."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import endpoints
import local_server
import pre_submission_check as helper


def _options(*arguments: str) -> argparse.Namespace:
    return helper.arguments().parse_args(arguments)


def _named(name: str, *arguments: str) -> helper.Check:
    return next(check for check in helper.checks(_options(*arguments)) if check.name == name)


def test_the_documented_flags_are_understood() -> None:
    options = _options(
        *("--skip-docker", "--space-url", "https://name.hf.space"),
        *("--run-openai-baseline", "--baseline-runtime", "in-process", "--model", "gpt-4.1-mini"),
    )
    assert options.skip_docker
    assert options.run_openai_baseline
    assert (options.space_url, options.model) == ("https://name.hf.space", "gpt-4.1-mini")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("docker", ["--skip-docker"]), ("space", []), ("openai", [])],
    ids=["docker", "space", "openai"],
)
def test_what_was_not_asked_for_is_skipped_and_named(name: str, arguments: list[str]) -> None:
    outcome = _named(name, *arguments).run()
    assert outcome.result == "skipped"
    assert outcome.detail


def test_the_openai_baseline_without_a_key_fails_and_says_which_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    outcome = _named("openai", "--run-openai-baseline").run()
    assert outcome.result == "FAILED"
    assert "OPENAI_API_KEY" in outcome.detail


def test_a_command_that_fails_shows_its_last_words_and_what_to_do() -> None:
    outcome = helper.command(["python", "-c", "raise SystemExit('the reason')"], remedy="Do this.")
    assert outcome.result == "FAILED"
    assert outcome.detail.endswith("the reason\nDo this.")


def test_a_command_that_is_not_there_or_does_not_end_fails() -> None:
    assert "no `no-such-command`" in helper.command(["no-such-command"], remedy="").detail
    slow = helper.command(["python", "-c", "import time; time.sleep(60)"], remedy="", timeout_s=0.5)
    assert "did not end" in slow.detail


def test_one_failure_does_not_stop_the_others_and_makes_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [
        helper.Check("first", "it works", lambda: helper.Outcome("FAILED", "Mend it.")),
        helper.Check("second", "it works", lambda: helper.Outcome("skipped", "not asked for")),
        helper.Check("third", "it works", lambda: helper.Outcome("passed")),
    ]
    assert helper.run(checks) == 1
    table = capsys.readouterr().out
    assert [line.split()[:2] for line in table.splitlines()[:1]] == [["first", "FAILED"]]
    assert "Mend it." in table
    assert "third" in table
    assert table.endswith("not ready: first failed\n")
    assert helper.run(checks[1:]) == 0


def test_the_checks_have_names_of_their_own() -> None:
    names = [check.name for check in helper.checks(_options())]
    assert len(names) == len(set(names)) == 7


@pytest.fixture
def babbler() -> Iterator[str]:
    """A server that answers everything with the same nonsense."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"hello": "world"}')

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_answers_nonsense_or_nothing_has_a_problem_at_every_endpoint(babbler: str) -> None:
    for url in (babbler, f"http://127.0.0.1:{local_server.free_port()}"):
        findings = endpoints.check(url)
        assert len(findings) == 12
        assert all(finding.problem for finding in findings)


def test_a_server_that_does_not_come_up_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    command = ("-c", "raise SystemExit('no, thank you')")
    with pytest.raises(RuntimeError, match="no, thank you"), local_server.running(tmp_path, command):
        pass


def test_this_projects_server_does_its_part_at_every_endpoint(tmp_path: Path) -> None:
    with local_server.running(tmp_path) as server:
        assert [finding for finding in endpoints.check(server.url) if finding.problem] == []
    assert server.process.returncode == 0
