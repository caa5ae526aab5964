"""hvac, unmodified, on the KV engine. Arguments: the URL, a token that may do all, one that may read below `dapr/`, the CA or nothing."""

import sys

import hvac
from hvac import exceptions

url, root_token, reader_token, *authority = sys.argv[1:]
verify = authority[0] if authority else True


def client(token, **options):
    return hvac.Client(url=url, token=token, verify=verify, **options)


def expect(expected, actual):
    assert expected == actual, f"expected {expected!r}, got {actual!r}"


def expect_raises(kind, call, text=""):
    try:
        call()
    except kind as error:
        assert text in str(error), f"{text!r} is not in {error}"
        return error
    raise AssertionError(f"no {kind.__name__}")


root = client(root_token)
kv = root.secrets.kv.v2

expect(False, root.sys.read_health_status(method="GET")["sealed"])
print("health")

expect(1, kv.create_or_update_secret("dapr/db", {"user": "orders", "password": "one"})["data"]["version"])
expect(2, kv.create_or_update_secret("dapr/db", {"user": "orders", "password": "two"}, cas=1)["data"]["version"])
expect_raises(exceptions.InvalidRequest, lambda: kv.create_or_update_secret("dapr/db", {}, cas=1), "check-and-set")
print("write")

read = kv.read_secret_version("dapr/db", raise_on_deleted_version=True)["data"]
expect({"user": "orders", "password": "two"}, read["data"])
expect(2, read["metadata"]["version"])
first = kv.read_secret_version("dapr/db", version=1, raise_on_deleted_version=True)["data"]
expect("one", first["data"]["password"])
expect_raises(exceptions.InvalidPath, lambda: kv.read_secret_version("dapr/db", version=9, raise_on_deleted_version=True))
expect_raises(exceptions.InvalidPath, lambda: kv.read_secret_version("dapr/absent", raise_on_deleted_version=True))
print("read")

kv.create_or_update_secret("dapr/deep/er", {"k": "v"})
kv.create_or_update_secret("other", {"k": "v"})
expect(["db", "deep/"], kv.list_secrets("dapr")["data"]["keys"])
expect(["dapr/", "other"], kv.list_secrets("")["data"]["keys"])
expect_raises(exceptions.InvalidPath, lambda: kv.list_secrets("absent"))
print("list")

kv.delete_latest_version_of_secret("dapr/db")
expect_raises(exceptions.InvalidPath, lambda: kv.read_secret_version("dapr/db", raise_on_deleted_version=True))
deleted = kv.read_secret_version("dapr/db", raise_on_deleted_version=False)["data"]
expect(None, deleted["data"])
assert deleted["metadata"]["deletion_time"]
expect(2, kv.read_secret_metadata("dapr/db")["data"]["current_version"])
kv.undelete_secret_versions("dapr/db", [2])
expect("two", kv.read_secret_version("dapr/db", raise_on_deleted_version=True)["data"]["data"]["password"])
kv.delete_metadata_and_all_versions("dapr/db")
expect_raises(exceptions.InvalidPath, lambda: kv.read_secret_metadata("dapr/db"))
print("delete")

reader = client(reader_token).secrets.kv.v2
expect("v", reader.read_secret_version("dapr/deep/er", raise_on_deleted_version=True)["data"]["data"]["k"])
for refused in (
    lambda: reader.read_secret_version("other", raise_on_deleted_version=True),
    lambda: reader.create_or_update_secret("dapr/x", {"k": "v"}),
    lambda: client("wrong").secrets.kv.v2.read_secret_version("other", raise_on_deleted_version=True),
    lambda: client(None).secrets.kv.v2.read_secret_version("other", raise_on_deleted_version=True),
):
    expect_raises(exceptions.Forbidden, refused, "permission denied")
print("tokens")

team = client(root_token, namespace="team").secrets.kv.v2
read = team.read_secret_version("k", mount_point="own", raise_on_deleted_version=True)
expect("of the team", read["data"]["data"]["whose"])
expect_raises(
    exceptions.InvalidPath,
    lambda: kv.read_secret_version("k", mount_point="own", raise_on_deleted_version=True),
    "no handler for route",
)
print("namespaces")
