// Agenda on the same mongod: a job for each conversation.
// Run by bench/peers/contestants.py: URI DATABASE STEP_FILE; "ready", a line to begin, the end of input to stop.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { MongoBackend } from "@agendajs/mongo-backend";
import { Agenda } from "agenda";
import { BSON, MongoClient } from "mongodb";

const [uri, name, file] = process.argv.slice(1);
const step = BSON.deserialize(readFileSync(file));
const client = await new MongoClient(uri, { writeConcern: { w: "majority" }, maxPoolSize: 200 }).connect();
const database = client.db(name);
const conversations = database.collection("conversations");
const messages = database.collection("messages");

const agenda = new Agenda({
  backend: new MongoBackend({ mongo: database }),
  // It locks jobs one by one, and looks for more of them at this interval only: milliseconds.
  processEvery: 50,
  maxConcurrency: 100,
  defaultConcurrency: 100,
  defaultLockLimit: 400,
});
agenda.on("error", (error) => { console.error(error); process.exit(1); });

agenda.define("step", async (job) => {
  const { id, recipient, key } = job.attrs.data;
  const { matchedCount } = await conversations.updateOne({ _id: id, version: 0 }, step.clear);
  if (!matchedCount) return;
  const stage = step.entry._id.slice(step.entry._id.indexOf("/"));
  await messages.insertOne({
    ...step.entry,
    _id: id + stage,
    conversation_id: id,
    recipient_id: recipient,
    address: key,
    to: key.slice(key.indexOf(":") + 1),
  });
});
await agenda.ready;

const due = await conversations.find({}, { projection: { recipient: 1, address_keys: 1 } }).toArray();
await Promise.all(due.map(({ _id, recipient, address_keys: [key] }) =>
  agenda.create("step", { id: _id, recipient: recipient.id, key }).schedule(new Date()).save()));

const lines = createInterface({ input: process.stdin });
lines.once("line", () => agenda.start());
lines.once("close", () => process.exit(0));
console.log("ready");
