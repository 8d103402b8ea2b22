"""Accounts at an OpenID provider that is not ours, opened with a real browser: its answer pasted, taken by the command itself, and by a device code."""

import json
import re
import subprocess
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import BIN, Node, end

# The programs of ./login, copied to where their packages are installed: Node.js looks for packages beside a program.
PROGRAMS = Path.home() / ".cache/keyrelay/login"
SECONDS = 120


def program(name, *arguments, **options):
    options = {"stderr": subprocess.PIPE, **options}
    return subprocess.Popen(["node", PROGRAMS / name, *arguments], stdout=subprocess.PIPE, text=True, **options)


class Provider:
    """The provider as a program, and what it says that it did."""

    def __init__(self, token_seconds):
        self.process = program("provider.mjs", str(token_seconds), stderr=subprocess.DEVNULL)
        self.issuer = json.loads(self.process.stdout.readline())["issuer"]
        self.told, self.changed = [], threading.Condition()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            with self.changed:
                self.told.append(json.loads(line))
                self.changed.notify_all()

    def count(self, event):
        return sum(line["event"] == event for line in self.told)

    def wait_for(self, event, count):
        with self.changed:
            assert self.changed.wait_for(lambda: self.count(event) >= count, SECONDS), self.told

    def knows(self, token):
        """Whose access token this is."""
        request = urllib.request.Request(self.issuer + "/me", headers={"authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)["sub"]


class Upstream(ThreadingHTTPServer):
    """Answers every request, and keeps the credential that it was shown last."""

    def __init__(self):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                self.shown = handler.headers["authorization"].removeprefix("Bearer ")
                handler.rfile.read(int(handler.headers["content-length"]))
                body = json.dumps({"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()
                handler.send_response(200)
                handler.send_header("content-type", "application/json")
                handler.send_header("content-length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.shown = None
        self.origin = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


CONFIG = """
[oauth.providers.example]
authorize_url = "{issuer}/auth"
token_url = "{issuer}/token"
device_url = "{issuer}/device/auth"
revoke_url = "{issuer}/token/revocation"
issuer = "{issuer}"
client_id = "keyrelay"
client_secret_file = "{secret}"
scopes = ["openid", "email", "offline_access"]
authorize_parameters = {{ prompt = "consent" }}
redirect_path = "/callback"
identity = "id_token"
shown_members = ["email"]
"""


class World:
    """A provider, an upstream that takes its tokens, and a node that knows both."""

    def __init__(self, directory, token_seconds=3600):
        self.provider, self.upstream = Provider(token_seconds), Upstream()
        secret, config = directory / "client.secret", directory / "keyrelay.toml"
        secret.touch(mode=0o600)
        secret.write_text("the-client-secret-of-the-tests")
        config.write_text(CONFIG.format(issuer=self.provider.issuer, secret=secret))
        self.node = Node(directory / "data", config)

    def close(self):
        for process in (self.node.process, self.provider.process):
            end(process)
        self.upstream.shutdown()

    def login(self, name, *arguments):
        command = [BIN / "keyrelay", "--data", self.node.data, "upstreams", "login", name, *arguments]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def new(self, name, *arguments):
        return self.login(name, "--provider", "example", "--dialect", "openai", "--base-url", self.upstream.origin + "/v1", *arguments)

    def answered(self):
        """The access token that the upstream was shown with a request."""
        key = self.node.new_key()
        request = urllib.request.Request(
            self.node.relay + "/v1/chat/completions",
            data=json.dumps({"model": "m", "messages": []}).encode(),
            headers={"authorization": f"Bearer {key['secret']}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200
        return self.upstream.shown


def told_until(process, pattern):
    """What a command says on standard error, up to a line that matches."""
    for line in process.stderr:
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"{pattern} was never said")


def browse(*arguments):
    browser = program("browser.mjs", *arguments)
    told, failed = browser.communicate(timeout=SECONDS)
    assert browser.returncode == 0, failed
    return json.loads(told)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


def test_an_account_is_opened_by_pasting_the_address_that_the_browser_ended_on(world):
    login = world.new("mail", "--paste", "--yes")
    landed = browse(told_until(login, r"^(http\S+)")[1], "ada")["landed"]
    _, told = login.communicate(landed + "\n", timeout=SECONDS)
    assert login.returncode == 0, told
    assert "Authentication successful! Token has been saved." in told
    assert world.provider.knows(world.answered()) == "ada"
    # The same address is nothing to another login, and its code is not tried again.
    login = world.login("mail", "--paste", "--yes")
    told_until(login, r"^(http\S+)")
    _, told = login.communicate(landed + "\n", timeout=SECONDS)
    assert login.returncode != 0 and "invalid state" in told, told
    assert world.provider.count("authorization_code.consumed") == 1


def test_the_command_takes_the_answer_itself_where_the_browser_is_on_its_machine(world):
    login = world.new("mail", "--yes")
    seen = browse(told_until(login, r"^(http\S+)")[1], "bob")
    _, told = login.communicate(timeout=SECONDS)
    assert login.returncode == 0, told
    assert "Go on in the terminal" in seen["text"]
    assert world.provider.knows(world.answered()) == "bob"
    # Another account than before is not taken for the same upstream, and is given back.
    login = world.login("mail", "--yes")
    browse(told_until(login, r"^(http\S+)")[1], "eve")
    _, told = login.communicate(timeout=SECONDS)
    assert login.returncode != 0 and "oauth_account_mismatch" in told, told
    world.provider.wait_for("grant.revoked", 1)
    assert world.provider.knows(world.answered()) == "bob"


def test_a_device_code_opens_an_account(world):
    login = world.new("mail", "--device", "--yes")
    url = told_until(login, r"Open (http\S+)")[1]
    code = told_until(login, r"^([A-Z0-9-]{6,})$")[1]
    browse(url, "cyd", code)
    _, told = login.communicate(timeout=SECONDS)
    assert login.returncode == 0, told
    assert world.provider.knows(world.answered()) == "cyd"


def test_tokens_that_are_good_once_are_refreshed_as_long_as_it_is_served(tmp_path):
    world = World(tmp_path, token_seconds=20)
    try:
        login = world.new("mail", "--paste", "--yes")
        landed = browse(told_until(login, r"^(http\S+)")[1], "dan")["landed"]
        _, told = login.communicate(landed + "\n", timeout=SECONDS)
        assert login.returncode == 0, told
        first = world.answered()
        world.provider.wait_for("refresh_token.consumed", 2)
        second = world.answered()
        assert second != first and world.provider.knows(second) == "dan"
        assert world.provider.count("grant.revoked") == 0, "no refresh token was shown twice"
    finally:
        world.close()
