// An app with the unmodified Dapr SDK for JavaScript over HTTP, which is its default. Prints a line for each thing that worked; fails by an
// assertion.

const assert = require("node:assert/strict");
const { DaprClient, StateConcurrencyEnum, StateConsistencyEnum } = require("@dapr/dapr");

// Statuses of a release: the SDK does not export its enumeration.
const [SUCCESS, DOES_NOT_EXIST, BELONGS_TO_OTHERS] = [0, 1, 2];

const store = process.argv[2];
const endpoint = `http://127.0.0.1:${process.env.DAPR_HTTP_PORT}`;

// The SDK gives what went wrong as JSON in the text of an error.
function told(error) {
  const { status, error_msg: body } = JSON.parse(error.message);
  return { status, ...JSON.parse(body) };
}

async function main() {
  const client = new DaprClient({ daprHost: "127.0.0.1", daprPort: process.env.DAPR_HTTP_PORT });
  const { state } = client;

  assert.deepEqual(await state.save(store, [{ key: "http-order", value: { id: 7, items: ["a", "b"] } }]), {});
  assert.deepEqual(await state.get(store, "http-order"), { id: 7, items: ["a", "b"] });
  assert.equal(await state.get(store, "http-missing"), "");
  await state.save(store, [{ key: "http-text", value: "zażółć" }], { metadata: { ttlInSeconds: "60" } });
  assert.equal(await state.get(store, "http-text", { consistency: StateConsistencyEnum.CONSISTENCY_STRONG }), "zażółć");
  console.log("save and get");

  const keys = [...Array(10).keys()].map((n) => `http-${n}`);
  await state.save(store, keys.map((key) => ({ key, value: `value of ${key}` })));
  const items = await state.getBulk(store, [...keys, "http-missing"], { parallelism: 4 });
  assert.deepEqual(items.slice(0, 10).map(({ key, data }) => [key, data]), keys.map((key) => [key, `value of ${key}`]));
  assert.deepEqual(items[10], { key: "http-missing" });
  console.log("bulk");

  const etag = items[0].etag;
  assert.deepEqual(await state.save(store, [{ key: "http-0", value: "second", etag }]), {});
  const { error } = await state.save(store, [{ key: "http-0", value: "third", etag }]);
  assert.equal(told(error).status, 409);
  assert.equal(told(error).errorCode, "ERR_STATE_SAVE");
  assert.match(told(error).message, /possible etag mismatch/);
  const kept = await state.delete(store, "http-0", { etag });
  assert.equal(told(kept.error).errorCode, "ERR_STATE_DELETE");
  assert.equal(await state.get(store, "http-0"), "second");
  console.log("etag conflict");

  const options = {
    concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE,
    consistency: StateConsistencyEnum.CONSISTENCY_STRONG,
  };
  await state.save(store, [{ key: "http-once", value: "first", options }]);
  assert.ok((await state.save(store, [{ key: "http-once", value: "second", options }])).error);
  assert.equal(await state.get(store, "http-once"), "first");
  console.log("first write");

  await state.transaction(store, [
    { operation: "upsert", request: { key: "http-1", value: "changed" } },
    { operation: "delete", request: { key: "http-2" } },
  ]);
  assert.equal(await state.get(store, "http-1"), "changed");
  assert.equal(await state.get(store, "http-2"), "");
  console.log("transaction");

  await state.delete(store, "http-order");
  assert.equal(await state.get(store, "http-order"), "");
  console.log("delete");

  const unknown = told(await state.get("nowhere", "k").then(() => assert.fail("it is refused"), (error) => error));
  assert.deepEqual([unknown.status, unknown.errorCode], [400, "ERR_STATE_STORE_NOT_FOUND"]);
  assert.match(unknown.message, /state store nowhere is not found/);
  const query = told(await state.query(store, { filter: {} }).then(() => assert.fail("it is refused"), (error) => error));
  assert.deepEqual([query.status, query.message], [501, "state store does not support querying"]);
  console.log("errors");

  assert.equal((await client.lock.lock(store, "http-resource", "one", 60)).success, true);
  assert.equal((await client.lock.lock(store, "http-resource", "other", 60)).success, false);
  const unlock = async (owner) => (await client.lock.unlock(store, "http-resource", owner)).status;
  assert.equal(await unlock("other"), BELONGS_TO_OTHERS);
  assert.equal(await unlock("one"), SUCCESS);
  assert.equal(await unlock("one"), DOES_NOT_EXIST);
  console.log("lock");

  assert.deepEqual(await client.secret.get("secrets", "ORDER"), { ORDER: "42" });
  assert.deepEqual(await client.secret.getBulk("secrets"), { ORDER: { ORDER: "42" } });
  console.log("secrets");

  // The SDK itself has no calls for configuration over HTTP, so the app makes them.
  await assert.rejects(client.configuration.get(store, ["http-a"]), /HTTP/i);
  const saved = await fetch(`${endpoint}/v1.0-alpha1/configuration/${store}`, {
    method: "POST",
    body: JSON.stringify({ items: [{ key: "http-a", value: "1" }] }),
  });
  assert.equal(saved.status, 204);
  const read = await fetch(`${endpoint}/v1.0/configuration/${store}?key=http-a&key=http-none`);
  assert.equal((await read.json())["http-a"].value, "1");
  console.log("configuration");

  await client.metadata.set("language", "js");
  const metadata = await client.metadata.get();
  assert.equal(metadata.id, "orders");
  assert.equal(metadata.extended.language, "js");
  assert.ok(metadata.components.some(({ name }) => name === store));
  assert.equal(await client.health.isHealthy(), true);
  console.log("metadata");

  await client.stop();
  console.log("done");
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
