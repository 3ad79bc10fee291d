// Tests wire.mjs against the vectors: `node vectors.mjs SCHEMAS`, silent when all agree.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  brokerFilter, canonical, derived, materialOf, onceKey, parse, read, Refused, selects, sha256, usersOf,
} from "./wire.mjs";

function outcome(run) {
  try {
    return run();
  } catch (error) {
    if (error instanceof Refused || error instanceof SyntaxError) return "refused";
    throw error;
  }
}

const checks = {
  *canonical({ vectors, refused }) {
    for (const vector of vectors) {
      yield [vector.json, canonical(JSON.parse(vector.json)), vector.canonical];
      yield [vector.json, sha256(JSON.parse(vector.json)), vector.sha256];
    }
    for (const text of refused) yield [text, outcome(() => canonical(JSON.parse(text))), "refused"];
  },
  *references({ vectors }) {
    for (const vector of vectors) {
      const { agent, topic, id, normal } = vector;
      const pin = normal?.split("@")[1] ?? null;
      const there = vector.error ? "refused" : { agent, topic, id, revision: pin };
      yield [vector.text, outcome(() => parse(vector.text)), there];
    }
  },
  *patterns({ vectors, refused }) {
    for (const { pattern, topic, filter, matches } of vectors) {
      yield [pattern, brokerFilter("main", pattern), filter];
      yield [pattern, selects(filter, `mem.main.shared.a.${topic}.k`), matches];
    }
    for (const text of refused) yield [text, outcome(() => brokerFilter("main", text)), "refused"];
  },
  *ids({ vectors }) {
    for (const { what, material, id } of vectors) yield [what, derived(...material), id];
  },
  *once({ vectors }) {
    for (const { what, name, version, access, inputs, h } of vectors) {
      yield [what, onceKey(name, version, access, materialOf(inputs), usersOf(inputs)), h];
    }
  },
  *messages({ vectors }) {
    for (const { what, subject, headers, body, asked, honest } of vectors) {
      yield [what, outcome(() => read(subject, headers, body, asked, "main")) !== "refused", honest];
    }
  },
};

let wrong = 0;
for (const [name, check] of Object.entries(checks)) {
  const file = JSON.parse(readFileSync(join(process.argv[2], "vectors", `${name}.json`), "utf8"));
  for (const [what, here, there] of check(file)) {
    const [left, right] = [JSON.stringify(here), JSON.stringify(there)];
    if (left !== right) {
      wrong += 1;
      console.log(`${name}: ${what}: ${left}, should be ${right}`);
    }
  }
}
process.exitCode = Math.min(1, wrong);
