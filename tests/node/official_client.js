// An official Node.js client, unchanged, against a cluster: node official_client.js PACKAGE host:port[,host:port...]
// The cluster loses its leader on the way.
"use strict";

const assert = require("node:assert/strict");
const { randomUUID } = require("node:crypto");

const [name, hosts] = process.argv.slice(2);
const library = require(name);
const { ANY, BACKWARDS, END, NO_STREAM, START, STREAM_EXISTS, eventTypeFilter, jsonEvent, streamNameFilter } = library;
const { StreamDeletedError, StreamNotFoundError, WrongExpectedVersionError } = library;
const Client = library.EventStoreDBClient ?? library.KurrentDBClient;

const event = (type = "noted", data = { a: 1 }) => jsonEvent({ type, data });

async function all(resolved) {
  const events = [];
  for await (const { event } of resolved) events.push(event);
  return events;
}

const numbers = (events) => events.map((e) => Number(e.revision));

/** The first `count` events of a subscription; `onEvent` is told of each number of events seen. */
async function followed(subscription, count, onEvent = () => {}) {
  const events = [];
  for await (const { event } of subscription) {
    events.push(event);
    if (events.length === count) break;
    await onEvent(events.length);
  }
  await subscription.unsubscribe();
  return events;
}

async function leader() {
  for (const host of hosts.split(",")) {
    const { members } = await (await fetch(`http://${host}/gossip`)).json();
    const leaders = members.filter((m) => m.state === "Leader" && m.isAlive);
    if (leaders.length === 1) return `${leaders[0].httpEndPointIp}:${leaders[0].httpEndPointPort}`;
  }
  return undefined;
}

async function main() {
  const scheme = library.KurrentDBClient ? "kurrentdb" : "esdb";
  const client = Client.connectionString(`${scheme}://${hosts}?tls=false`);
  const run = randomUUID().slice(0, 8);
  const stream = `node-${run}`;
  // One package calls the expected revision a state when it appends, and in its errors.
  const append = (to, expected, ...events) =>
    client.appendToStream(to, events, { expectedRevision: expected, streamState: expected });

  // Append: no stream, the same again, exact, any, exists, and what is refused.
  const first = event();
  const at = await append(stream, NO_STREAM, first);
  assert.equal(at.nextExpectedRevision, 0n);
  const again = await append(stream, NO_STREAM, first);
  assert.deepEqual([again.nextExpectedRevision, again.position], [0n, at.position]);
  await append(stream, 0n, event(), event());
  await append(stream, ANY, event("last"));
  await append(stream, STREAM_EXISTS, event("more"));
  for (const expected of [NO_STREAM, 0n, 99n]) {
    await assert.rejects(append(stream, expected, event()), WrongExpectedVersionError, String(expected));
  }
  await assert.rejects(append(`none-${run}`, STREAM_EXISTS, event()), WrongExpectedVersionError);
  const error = await append(stream, 1n, event()).catch((error) => error);
  assert.deepEqual([error.streamName, error.actualVersion ?? error.actualState], [stream, 4n]);

  // Read: forwards, backwards, limited, missing; all, with and without a filter.
  const read = await all(client.readStream(stream));
  assert.deepEqual(numbers(read), [0, 1, 2, 3, 4]);
  assert.deepEqual([read[0].id, read[0].data, read[3].type], [first.id, { a: 1 }, "last"]);
  const newest = await all(client.readStream(stream, { direction: BACKWARDS, fromRevision: END, maxCount: 2 }));
  assert.deepEqual(numbers(newest), [4, 3]);
  await assert.rejects(all(client.readStream(`missing-${run}`)), StreamNotFoundError);
  const mine = (await all(client.readAll())).filter((e) => e.streamId === stream);
  assert.deepEqual(numbers(mine), [0, 1, 2, 3, 4]);
  const last = await all(client.readAll({ direction: BACKWARDS, fromPosition: END, maxCount: 1 }));
  assert.deepEqual([last[0].streamId, Number(last[0].revision)], [stream, 4]);

  // Subscriptions: a stream, live; all by stream and by type.
  const live = client.subscribeToStream(stream, { fromRevision: START });
  const seen = await followed(live, 6, (n) => n === 5 && append(stream, 4n, event("live")));
  assert.deepEqual(numbers(seen), [0, 1, 2, 3, 4, 5]);
  const later = client.subscribeToStream(stream, { fromRevision: 3n });
  assert.deepEqual(numbers(await followed(later, 2)), [4, 5]);
  const byStream = client.subscribeToAll({ filter: streamNameFilter({ prefixes: [stream] }) });
  assert.deepEqual(numbers(await followed(byStream, 6)), [0, 1, 2, 3, 4, 5]);
  const byType = client.subscribeToAll({ filter: eventTypeFilter({ regex: "^(live|last)$" }) });
  assert.deepEqual((await followed(byType, 2)).map((e) => e.type), ["last", "live"]);

  // Metadata, deletion, tombstone.
  assert.equal((await client.getStreamMetadata(stream)).metadata, undefined);
  await client.setStreamMetadata(stream, { maxCount: 2, who: "me" });
  const kept = await client.getStreamMetadata(stream);
  assert.deepEqual([kept.metadata.maxCount, kept.metadata.who], [2, "me"]);
  assert.deepEqual(numbers(await all(client.readStream(stream))), [4, 5]);
  await assert.rejects(client.deleteStream(stream, { expectedRevision: 0n }), WrongExpectedVersionError);
  await client.deleteStream(stream, { expectedRevision: 5n });
  await assert.rejects(all(client.readStream(stream)), StreamNotFoundError);
  await client.tombstoneStream(stream, { expectedRevision: ANY });
  await assert.rejects(all(client.readStream(stream)), StreamDeletedError);
  await assert.rejects(append(stream, ANY, event()), StreamDeletedError);

  // The leader resigns: the same append is tried until it is taken, once.
  const after = `after-${run}`;
  await append(after, NO_STREAM, event("before"));
  const old = await leader();
  for (const path of ["priority/-1", "resign"]) {
    assert.equal((await fetch(`http://${old}/admin/node/${path}`, { method: "POST" })).status, 200);
  }
  const second = event("second");
  const end = Date.now() + 30_000;
  for (;;) {
    try {
      await append(after, 0n, second);
      const now = await leader();
      if (now !== undefined && now !== old) break;
    } catch (error) {
      assert(!(error instanceof WrongExpectedVersionError), error);
      assert(Date.now() < end, error);
    }
    assert(Date.now() < end, "no append under a new leader");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await append(after, 1n, event("third"));
  const types = ["before", "second", "third"];
  assert.deepEqual((await followed(client.subscribeToStream(after), 3)).map((e) => e.type), types);
  const filter = streamNameFilter({ prefixes: [after] });
  assert.deepEqual((await followed(client.subscribeToAll({ filter }), 3)).map((e) => e.type), types);
  await client.dispose();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
