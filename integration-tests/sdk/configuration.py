"""An app with the unmodified Dapr SDK for Python: `live` is written all the time by the test. Prints a line for each thing that worked."""

import threading

from dapr.clients import DaprClient

STORE = "config"

with DaprClient() as client:
    items = client.get_configuration(STORE, keys=["first", "second", "missing"], config_metadata={}).items
    assert sorted(items) == ["first", "second"], items
    assert (items["first"].value, items["first"].version) == ("1", "7"), items
    assert "first" in client.get_configuration(STORE, keys=[], config_metadata={}).items
    print("get")

    changes = []
    enough = threading.Event()

    def changed(id, response):
        changes.extend((key, int(item.value)) for key, item in response.items.items())
        if len(changes) >= 5:
            enough.set()

    id = client.subscribe_configuration(STORE, keys=["live"], handler=changed, config_metadata={})
    assert id, id
    assert enough.wait(30), changes
    assert all(key == "live" for key, _ in changes), changes
    values = [value for _, value in changes]
    assert values == sorted(set(values)), values
    print("subscribe")

    assert client.unsubscribe_configuration(STORE, id)
    print("unsubscribe")

print("done")
