"""An app with the unmodified Dapr SDK for Python. Prints a line for each thing that worked; fails by an assertion."""

import sys

from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._state import Concurrency, Consistency, StateItem, StateOptions
from grpc import StatusCode

store = sys.argv[1]


def refused(call, code, reason=None):
    try:
        call()
    except DaprGrpcError as error:
        assert error.code() == code, error
        if reason:
            assert error.error_code() == reason, error.error_code()
        return error
    raise AssertionError("the call is refused")


with DaprClient() as client:
    client.save_state(store, "python-order", "first")
    saved = client.get_state(store, "python-order")
    assert saved.data == b"first" and saved.etag, saved.data
    assert client.get_state(store, "python-missing").data == b""
    print("save and get")

    client.save_bulk_state(store, [StateItem(f"python-{n}", f"value {n}") for n in range(10)])
    items = client.get_bulk_state(store, [f"python-{n}" for n in range(10)] + ["python-missing"], parallelism=4).items
    assert [(item.key, item.data) for item in items[:10]] == [(f"python-{n}", f"value {n}".encode()) for n in range(10)]
    assert (items[10].key, items[10].data, items[10].etag) == ("python-missing", b"", "")
    print("bulk")

    client.save_state(store, "python-order", "second", etag=saved.etag)
    conflict = refused(lambda: client.save_state(store, "python-order", "third", etag=saved.etag), StatusCode.ABORTED)
    assert "possible etag mismatch" in conflict.details(), conflict.details()
    refused(lambda: client.delete_state(store, "python-order", etag=saved.etag), StatusCode.ABORTED)
    assert client.get_state(store, "python-order").data == b"second"
    print("etag conflict")

    options = StateOptions(consistency=Consistency.strong, concurrency=Concurrency.first_write)
    client.save_state(store, "python-once", "first", options=options)
    try:
        client.save_state(store, "python-once", "second", options=options)
        raise AssertionError("the second first-write is refused")
    except DaprGrpcError as error:
        assert error.code() in (StatusCode.ABORTED, StatusCode.INTERNAL), error
    assert client.get_state(store, "python-once").data == b"first"
    print("first write")

    client.execute_state_transaction(
        store,
        [
            TransactionalStateOperation(operation_type=TransactionOperationType.upsert, key="python-1", data="changed"),
            TransactionalStateOperation(operation_type=TransactionOperationType.delete, key="python-2"),
        ],
    )
    assert client.get_state(store, "python-1").data == b"changed"
    assert client.get_state(store, "python-2").data == b""
    print("transaction")

    client.delete_state(store, "python-order")
    assert client.get_state(store, "python-order").data == b""
    print("delete")

    refused(lambda: client.get_state("nowhere", "k"), StatusCode.INVALID_ARGUMENT, "DAPR_STATE_NOT_FOUND")
    print("error details")

    client.set_metadata("language", "python")
    metadata = client.get_metadata()
    assert metadata.application_id == "orders", metadata.application_id
    assert store in [component.name for component in metadata.registered_components]
    assert metadata.extended_metadata["language"] == "python"
    print("metadata")

print("done")
