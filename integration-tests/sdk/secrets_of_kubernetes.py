"""The client of Kubernetes, unmodified, on secrets. Arguments: the URL, a token for all, one for the namespace `team`, the CA or nothing."""

import base64
import json
import sys

from kubernetes import client
from kubernetes.client.exceptions import ApiException

url, token, token_of_team, *authority = sys.argv[1:]


def api(token):
    configuration = client.Configuration(host=url)
    configuration.proxy = None
    if authority:
        configuration.ssl_ca_cert = authority[0]
    if token:
        configuration.api_key = {"authorization": f"Bearer {token}"}
    return client.CoreV1Api(client.ApiClient(configuration))


def expect(expected, actual):
    assert expected == actual, f"expected {expected!r}, got {actual!r}"


def expect_status(code, reason, call):
    try:
        call()
    except ApiException as error:
        expect(code, error.status)
        body = json.loads(error.body)
        expect(("Status", "Failure", reason, code), (body["kind"], body["status"], body["reason"], body["code"]))
        return body
    raise AssertionError(f"no {code}")


core = api(token)
secret = core.read_namespaced_secret("db", "default")
expect(("db", "default", "Opaque"), (secret.metadata.name, secret.metadata.namespace, secret.type))
expect({"password": b"secret", "binary": b"\x00\xff"}, {key: base64.b64decode(value) for key, value in secret.data.items()})
expect(None, core.read_namespaced_secret("empty", "default").data)
body = expect_status(404, "NotFound", lambda: core.read_namespaced_secret("absent", "default"))
expect(('secrets "absent" not found', {"name": "absent", "kind": "secrets"}), (body["message"], body["details"]))
print("get")

expect(["db", "empty", "zebra"], [item.metadata.name for item in core.list_namespaced_secret("default").items])
expect([], core.list_namespaced_secret("nowhere").items)
page = core.list_namespaced_secret("default", limit=2)
expect(["db", "empty"], [item.metadata.name for item in page.items])
page = core.list_namespaced_secret("default", limit=2, _continue=page.metadata._continue)
expect((["zebra"], None), ([item.metadata.name for item in page.items], page.metadata._continue))
print("list")

team = api(token_of_team)
expect("theirs", team.read_namespaced_secret("theirs", "team").metadata.name)
body = expect_status(403, "Forbidden", lambda: team.list_namespaced_secret("default"))
assert 'User "system:serviceaccount:default:of-team" cannot list resource "secrets"' in body["message"], body
expect_status(403, "Forbidden", lambda: team.read_namespaced_secret("db", "default"))
expect_status(401, "Unauthorized", lambda: api("wrong").list_namespaced_secret("default"))
body = expect_status(403, "Forbidden", lambda: api(None).list_namespaced_secret("default"))
assert "system:anonymous" in body["message"], body
print("tokens")
