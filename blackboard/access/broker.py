"""The policy as the broker's configuration: who may publish and listen where.

Allow lists only, because a subject with a wildcard slips past a list of what is forbidden. An agent
publishes under its own name, reads single messages at subjects that carry its name, listens to its
own inbox, and holds no other right to JetStream: what takes more, the steward does for it.

Readers ask at `_R_.bb.rd.…`, which the account exports to itself; the same messages are what the
streams of reads capture, so the broker itself records who read what. Behind the export a read is
mapped by its exact number of tokens, and not by a `>` that would be shorter: the broker takes a `>`
that a client publishes for the one token that `*` in its allow list stands for, and a direct get
takes it for everything below. With a mapping of stars such a read reaches nobody (tried).

A read with headers of a write is answered and kept out of those streams, and nothing at the broker
prevents it (see `ledger.tap`). So nobody gets a right here to read under labels that the policy
calls served: the steward answers such reads, after it has recorded them.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple

from blackboard.access import filters
from blackboard.access.identity import (
    ACCESS_STREAM,
    ACCOUNT,
    MAX_READ_TOKENS,
    PREFIX,
    SYSTEM,
    Identity,
    read_subject,
    rights_subject,
)
from blackboard.access.keys import Keys
from blackboard.access.policy import Policy
from blackboard.access.rights import ANY, PROBE, Grant, Rights
from blackboard.subjects import (
    FORGET,
    SHARED,
    audit_subject,
    claim_subject,
    consumer_name,
    dead_stream,
    dead_subject,
    hint_subject,
    memory_stream,
    presence_bucket,
    service_subject,
    spans_subject,
)

SYSTEM_ACCOUNT = "SYS"
READ = "bbread"
"""Where reads come out on the other side of the export; nobody may publish there."""
READ_TOKENS = (3, *range(5, MAX_READ_TOKENS + 1))
"""Tokens of what can be read: `access.<board>.<agent>`, claims, and memories."""
SETTLE = "$JS.FC.>"
"""Flow control: an answer there needs an id that only its consumer's reader knows."""
LOOK = (
    "$JS.API.INFO",
    "$JS.API.STREAM.INFO.>",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.MSG.GET.>",
    "$JS.API.DIRECT.GET.>",
    "$JS.API.CONSUMER.>",
    "$JS.ACK.>",
)
"""JetStream for those who read only: streams as they are, messages, and consumers."""
EVENTS = "$JS.EVENT.>"
RESTORE = "$JS.SNAPSHOT.RESTORE.>"
"""Where a stream's messages go while it is restored."""
DISCOVERY = "$SRV.>"
ABOUT_ME = "$SYS.REQ.USER.INFO"
INBOXES = "_INBOX.>"
RECALL_VERBS = ("recall", "query", "status", "reindex")
CONDENSING = "condensing"
"""What the consolidator is asked: how far it is."""


class Permissions(NamedTuple):
    """Where somebody may publish, and where listen."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def permissions(rights: Rights) -> Permissions:
    """What the broker lets an agent do on its board."""
    board, agent = rights.board, rights.agent
    written = list(dict.fromkeys(grant.access for grant in rights.write))
    labels = list(dict.fromkeys(grant.access for grant in (*rights.read, *rights.write)))
    stored = [
        *filters.own(rights),
        *(f"blob.{board}.{label}.{agent}.>" for label in written),
        *(claim_subject(board, label, agent, ">") for label in dict.fromkeys((*written, SHARED))),
        *_accounts(board, agent),
    ]
    hints = [hint_subject(board, label, "*") for label in labels]
    publish = [
        *(PREFIX + subject for subject in stored),
        *_reads(rights),
        *(subject for handler in rights.handlers for subject in _pulls(rights, handler)),
        *hints,
        service_subject(board, "*", agent),
        SETTLE,
    ]
    inbox = f"{Identity(board, agent, '').inbox}.>"
    return Permissions(tuple(publish), (inbox, *hints))


def _accounts(board: str, agent: str) -> list[str]:
    """What everybody writes of itself: audit, spans, dead letters and presence."""
    return [
        audit_subject(board, agent),
        spans_subject(board, agent),
        dead_subject(board, agent, ">"),
        f"$KV.{presence_bucket(board)}.{agent}.>",
    ]


def _reads(rights: Rights) -> list[str]:
    board, agent = rights.board, rights.agent
    answered = filters.by_broker(rights)
    wanted = (*filters.reads(answered), *filters.own(answered), *filters.claims(answered))
    asked = [read_subject(board, agent, memory_stream(board), subject) for subject in wanted]
    return [*asked, read_subject(board, agent, ACCESS_STREAM, rights_subject(board, agent))]


def _pulls(rights: Rights, handler: str) -> list[str]:
    consumer = consumer_name(rights.agent, handler)
    streams = (memory_stream(rights.board), dead_stream(rights.board))
    pulls = [f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}" for stream in streams]
    return [*pulls, *(f"$JS.ACK.{stream}.{consumer}.>" for stream in streams)]


def service_permissions() -> dict[str, Permissions]:
    """What the broker lets the command line, the services and the probe do, on every board."""
    return {
        "cli": Permissions(
            (
                *("$JS.API.>", "$JS.ACK.>", RESTORE, DISCOVERY),
                *(*_as("cli"), *_stored("retry.>", "access.>")),
            ),
            (*_inbox("cli"), "hint.>", EVENTS),
        ),
        "consolidator": Permissions(
            # It retires what others wrote, so like the steward it may write on their subjects.
            (*LOOK, *_as("consolidator"), *_stored("mem.>"), INBOXES),
            (
                *_inbox("consolidator"),
                service_subject(ANY, CONDENSING, ANY),
                *("hint.>", EVENTS, DISCOVERY),
            ),
        ),
        "recall": Permissions(
            (
                *(*LOOK, SETTLE, ABOUT_ME, INBOXES),
                service_subject(ANY, "note", "recall"),
                # The last: how far its indexes are clean of what was forgotten.
                *_stored("audit.*.recall", "spans.*.recall", f"claim.*.{FORGET}.recall.>"),
            ),
            (
                *_inbox("recall"),
                *(service_subject(ANY, verb, ANY) for verb in RECALL_VERBS),
                EVENTS,
                DISCOVERY,
            ),
        ),
        "steward": Permissions(
            ("$JS.API.>", "$JS.ACK.>", *_stored(">"), "svc.>", "hint.>", SETTLE, ABOUT_ME, INBOXES),
            # It listens in to reads, because some evade the stream that records them.
            (*_inbox("steward"), "svc.>", "hint.>", *_stored("rd.>"), EVENTS, DISCOVERY),
        ),
        PROBE: _probe(),
    }


def _as(name: str) -> list[str]:
    """What a service may write under its own name, as an agent with all topics may."""
    own = [f"{kind}.*.*.{name}.>" for kind in ("mem", "claim", "blob")]
    own += [f"audit.*.{name}", f"spans.*.{name}", f"dead.*.{name}.>", f"$KV.*.{name}.>"]
    own.append(f"rd.*.{name}.>")
    return [*_stored(*own), service_subject(ANY, ANY, name), "hint.>", SETTLE, ABOUT_ME]


def _stored(*subjects: str) -> list[str]:
    return [PREFIX + subject for subject in subjects]


def _inbox(name: str) -> list[str]:
    return [f"{Identity(ANY, name, '').inbox}.>"]


def _probe() -> Permissions:
    """As an agent on every board, under the label that forgeries are tried with."""
    own = (Grant(PROBE),)
    everywhere = Rights(board=ANY, agent=PROBE, read=own, write=own)
    publish, subscribe = permissions(everywhere)
    # A wildcard is a whole token, so the name of any board's stream or bucket becomes one.
    any_name = {memory_stream(ANY), presence_bucket(ANY)}
    whole = (
        ".".join(ANY if token in any_name else token for token in subject.split("."))
        for subject in publish
    )
    return Permissions(tuple(whole), subscribe)


def configuration(policy: Policy, keys: Keys) -> str:
    """The accounts of a broker under a policy, to be included in its configuration.

    Args:
        policy: The policy.
        keys: The public keys of its agents, and of the services.

    Returns:
        Text for the top level of a configuration that has JetStream, and no `authorization`.
    """
    users: list[str] = []
    for name, allowed in service_permissions().items():
        users += _user(name, keys.services[name], allowed)
    for (board, agent), member in policy.members.items():
        users += _user(f"{agent} of {board}", keys.agents[board, agent], permissions(member.rights))
    lines = "\n".join(users)
    mappings = "\n".join(f'      "{source}": "{to}"' for source, to in read_mappings().items())
    return f"""\
# Compiled from the access policy {policy.digest}; changes are lost.
accounts {{
  {SYSTEM_ACCOUNT} {{
    users: [ {{ nkey: {keys.services[SYSTEM]} }} ]
  }}
  {ACCOUNT} {{
    jetstream: enabled
    mappings {{
{mappings}
    }}
    exports: [ {{ service: "{READ}.>" }} ]
    imports: [ {{ service: {{ account: {ACCOUNT}, subject: "{READ}.>" }}, to: "{PREFIX}rd.>" }} ]
    users: [
{lines}
    ]
  }}
}}
system_account: {SYSTEM_ACCOUNT}
"""


def read_mappings() -> dict[str, str]:
    """From `<READ>.<board>.<agent>.<stream>.<subject>` to the direct get; length by length."""
    return {
        f"{READ}.{'.'.join('*' * (count + 3))}": (
            f"$JS.API.DIRECT.GET.{'.'.join(f'${place + 3}' for place in range(count + 1))}"
        )
        for count in READ_TOKENS
    }


def _user(name: str, key: str, allowed: Permissions) -> Iterable[str]:
    yield f"      # {name}"
    yield f"      {{ nkey: {key}, permissions: {{"
    yield f"        publish: {{ allow: {_list(allowed.publish)} }}"
    yield f"        subscribe: {{ allow: {_list(allowed.subscribe)} }}"
    yield "      } }"


def _list(subjects: Iterable[str]) -> str:
    lines = "\n".join(f"          {json.dumps(subject)}" for subject in subjects)
    return f"[\n{lines}\n        ]"
