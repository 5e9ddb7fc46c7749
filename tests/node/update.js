// An official Node.js client starts an update, pauses it, or reads its whole history back.
//
//   node update.js URI start CLUSTER TYPE   appends UpdateRequested to a fresh stream, prints the update's id
//   node update.js URI pause ID             appends PauseRequested
//   node update.js URI history ID           prints the history, one event a line, as JSON
"use strict";

const { randomUUID } = require("node:crypto");

// The same client by its older name: CLIENT=@eventstore/db-client.
const library = require(process.env.CLIENT ?? "@kurrent/kurrentdb-client");
const Client = library.KurrentDBClient ?? library.EventStoreDBClient;
const { NO_STREAM, STREAM_EXISTS, jsonEvent } = library;

async function main(uri, what, ...line) {
  const client = Client.connectionString(uri);
  const append = (update, expected, type, data) =>
    // The newer name of `expectedRevision` is `streamState`.
    client.appendToStream(`clusterUpdate-${update}`, jsonEvent({ type, data }), {
      expectedRevision: expected,
      streamState: expected,
    });

  if (what === "start") {
    const [cluster, targetInstanceType] = line;
    const update = randomUUID();
    await append(update, NO_STREAM, "UpdateRequested", { cluster, targetInstanceType, by: "node" });
    console.log(update);
  } else if (what === "pause") {
    await append(line[0], STREAM_EXISTS, "PauseRequested", { by: "node", why: "a look first" });
  } else if (what === "history") {
    for await (const { event } of client.readStream(`clusterUpdate-${line[0]}`)) {
      console.log(JSON.stringify({ revision: Number(event.revision), type: event.type, data: event.data }));
    }
  } else {
    throw new Error("update.js URI start CLUSTER TYPE | pause ID | history ID");
  }
  await client.dispose();
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
