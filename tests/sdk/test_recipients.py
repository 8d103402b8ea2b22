"""Exports that are sealed to recipients of age, with an implementation of age that is not ours (rage, through pyrage)."""

import json
import urllib.request

import pyrage
from pyrage import x25519


def export(node, recipients):
    request = urllib.request.Request(
        node.admin + "/api/v1/export?recipients=" + ",".join(recipients), headers={"authorization": f"Bearer {node.token}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def imported(node, file, identity):
    request = urllib.request.Request(
        node.admin + "/api/v1/import?dry_run=true",
        method="POST",
        data=file,
        headers={"authorization": f"Bearer {node.token}", "content-type": "application/x-ndjson", "keyrelay-identity": str(identity)},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [json.loads(line) for line in answer.read().splitlines()]


def test_rage_opens_the_key_of_a_file_and_its_identities_open_the_file(node):
    node.new_key(description="for the build")
    ada, bob = x25519.Identity.generate(), x25519.Identity.generate()
    file = export(node, [str(ada.to_public()), str(bob.to_public())])
    sealed = json.loads(file.splitlines()[0])["sealing"]["sealed_key"].encode()
    keys = {pyrage.decrypt(sealed, [identity]) for identity in (ada, bob)}
    assert len(keys) == 1 and len(keys.pop()) == 32
    told = imported(node, file, ada)
    assert told[-1]["event"] == "done" and told[-1]["conflicts"] == 0, told


def test_rage_says_that_a_stranger_opens_nothing(node):
    ada, stranger = x25519.Identity.generate(), x25519.Identity.generate()
    sealed = json.loads(export(node, [str(ada.to_public())]).splitlines()[0])["sealing"]["sealed_key"].encode()
    try:
        pyrage.decrypt(sealed, [stranger])
    except pyrage.DecryptError:
        return
    raise AssertionError("a stranger opened it")
