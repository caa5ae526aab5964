// An app with the unmodified Dapr SDK for JavaScript, over gRPC: `live` is written all the time by the test. Prints a line for each thing
// that worked.

const assert = require("node:assert/strict");
const { CommunicationProtocolEnum, DaprClient } = require("@dapr/dapr");

const STORE = "config";

async function main() {
  const client = new DaprClient({
    daprHost: "127.0.0.1",
    daprPort: process.env.DAPR_GRPC_PORT,
    communicationProtocol: CommunicationProtocolEnum.GRPC,
  });

  const { items } = await client.configuration.get(STORE, ["first", "second", "missing"]);
  assert.deepEqual(Object.keys(items).sort(), ["first", "second"]);
  assert.equal(items.first.value, "1");
  assert.equal(items.first.version, "7");
  console.log("get");

  const values = [];
  let enough;
  const came = new Promise((resolve) => (enough = resolve));
  const subscription = await client.configuration.subscribeWithKeys(STORE, ["live"], async ({ items }) => {
    assert.deepEqual(Object.keys(items), ["live"]);
    values.push(Number(items.live.value));
    if (values.length >= 5) enough();
  });
  await came;
  assert.deepEqual(values, [...new Set(values)].sort((a, b) => a - b));
  console.log("subscribe");

  await subscription.stop();
  console.log("unsubscribe");

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
