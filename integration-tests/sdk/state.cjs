// An app with the unmodified Dapr SDK for JavaScript, over gRPC. Prints a line for each thing that worked; fails by an assertion.

const assert = require("node:assert/strict");
const { CommunicationProtocolEnum, DaprClient, StateConcurrencyEnum, StateConsistencyEnum } = require("@dapr/dapr");

const ABORTED = 10;
const INTERNAL = 13;
const INVALID_ARGUMENT = 3;

const store = process.argv[2];

async function refused(call, ...codes) {
  const error = await call().then(() => assert.fail("the call is refused"), (error) => error);
  assert.ok(codes.includes(error.code), `${error.code} ${error.message}`);
  return error;
}

async function main() {
  const client = new DaprClient({
    daprHost: "127.0.0.1",
    daprPort: process.env.DAPR_GRPC_PORT,
    communicationProtocol: CommunicationProtocolEnum.GRPC,
  });

  await client.state.save(store, [{ key: "js-order", value: { id: 7, items: ["a", "b"] } }]);
  assert.deepEqual(await client.state.get(store, "js-order"), { id: 7, items: ["a", "b"] });
  assert.equal(await client.state.get(store, "js-missing"), "");
  console.log("save and get");

  const keys = [...Array(10).keys()].map((n) => `js-${n}`);
  await client.state.save(store, keys.map((key) => ({ key, value: `value of ${key}` })));
  const items = await client.state.getBulk(store, [...keys, "js-missing"], { parallelism: 4 });
  assert.deepEqual(items.slice(0, 10).map(({ key, data }) => [key, data]), keys.map((key) => [key, `value of ${key}`]));
  assert.deepEqual(items[10], { key: "js-missing", data: "", etag: "" });
  console.log("bulk");

  const etag = items[0].etag;
  await client.state.save(store, [{ key: "js-0", value: "second", etag }]);
  const conflict = await refused(() => client.state.save(store, [{ key: "js-0", value: "third", etag }]), ABORTED);
  assert.match(conflict.message, /possible etag mismatch/);
  await refused(() => client.state.delete(store, "js-0", { etag }), ABORTED);
  assert.equal(await client.state.get(store, "js-0"), "second");
  console.log("etag conflict");

  const options = {
    concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE,
    consistency: StateConsistencyEnum.CONSISTENCY_STRONG,
  };
  await client.state.save(store, [{ key: "js-once", value: "first", options }]);
  await refused(() => client.state.save(store, [{ key: "js-once", value: "second", options }]), ABORTED, INTERNAL);
  assert.equal(await client.state.get(store, "js-once"), "first");
  console.log("first write");

  await client.state.transaction(store, [
    { operation: "upsert", request: { key: "js-1", value: "changed" } },
    { operation: "delete", request: { key: "js-2" } },
  ]);
  assert.equal(await client.state.get(store, "js-1"), "changed");
  assert.equal(await client.state.get(store, "js-2"), "");
  console.log("transaction");

  await client.state.delete(store, "js-order");
  assert.equal(await client.state.get(store, "js-order"), "");
  console.log("delete");

  const unknown = await refused(() => client.state.get("nowhere", "k"), INVALID_ARGUMENT);
  assert.match(unknown.message, /state store nowhere is not found/);
  console.log("error text");

  await client.metadata.set("language", "js");
  const metadata = await client.metadata.get();
  assert.equal(metadata.id, "orders");
  assert.ok(JSON.stringify(metadata).includes(store));
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
