// An app with the unmodified Dapr SDK for JavaScript reads secrets over gRPC. Prints a line for each thing that worked.

const assert = require("node:assert/strict");
const { CommunicationProtocolEnum, DaprClient } = require("@dapr/dapr");

const INVALID_ARGUMENT = 3;

async function main() {
  const client = new DaprClient({
    daprHost: "127.0.0.1",
    daprPort: process.env.DAPR_GRPC_PORT,
    communicationProtocol: CommunicationProtocolEnum.GRPC,
  });

  assert.deepEqual(await client.secret.get("localsecretstore", "order"), { order: "42" });
  console.log("get");

  const secrets = await client.secret.getBulk("localsecretstore");
  assert.deepEqual(secrets, { order: { order: "42" }, "nested:key": { "nested:key": "v" } });
  console.log("bulk");

  const error = await client.secret.get("nowhere", "order").then(() => assert.fail("it is refused"), (error) => error);
  assert.equal(error.code, INVALID_ARGUMENT);
  assert.match(error.message, /failed finding secret store with key nowhere/);
  console.log("refused");

  await client.stop();
  console.log("done");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
