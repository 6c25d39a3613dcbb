// Graphile Worker on PostgreSQL: a job for each conversation.
// Run by bench/peers/contestants.py: SOCKET_DIRECTORY; "ready", a line to begin, the end of input to stop.

import { createInterface } from "node:readline";
import { Logger, makeWorkerUtils, run, runMigrations } from "graphile-worker";
import pg from "pg";

const [directory] = process.argv.slice(1);
const JOBS = 20;

const pgPool = new pg.Pool({ host: directory, user: "bench", database: "postgres", max: JOBS + 4 });
pgPool.on("error", (error) => { throw error; });
pgPool.on("connect", (client) => client.on("error", (error) => { throw error; }));
const logger = new Logger(() => () => {});
const preset = {
  worker: {
    concurrentJobs: JOBS,
    // Fetched, and marked as completed, many at once.
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
  },
};

await runMigrations({ pgPool, logger });
const utils = await makeWorkerUtils({ pgPool, logger });
const { rows } = await pgPool.query("SELECT id FROM conversations");
await utils.addJobs(rows.map(({ id }) => ({ identifier: "step", payload: { id } })));
await pgPool.query("ANALYZE");

const taskList = {
  step: ({ id }, { withPgClient }) =>
    withPgClient((client) => client.query({ name: "step", text: "SELECT step($1)", values: [id] })),
};

const lines = createInterface({ input: process.stdin });
lines.once("line", () => run({ pgPool, logger, preset, taskList, noHandleSignals: true }));
lines.once("close", () => process.exit(0));
console.log("ready");
