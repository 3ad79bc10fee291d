// The rules of schemas/README.md that need no broker: names, keys, and what a reader checks.

import { createHash } from "node:crypto";

const NAMESPACE = "6b1b7a52-8f0e-5c33-9d7e-2f5a4c1d90ab";
const ID = /^[0-9a-f]{32}$/;
const NAME = /^(?=.{1,64}$)[a-z0-9_]+(-[a-z0-9_]+)*$/;
const TOKEN = /^[A-Za-z0-9_-]{1,64}$/;
const KEY = /^[A-Za-z0-9_-]{1,128}$/;
const PIN = /^[1-9][0-9]{0,18}$/;
const GONE = new Set(["retired", "forgotten", "moved"]);

export class Conflict extends Error {}
export class Refused extends Error {}

/** RFC 8785: numbers and strings are written as JavaScript writes them, members in UTF-16 order. */
export function canonical(value) {
  if (typeof value === "number") {
    // A whole number written with an exponent cannot be told here, so all that large are refused
    // up to where JSON itself begins to write an exponent.
    const whole = Number.isInteger(value) && !Number.isSafeInteger(value);
    if (!Number.isFinite(value) || (whole && Math.abs(value) < 1e21)) throw new Refused(`${value}`);
  }
  if (typeof value === "string" && !value.isWellFormed()) throw new Refused("a lone surrogate");
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  const members = Object.keys(value).sort().map((name) => `${canonical(name)}:${canonical(value[name])}`);
  return `{${members.join(",")}}`;
}

export const sha256 = (value) => createHash("sha256").update(canonical(value)).digest("hex");

/** UUID version 5 of the canonical JSON of the arguments, as 32 hex digits. */
export function derived(...material) {
  const namespace = Buffer.from(NAMESPACE.replaceAll("-", ""), "hex");
  const digest = createHash("sha1").update(namespace).update(canonical(material)).digest();
  digest[6] = (digest[6] & 0x0f) | 0x50;
  digest[8] = (digest[8] & 0x3f) | 0x80;
  return digest.subarray(0, 16).toString("hex");
}

/** Takes a reference apart; a pin stays text, because it may be larger than a number holds. */
export function parse(text) {
  const at = text.indexOf("@");
  const parts = (at < 0 ? text : text.slice(0, at)).split("/");
  const revision = at < 0 ? null : text.slice(at + 1);
  if (parts.length !== 3 || (revision !== null && !PIN.test(revision))) {
    throw new Refused(`no reference: ${text}`);
  }
  const [agent, topic, id] = parts;
  if (topic.length > 512 || !topic.split(".").every((token) => TOKEN.test(token))) {
    throw new Refused(`no topic: ${topic}`);
  }
  if (!KEY.test(id) || !(agent === "*" || NAME.test(agent)) || (agent === "*" && ID.test(id))) {
    throw new Refused(`no reference: ${text}`);
  }
  return { agent: ID.test(id) ? agent : "*", topic, id, revision };
}

export function brokerFilter(board, pattern) {
  const tokens = pattern.split(".");
  const fits = (token, at) => token === "*" || TOKEN.test(token) || (token === ">" && at === tokens.length - 1);
  if (!tokens.every(fits)) throw new Refused(`no pattern: ${pattern}`);
  return `mem.${board}.*.*.${pattern}${tokens.at(-1) === ">" ? "" : ".*"}`;
}

export function selects(filter, subject) {
  const wanted = filter.split(".");
  let have = subject.split(".");
  if (wanted.at(-1) === ">") {
    wanted.pop();
    if (have.length <= wanted.length) return false;
    have = have.slice(0, wanted.length);
  }
  return wanted.length === have.length && wanted.every((want, at) => want === "*" || want === have[at]);
}

export function onceKey(name, version, access, inputs, users = []) {
  const material = ["once", name, version, access, inputs];
  if (users.length > 0 && access === "shared") material.push(users);
  return sha256(material);
}

/** Checks a message and takes it for a memory; `asked` is the filter of a direct get. */
export function read(subject, headers, text, asked, board) {
  if (asked === undefined) {
    if (headers["Nats-Subject"] !== undefined || headers["Nats-Stream"] !== undefined) {
      throw new Refused("a copy that the broker was made to store");
    }
  } else if (!selects(asked, subject) || headers["Nats-Stream"] !== `MEM_${board}`) {
    throw new Refused("an answer to another question");
  }
  const tokens = subject.split(".");
  const named = tokens.slice(0, -1).every((token) => TOKEN.test(token)) && KEY.test(tokens.at(-1));
  if (tokens[0] !== "mem" || tokens.length < 6 || !named) throw new Refused(`no memory's subject: ${subject}`);
  if (headers["Bb-Agent"] !== tokens[3]) throw new Refused("another author than its subject names");
  const gone = headers["Bb-Gone"] ?? null;
  if (gone !== null && !GONE.has(gone)) throw new Refused(`an unknown tombstone: ${gone}`);
  const body = text !== "" && gone === null ? object(text) : {};
  const [id, topic] = [tokens.at(-1), tokens.slice(4, -1).join(".")];
  const expires = headers["Bb-Expires"] ?? null;
  return {
    kind: "note", content: null, hops: 0, tags: {}, ...body,
    access: tokens[2], agent: tokens[3], topic, id,
    ref: `${ID.test(id) ? tokens[3] : "*"}/${topic}/${id}`,
    gone, origin: headers["Bb-Origin"] ?? null, expires,
    expired: expires !== null && Date.parse(expires) <= Date.now(),
    revision: Number(headers["Nats-Sequence"] ?? 0),
  };
}

function object(text) {
  let body;
  try {
    body = JSON.parse(text);
  } catch (error) {
    throw new Refused(`no JSON: ${error.message}`);
  }
  const is = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  if (!is(body) || !is(body.tags ?? {})) throw new Refused("no memory");
  return body;
}

/** Inputs as they count for `once`: a memory, given as {"$memory": {...}}, by its content. */
export function materialOf(inputs) {
  if (inputs === null || typeof inputs !== "object") return inputs;
  if (Array.isArray(inputs)) return inputs.map(materialOf);
  if (inputs.$memory) return { sha256: sha256(inputs.$memory.content) };
  return Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, materialOf(value)]));
}

/** The data subjects of the memories among inputs. */
export function usersOf(inputs) {
  if (inputs === null || typeof inputs !== "object") return [];
  if (inputs.$memory) return inputs.$memory.user ? [inputs.$memory.user] : [];
  return [...new Set(Object.values(inputs).flatMap(usersOf))].sort();
}
