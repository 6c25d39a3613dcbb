// Inserts a batch request with the Node.js driver (npm install mongodb), and waits for the worker's answer.

import { setTimeout as sleep } from "node:timers/promises";
import {
  MongoClient,
  MongoNetworkError,
  MongoServerSelectionError,
  MongoWriteConcernError,
} from "mongodb";

const request = {
  _id: "hello-node-1", // its identity for ever: make it from what the request is
  schema_version: 1,
  name: "Hello from Node.js",
  type: "hello",
  template: {
    name: "hello",
    channel: "email",
    stages: [
      {
        id: "hello",
        message: {
          subject: "Hello, {{ recipient.first_name }}",
          body: "Hello {{ recipient.first_name }}, is this thing on?",
        },
        reply_within: "2d",
      },
    ],
  },
  recipients: [
    { id: "haruka", address: { email: "haruka@example.com" }, attributes: { first_name: "遥" } },
  ],
};

const uri = process.env.MONGODB_URI ?? "mongodb://127.0.0.1:27017/?directConnection=true";
const client = new MongoClient(uri);
const requests = client.db(process.env.MONGODB_DB ?? "reactor").collection("batch_requests");

for (;;) {
  try {
    await requests.insertOne(request, { writeConcern: { w: "majority" } });
  } catch (error) {
    const uncertain = [MongoNetworkError, MongoServerSelectionError, MongoWriteConcernError];
    if (uncertain.some((kind) => error instanceof kind)) {
      await sleep(1000); // nobody knows what came of it: once more
      continue;
    }
    if (error.code !== 11000) throw error; // 11000: it is there, this try or an earlier one has inserted it
  }
  break;
}

let answer = await requests.findOne({ _id: request._id });
while (!answer.status) {
  await sleep(100);
  answer = await requests.findOne({ _id: request._id });
}
console.log(answer.status, answer.campaign_id, answer.problems ?? []);
await client.close();
