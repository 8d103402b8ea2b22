"""One scripted upstream, one node, one key; the SDKs talk to both."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest

BIN = Path(os.environ.get("KEYRELAY_BIN", Path.home() / ".cache/keyrelay/target/debug"))
CREDENTIAL = "sk-provider-of-the-sdk-tests"


class Upstream:
    """The scripted upstream as a program."""

    def __init__(self):
        self.process = subprocess.Popen([BIN / "scripted-upstream"], stdout=subprocess.PIPE, text=True)
        self.origin = json.loads(self.process.stdout.readline())["origin"]

    def counted(self):
        """What it says it was asked and answered: requests, and the tokens of the usage it reported."""
        with urllib.request.urlopen(self.origin + "/scripted") as answer:
            return json.load(answer)


class Node:
    """A node on a directory of its own."""

    def __init__(self, data, config=None):
        self.data = data
        environment = {"PATH": os.environ["PATH"], "KEYRELAY_RELAY_ALLOW_PRIVATE_UPSTREAMS": "true"}
        self.stderr = open(data.parent / "stderr", "wb")
        self.process = subprocess.Popen(
            [BIN / "keyrelay", "serve", *(["--config", config] if config else []), "--data", data, "--relay-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line, (data.parent / "stderr").read_text()
        ready = json.loads(line)
        self.relay, self.admin = ready["relay"], ready["admin"]
        self.token = (data / "owner.token").read_text().strip()

    def call(self, method, path, body=None):
        request = urllib.request.Request(
            self.admin + "/api/v1" + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.token}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def new_key(self, **rules):
        return self.call("POST", "/keys", {"name": "sdk", "expires": "never", **rules})

    def usage_of(self, key):
        rows = self.call("GET", "/usage?group_by=key")["usage"]
        return next((row for row in rows if row["key"] == key), None)


def end(process):
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def upstream():
    upstream = Upstream()
    yield upstream
    end(upstream.process)


@pytest.fixture(scope="session")
def node(tmp_path_factory, upstream):
    node = Node(tmp_path_factory.mktemp("node") / "data")
    for dialect, base_url in (("openai", upstream.origin + "/v1"), ("anthropic", upstream.origin)):
        node.call("POST", "/upstreams", {"name": dialect, "dialect": dialect, "base_url": base_url, "credential": CREDENTIAL})
    yield node
    end(node.process)
    node.stderr.close()


@pytest.fixture
def key(node):
    return node.new_key()
