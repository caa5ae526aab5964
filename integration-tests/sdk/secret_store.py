"""An app with the unmodified Dapr SDK for Python reads secrets. Prints a line for each thing that worked."""

from dapr.clients import DaprClient
from grpc import RpcError, StatusCode

with DaprClient() as client:
    assert client.get_secret("localsecretstore", "order").secret == {"order": "42"}
    print("get")

    secrets = client.get_bulk_secret("localsecretstore").secrets
    assert secrets == {"order": {"order": "42"}, "nested:key": {"nested:key": "v"}}, secrets
    print("bulk")

    try:
        client.get_secret("nowhere", "order")
        raise AssertionError("the call is refused")
    except RpcError as error:  # the SDK hands it on as it is here
        assert error.code() == StatusCode.INVALID_ARGUMENT, error
        assert error.details() == "failed finding secret store with key nowhere", error.details()
    print("refused")

print("done")
