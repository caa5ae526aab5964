// An app with the unmodified Dapr SDK for JavaScript that takes locks, over gRPC. Prints a line for each thing that worked; fails by an
// assertion.

const assert = require("node:assert/strict");
const { CommunicationProtocolEnum, DaprClient } = require("@dapr/dapr");

// Statuses of a release: the SDK does not export its enumeration.
const [SUCCESS, DOES_NOT_EXIST, BELONGS_TO_OTHERS] = [0, 1, 2];

const store = process.argv[2];

async function main() {
  const client = new DaprClient({
    daprHost: "127.0.0.1",
    daprPort: process.env.DAPR_GRPC_PORT,
    communicationProtocol: CommunicationProtocolEnum.GRPC,
  });

  assert.equal((await client.lock.lock(store, "js-resource", "one", 60)).success, true);
  assert.equal((await client.lock.lock(store, "js-resource", "other", 60)).success, false);
  console.log("lock");

  const unlock = async (owner) => (await client.lock.unlock(store, "js-resource", owner)).status;
  assert.equal(await unlock("other"), BELONGS_TO_OTHERS);
  assert.equal(await unlock("one"), SUCCESS);
  assert.equal(await unlock("one"), DOES_NOT_EXIST);
  console.log("unlock");

  const error = await client.lock.lock("nowhere", "r", "o", 1).then(() => assert.fail("the call is refused"), (e) => e);
  assert.match(error.message, /lock store nowhere not found/);
  console.log("error text");

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
