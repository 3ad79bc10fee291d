// An agent in JavaScript, written from schemas/README.md alone; it knows nothing of the library.
//
//     node agent.mjs URL BOARD AGENT     commands as JSON lines on stdin, answers and events on stdout

import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { DeliverPolicy } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { DAYS_90, Desk, fresh, say } from "./desk.mjs";
import { brokerFilter, Conflict, derived, onceKey, parse, Refused } from "./wire.mjs";

const THERE = new Set([10013, 10105, 10148]); // another replica was first

/** The lease on one piece of work (section 6). */
class Lease {
  constructor(desk, access, digest, seconds) {
    Object.assign(this, { desk, seconds, holder: fresh(), first: null, last: 0 });
    this.over = `claim.${desk.board}.${access}.*.o-${digest}`;
    this.subject = `claim.${desk.board}.${access}.${desk.name}.o-${digest}`;
  }

  async take() {
    const [record, sequence] = await this.desk.record(this.over);
    this.first ??= sequence;
    const state = record === null ? "none" : (record.state ?? "held");
    if (state === "held") return false;
    if (state === "failed" && sequence > this.first) throw new Refused(`failed elsewhere: ${record.error}`);
    this.last = sequence;
    return await succeeds(() => this.write("held"));
  }

  async write(state, error) {
    const until = new Date(Date.now() + this.seconds * 1000).toISOString();
    const body = JSON.stringify({ holder: this.holder, until, state, error });
    const headers = this.desk.headers(this.last, this.over, { "Nats-TTL": String(this.seconds) });
    this.last = await this.desk.write([[this.subject, body, headers]]);
  }
}

/** What an agent does beyond reading and writing. */
class Agent extends Desk {
  async watch({ pattern, history = false }) {
    const filter_subjects = brokerFilter(this.board, pattern);
    this.audit("watch", pattern);
    const gone = history ? await this.takenBack(filter_subjects) : new Map();
    const deliver_policy = history ? DeliverPolicy.All : DeliverPolicy.New;
    const consumer = await this.js.consumers.get(this.stream, { filter_subjects, deliver_policy });
    await consumer.info();
    this.follow(await consumer.consume(), gone);
    return {};
  }

  async follow(messages, gone) {
    for await (const msg of messages) {
      const memory = this.delivered(msg);
      if (memory === null || memory.expired || memory.revision < (gone.get(memory.ref) ?? 0)) continue;
      const shown = memory.gone ? memory : await this.filled(memory);
      this.audit("delivery", shown.ref, shown.revision);
      say({ event: "memory", ...shown });
    }
  }

  async takenBack(filter_subjects) {
    const deliver_policy = DeliverPolicy.LastPerSubject;
    const consumer = await this.js.consumers.get(this.stream, { filter_subjects, deliver_policy, headers_only: true });
    const gone = new Map();
    const { num_pending } = await consumer.info();
    for (let left = num_pending; left > 0; left -= 1) {
      const msg = await consumer.next({ expires: 5000 });
      const memory = msg && this.delivered(msg);
      if (memory?.gone) gone.set(memory.ref, memory.revision);
    }
    await consumer.delete();
    return gone;
  }

  async once({ name, inputs, result, version = "1", topic, access = "shared", lease = 10, pause = 0, fail, ...fields }) {
    const digest = onceKey(name, version, access, inputs);
    const [ref, hint] = [`*/once.${name}/${digest}`, `hint.${this.board}.${access}.${digest}`];
    const claim = new Lease(this, access, digest, lease);
    const hints = this.connection.subscribe(hint);
    const heard = hints[Symbol.asyncIterator]();
    let next = heard.next();
    let [made, stored] = [false, null];
    try {
      while ((stored = await this.live(ref)) === null) {
        if (await claim.take()) {
          made = await this.lead(claim, { result, pause, fail }, ref, access, hint);
        } else if ((await Promise.race([next, sleep(lease * 500)])) !== undefined) {
          next = heard.next();
        }
      }
    } finally {
      hints.unsubscribe();
    }
    const answer = { key: ref, made, content: (await this.filled(stored)).content };
    if (topic !== undefined) {
      const shown = { content_of: `${ref}@${stored.revision}`, kind: made ? "result" : "reuse", cost: stored.cost };
      answer.light = (await this.put({ topic, access, ...fields, ...shown })).ref;
    }
    return answer;
  }

  /** Does the work under the lease and stores it; false when another was first. */
  async lead(claim, work, ref, access, hint) {
    let made = false;
    try {
      const ends = Date.now() + work.pause * 1000;
      while (Date.now() < ends) {
        await sleep(Math.min(ends - Date.now(), (claim.seconds * 1000) / 3));
        if (Date.now() < ends) await claim.write("held");
      }
      if (work.fail !== undefined) throw new Refused(work.fail);
      const head = await this.head(ref);
      if (head === null || head.gone || head.expired) {
        const body = { content: work.result, kind: "result", cost: { seconds: work.pause } };
        const message = this.message(ref, access, body, head?.revision ?? 0);
        made = await succeeds(() => this.write([message]));
      }
    } catch (error) {
      if (error instanceof Conflict) return false; // the lease is lost
      await claim.write("failed", `${error.constructor.name}: ${error.message}`);
      this.connection.publish(hint);
      throw error;
    }
    await claim.write("released");
    this.connection.publish(hint);
    return made;
  }

  async handle({ handler, pattern, to, start = "new" }) {
    const durable = `${this.name}--${handler}`;
    const filter_subject = brokerFilter(this.board, pattern);
    const config = {
      name: durable, durable_name: durable, filter_subject, deliver_policy: start, ack_policy: "explicit",
      ack_wait: 10_000_000_000, max_deliver: -1, max_ack_pending: 100_000,
    };
    this.messages?.stop(); // of an earlier run
    const run = await this.enter(handler, config);
    this.work(await this.js.consumers.get(this.stream, durable), handler, run, to);
    return {};
  }

  /** Joins the handler's consumer, or makes it; the run that it is. */
  async enter(handler, config) {
    const place = `${this.stream}.${config.name}`;
    const record = `claim.${this.board}.shared.${this.name}.r-${derived(handler)}`;
    for (;;) {
      const { config: found } = (await this.request(`$JS.API.CONSUMER.INFO.${place}`)).json();
      if (found) {
        const same = found.filter_subject === config.filter_subject && found.ack_wait === config.ack_wait;
        if (!same) throw new Refused("its consumer has other settings");
        return Number(found.metadata.run);
      }
      const [last, sequence] = await this.record(record);
      const run = 1 + (last?.run ?? 0);
      const announced = [record, JSON.stringify({ run }), this.headers(sequence)];
      if (!(await succeeds(() => this.write([announced])))) continue;
      const made = { ...config, metadata: { run: String(run) } };
      const create = { stream_name: this.stream, config: made, action: "create" };
      const api = `$JS.API.CONSUMER.CREATE.${place}.${config.filter_subject}`;
      const { error } = (await this.request(api, create)).json();
      if (error && !THERE.has(error.err_code)) throw new Refused(JSON.stringify(error));
    }
  }

  async work(consumer, handler, run, to) {
    this.messages = await consumer.consume({ max_messages: 1 });
    for await (const msg of this.messages) {
      let outcome = null;
      for (let attempt = 0; attempt < 5 && outcome === null; attempt += 1) {
        await succeeds(async () => (outcome = await this.handled(msg, handler, run, to)));
      }
      if (outcome === null) msg.nak(1000);
      else msg.ack();
      say({ event: "handled", outcome });
    }
  }

  /** Handles one delivery (section 7): everything is stored when this returns, or nothing. */
  async handled(msg, handler, run, to) {
    let memory = this.delivered(msg);
    if (memory === null || memory.expired || memory.gone || memory.agent === this.name) return "unwanted";
    if (to === undefined && memory.kind !== "request") return "unwanted";
    const head = await this.head(memory.ref);
    if (head?.gone === "retired" || head?.gone === "forgotten") return "gone";
    memory = await this.filled(memory);
    const subject = `claim.${this.board}.shared.${this.name}.h-${derived(handler, memory.ref)}`;
    const [record, sequence] = await this.record(subject);
    const before = record?.cause.match(/^\S+@(\d+) .* run(\d+)$/);
    if (before) {
      const [revision, ran] = [Number(before[1]), Number(before[2])];
      if (ran > run || (ran === run && revision >= memory.revision)) return "done before";
      if (ran === run && (await this.onlyMoved(memory, revision))) return "done before";
    }
    const pinned = `${memory.ref}@${memory.revision}`;
    const cause = `${pinned} ${this.name}--${handler} v1 run${run}`;
    const answers = to === undefined;
    const ref = answers
      ? `*/answers.${memory.topic}/a-${memory.id}`
      : `${this.name}/${to}/${derived(this.name, handler, memory.ref, 0)}`;
    const existing = await this.head(ref);
    if (existing !== null && answers) return "answered before";
    const content = answers ? { answer: memory.content, by: this.name } : String(memory.content).toUpperCase();
    const { session, user } = memory;
    const body = { content, session, user, sources: [pinned], hops: memory.hops + 1 };
    if (answers) body.kind = "answer";
    const because = { "Bb-Cause": cause };
    const trace = msg.headers?.get("traceparent");
    if (trace) because.traceparent = trace;
    const outputs = await this.outputs(ref, memory.access, body, existing, because);
    const done = JSON.stringify({ cause, refs: answers ? [] : [ref] });
    await this.write([...outputs, [subject, done, this.headers(sequence, undefined, { "Nats-TTL": DAYS_90 })]]);
    return "stored";
  }

  /** Whether a memory was only moved to another label since a revision. */
  async onlyMoved(memory, revision) {
    const next_by_subj = this.filterOf(memory.ref);
    while (revision < memory.revision) {
      const found = await this.direct("", { seq: revision + 1, next_by_subj });
      if (found?.headers["Bb-Gone"] !== "moved") return false;
      revision = Number(found.headers["Nats-Sequence"]) + 1; // its copy follows in the same batch
    }
    return revision === memory.revision;
  }

  /** The next revision of an output, taken along to the label of its input. */
  async outputs(ref, access, body, before, because) {
    if (before === null || before.access === access) {
      return [this.message(ref, access, body, before?.revision ?? 0, because)];
    }
    const moved = { ...because, "Bb-Gone": "moved", "Nats-TTL": DAYS_90 };
    const left = this.message(ref, before.access, null, before.revision, moved);
    const last = await this.direct(`.${this.message(ref, access, body, 0)[0]}`);
    const expected = last === null ? 0 : Number(last.headers["Nats-Sequence"]);
    return [left, this.message(ref, access, body, expected, because)];
  }

  async ask({ topic, content }) {
    const request = await this.put({ topic, content, kind: "request" });
    const filter_subjects = `mem.${this.board}.*.*.answers.${topic}.a-${parse(request.ref).id}`;
    const deliver_policy = DeliverPolicy.LastPerSubject;
    const consumer = await this.js.consumers.get(this.stream, { filter_subjects, deliver_policy });
    for await (const msg of await consumer.consume()) {
      const memory = this.delivered(msg);
      if (memory && !memory.gone && !memory.expired) return await this.filled(memory);
    }
    throw new Refused("no answer");
  }
}

/** Whether a write went through; false when somebody else was first. */
async function succeeds(write) {
  try {
    await write();
    return true;
  } catch (error) {
    if (error instanceof Conflict) return false;
    throw error;
  }
}

const [url, board, name] = process.argv.slice(2);
const connection = await connect({ servers: url });
const agent = new Agent(connection, board, name);
say({ event: "ready" });

async function run({ number, do: what, ...command }) {
  try {
    say({ number, ...(await agent[what](command)) });
  } catch (error) {
    say({ number, error: error.constructor.name, reason: error.message });
  }
}

for await (const line of createInterface({ input: process.stdin })) run(JSON.parse(line));
await connection.close();
process.exit(0);
