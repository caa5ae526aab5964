"""An app with the unmodified Dapr SDK for Python that takes locks. Prints a line for each thing that worked; fails by an assertion."""

import sys
import time

from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._response import UnlockResponseStatus
from grpc import RpcError, StatusCode

store = sys.argv[1]

with DaprClient() as client:
    assert client.try_lock(store, "python-resource", "one", 60).success
    assert not client.try_lock(store, "python-resource", "other", 60).success
    print("lock")

    assert client.unlock(store, "python-resource", "other").status == UnlockResponseStatus.lock_belongs_to_others
    assert client.unlock(store, "python-resource", "one").status == UnlockResponseStatus.success
    assert client.unlock(store, "python-resource", "one").status == UnlockResponseStatus.lock_does_not_exist
    print("unlock")

    with client.try_lock(store, "python-scope", "one", 60) as lock:
        assert lock, "the lock is free"
        assert not client.try_lock(store, "python-scope", "other", 60)
    assert client.try_lock(store, "python-scope", "other", 60), "the end of the block releases it"
    print("scope")

    assert client.try_lock(store, "python-short", "one", 1).success
    deadline = time.monotonic() + 10
    while not client.try_lock(store, "python-short", "other", 60).success:
        assert time.monotonic() < deadline, "the lock does not end"
    print("expiry")

    try:
        client.try_lock("nowhere", "r", "o", 1)
        raise AssertionError("the call is refused")
    except RpcError as raw:  # the SDK wraps errors of state alone
        error = DaprGrpcError(raw)
        assert error.code() == StatusCode.INVALID_ARGUMENT, error
        assert error.details() == "lock store nowhere not found", error.details()
    print("error details")

print("done")
