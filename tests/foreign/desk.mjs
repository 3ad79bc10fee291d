// Reading and writing memories by schemas/README.md, with nothing but a NATS client.

import { createHash, randomUUID } from "node:crypto";
import { jetstream } from "@nats-io/jetstream";
import { RequestError, TimeoutError, headers as newHeaders } from "@nats-io/transport-node";
import { Conflict, parse, read, Refused, selects } from "./wire.mjs";

export const DAYS_90 = "7776000";
const EXPECTED = "Nats-Expected-Last-Subject-Sequence";
const OVER = "Nats-Expected-Last-Subject-Sequence-Subject";
const [LARGE, CHUNK] = [256 * 1024, 512 * 1024];
const CONFLICTS = new Set([10071, 10164, 10201]);

/** One line to whoever runs this agent. */
export const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
export const fresh = () => randomUUID().replaceAll("-", "");

/** One agent's place at one board: reading and writing. */
export class Desk {
  constructor(connection, board, name) {
    Object.assign(this, { connection, board, name, stream: `MEM_${board}`, instance: fresh(), events: [] });
    this.js = jetstream(connection);
  }

  async request(subject, body = "", said = {}) {
    const headers = newHeaders();
    for (const [name, value] of Object.entries(said)) headers.set(name, value);
    const data = typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body);
    return await this.connection.request(subject, data, { timeout: 2000, headers });
  }

  headers(expected, over, more = {}) {
    const said = { "Bb-Agent": this.name, "Bb-Instance": this.instance, "Bb-Write": fresh(), ...more };
    said[EXPECTED] = String(expected);
    if (over) said[OVER] = over;
    return said;
  }

  /** Stores messages [subject, body, headers], all or none; the sequence of the last. */
  async write(messages) {
    for (;;) {
      try {
        return await this.send(messages);
      } catch (error) {
        if (!isSilence(error)) throw error;
      }
      const found = await this.stored(messages.at(-1));
      if (found !== null) return found;
    }
  }

  async send(messages) {
    const batch = fresh();
    let answer = {};
    for (const [at, [subject, body, said]] of messages.entries()) {
      const last = at === messages.length - 1;
      const more = {};
      if (messages.length > 1) Object.assign(more, { "Nats-Batch-Id": batch, "Nats-Batch-Sequence": `${at + 1}` });
      if (messages.length > 1 && last) more["Nats-Batch-Commit"] = "1";
      // A batch waits for the answers to its first and last message only; asking for all is as good.
      const reply = await this.request(subject, body, { ...said, ...more });
      answer = reply.data.length > 0 ? reply.json() : {};
      if (CONFLICTS.has(answer.error?.err_code)) throw new Conflict(subject);
      if (answer.error) throw new Refused(JSON.stringify(answer.error));
    }
    return answer.seq;
  }

  /** The sequence of a write whose answer did not come; null when it is not there. */
  async stored([subject, , said]) {
    const asked = { seq: Number(said[EXPECTED]) + 1, next_by_subj: said[OVER] ?? subject };
    for (;;) {
      try {
        const found = await this.direct("", asked);
        return found?.headers["Bb-Write"] === said["Bb-Write"] ? Number(found.headers["Nats-Sequence"]) : null;
      } catch (error) {
        if (!isSilence(error)) throw error;
      }
    }
  }

  filterOf(ref) {
    const { agent, topic, id } = parse(ref);
    return `mem.${this.board}.*.${agent}.${topic}.${id}`;
  }

  async direct(subject, body = "") {
    const reply = await this.request(`$JS.API.DIRECT.GET.${this.stream}${subject}`, body);
    return reply.headers?.code === 404 ? null : { headers: plain(reply.headers), text: reply.string() };
  }

  async head(ref) {
    const asked = this.filterOf(ref);
    const found = await this.direct(`.${asked}`);
    return found && read(found.headers["Nats-Subject"], found.headers, found.text, asked, this.board);
  }

  async live(ref) {
    const head = await this.head(ref);
    return head === null || head.gone || head.expired ? null : head;
  }

  async get({ ref }) {
    const pin = parse(ref).revision;
    let memory = await this.head(ref);
    if (memory === null || memory.expired) throw new Refused("not found");
    if (memory.gone && (pin === null || memory.gone === "forgotten")) throw new Refused(`gone: ${memory.gone}`);
    if (pin !== null && String(memory.revision) !== pin) {
      const found = await this.direct("", `{"seq":${pin}}`);
      const asked = this.filterOf(ref);
      if (found === null || !selects(asked, found.headers["Nats-Subject"])) throw new Refused("not kept");
      memory = read(found.headers["Nats-Subject"], found.headers, found.text, asked, this.board);
      if (memory.gone || memory.origin) throw new Refused(memory.gone ? "gone" : "not kept");
    }
    this.audit("get", memory.ref, memory.revision);
    return await this.filled(memory);
  }

  async filled(memory) {
    if (memory.blob) return { ...memory, content: await this.large(memory.access, memory.blob) };
    if (!memory.content_of) return memory;
    const { topic, revision } = parse(memory.content_of);
    if (revision === null || !topic.startsWith("once.")) throw new Refused("content_of shows what it may not");
    const result = await this.get({ ref: memory.content_of });
    if (result.access !== memory.access) throw new Refused("content_of under another label");
    return { ...memory, content: result.content };
  }

  /** Content that lies in chunks. */
  async large(access, { agent, id, chunks, size, sha256 }) {
    const parts = [];
    for (let n = 0; n < chunks; n += 1) {
      const subject = `blob.${this.board}.${access}.${agent}.${id}.${n}`;
      const reply = await this.request(`$JS.API.DIRECT.GET.BLOB_${this.board}.${subject}`);
      if (reply.headers?.code === 404) throw new Refused("gone: forgotten");
      parts.push(reply.data);
    }
    const body = Buffer.concat(parts);
    const whole = body.length === size && createHash("sha256").update(body).digest("hex") === sha256;
    if (!whole) throw new Refused("not what its author stored");
    return JSON.parse(body.toString());
  }

  /** Stores large content, and gives what its memory says of it. */
  async upload(access, body) {
    const id = fresh();
    const chunks = Math.ceil(body.length / CHUNK);
    for (let n = 0; n < chunks; n += 1) {
      const subject = `blob.${this.board}.${access}.${this.name}.${id}.${n}`;
      await this.write([[subject, body.subarray(n * CHUNK, (n + 1) * CHUNK), this.headers(0)]]);
    }
    const sha256 = createHash("sha256").update(body).digest("hex");
    return { id, size: body.length, chunks, sha256, agent: this.name };
  }

  audit(act, what, revision = null) {
    const at = new Date().toISOString();
    this.events.push({ at, agent: this.name, instance: this.instance, act, what, revision });
    if (this.events.length === 1) setTimeout(() => this.flush(), 250);
  }

  async flush() {
    const events = this.events.splice(0);
    try {
      await this.request(`audit.${this.board}.${this.name}`, { events });
    } catch (error) {
      if (!isSilence(error)) throw error;
      this.events.unshift(...events);
      setTimeout(() => this.flush(), 250);
    }
  }

  message(ref, access, body, expected, more = {}) {
    const { agent, topic, id } = parse(ref);
    const over = agent === "*" ? this.filterOf(ref) : undefined;
    const subject = `mem.${this.board}.${access}.${this.name}.${topic}.${id}`;
    return [subject, body === null ? "" : JSON.stringify(body), this.headers(expected, over, more)];
  }

  async put({ topic, content, key, ttl, access = "shared", create = false, ...fields }) {
    let ends = ttl === undefined ? null : Date.now() + ttl * 1000;
    const ref = key ? `*/${topic}/${key}` : `${this.name}/${topic}/${fresh()}`;
    const large = Buffer.from(JSON.stringify(content ?? null));
    let body = { content, ...fields };
    for (;;) {
      const head = key ? await this.head(ref) : null;
      if (head !== null && !head.gone && !head.expired) {
        if (create) throw new Conflict(ref);
        access = head.access;
        if (head.expires !== null) ends ??= Date.parse(head.expires);
      }
      if (large.length > LARGE && !body.blob) body = { ...fields, blob: await this.upload(access, large) };
      const message = this.message(ref, access, body, head?.revision ?? 0, lifetime(ends));
      try {
        return { ref, revision: await this.write([message]) };
      } catch (error) {
        if (!(error instanceof Conflict) || !key || create) throw error;
      }
    }
  }

  async revise({ ref, content, expected }) {
    const head = await this.live(ref);
    if (head === null) throw new Refused("nothing to revise");
    const ends = lifetime(head.expires === null ? null : Date.parse(head.expires));
    return { ref, revision: await this.write([this.message(ref, head.access, { content }, expected, ends)]) };
  }

  async retire({ ref, reason }) {
    const head = await this.live(ref);
    if (head === null) throw new Refused("nothing to retire");
    const more = { "Bb-Gone": "retired", "Bb-Reason": encodeURIComponent(reason), "Nats-TTL": DAYS_90 };
    if (head.topic.split(".")[0] === "state") more["KV-Operation"] = "DEL";
    return { ref, revision: await this.write([this.message(ref, head.access, null, head.revision, more)]) };
  }

  /** The newest record that a filter under `claim.` selects, and its sequence. */
  async record(subject) {
    const found = await this.direct(`.${subject}`);
    if (found === null) return [null, 0];
    const honest = found.headers["Bb-Agent"] === found.headers["Nats-Subject"].split(".")[3];
    return [honest ? JSON.parse(found.text) : null, Number(found.headers["Nats-Sequence"])];
  }

  delivered(msg) {
    try {
      const memory = read(msg.subject, plain(msg.headers), msg.string(), undefined, this.board);
      return { ...memory, revision: msg.seq };
    } catch (error) {
      say({ event: "skipped", reason: error.message });
      return null;
    }
  }
}

/** Whether no answer came, so that nobody knows what became of a request. */
const isSilence = (error) => error instanceof TimeoutError || error instanceof RequestError;

/** Headers as an object; of several values the last, as the broker's own come last. */
function plain(headers) {
  const names = headers?.keys() ?? [];
  return Object.fromEntries(names.map((name) => [name, headers.values(name).at(-1)]));
}

/** Headers of a memory that ends; rounded up, so that no earlier revision comes back. */
function lifetime(ends) {
  if (ends === null) return {};
  const left = Math.max(1, Math.ceil((ends - Date.now()) / 1000));
  return { "Bb-Expires": new Date(ends).toISOString(), "Nats-TTL": String(left) };
}
