"""A client made by a stock generator from the committed document runs a key's life."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

# The generator takes each media type that it knows; ours for archives and metrics it is told about. No formatting afterwards.
CONFIG = """
content_type_overrides:
  application/x-tar: application/octet-stream
  application/wasm: application/octet-stream
  application/jsonl: application/octet-stream
  application/x-ndjson: application/octet-stream
  application/openmetrics-text: text/plain
post_hooks: []
"""
DOCUMENTS = sorted((Path(__file__).parents[2] / "openapi").glob("*.json"))


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """The package that openapi-python-client makes, imported."""
    assert len(DOCUMENTS) == 1, f"one committed document is expected, there are {DOCUMENTS}"
    folder = tmp_path_factory.mktemp("client")
    generator = Path(sys.executable).with_name("openapi-python-client")
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    command = [generator, "generate", "--path", DOCUMENTS[0], "--output-path", folder / "generated", "--meta", "none", "--config", config]
    command.append("--fail-on-warning")
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    sys.path.insert(0, str(folder))
    yield importlib.import_module("generated")
    sys.path.remove(str(folder))


def test_a_generated_client_runs_a_keys_life(generated, node):
    client = generated.AuthenticatedClient(base_url=node.admin, token=node.token, raise_on_unexpected_status=True)
    models = importlib.import_module("generated.models")

    def call(operation, *path, body=None):
        module = importlib.import_module(f"generated.api.keys.{operation}")
        arguments = {"client": client}
        if body is not None:
            arguments["body"] = body
        answer = module.sync_detailed(*path, **arguments)
        assert 200 <= answer.status_code < 300, (operation, answer)
        return answer.parsed

    created = call("create_key", body=models.NewKey(name="generated", expires_in="1h"))
    assert created.secret.startswith("sk-kr-")
    key = created.key.id
    assert call("renew_key", key, body=models.Renewal(expires_in="2h")).key.version == 2
    rotated = call("rotate_key", key, body=models.Rotation(overlap="1m"))
    assert rotated.secret != created.secret
    call("disable_key", key, body=models.Reason(reason="for now"))
    call("enable_key", key, body=models.Nothing())
    revoked = call("revoke_key", key, body=models.Reason(reason="leaked"))
    assert revoked.key.state == "revoked"
    shown = call("show_key", key)
    assert shown.key.version == 6
    assert key in [one.id for one in call("list_keys").keys]
