"""A department of the support desk: asks the board before it asks the customer.

What a customer says is written down sentence by sentence, with user, session and department, and
only then the board is asked what is known of the customer. That order matters: an agent's recall
waits until its own last write is indexed, and so is everything that others wrote before it. A note
has a key made from the message, so a message that is handled again, by whichever replica, writes
the same notes again; and the reply is one transaction with the message. The agent itself remembers
nothing. Kill it, start three of it, move a conversation to another: no question comes twice.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from clerk import open_clerk
from facts import Fact

from blackboard import Agent, Blackboard, Hit, Hits, Memory
from blackboard.consolidate.sentences import units_of
from blackboard.errors import GoneError, HistoryGoneError, TerminalError, UnavailableError
from blackboard.hits import Rows

VERSION = "1"
SAID = "support.said"
"""Notes: sentences of customers, below it by the department that heard them."""
CANDIDATES = 10
"""How many notes are looked at for an answer."""
MAX_NOTES = 30
"""Sentences of a message that are kept apart; what follows stays together."""


@dataclass(frozen=True, slots=True)
class Known:
    """A fact, the note that tells it, and how it was found: by its tag or by its meaning."""

    fact: Fact
    note: Memory
    how: Literal["tag", "meaning"]

    def entry(self) -> dict[str, str]:
        """As a reply keeps it."""
        return {"fact": self.fact.name, "how": self.how, "ref": str(self.note.pinned)}


def department(name: str, needs: Sequence[Fact], errand: str) -> Agent:
    """Declare the agent of a department.

    Args:
        name: Of the department and its agent.
        needs: What it has to know before it can do anything, in the order of asking.
        errand: What it does once it knows; said to the customer.
    """
    agent = Agent(name, version=VERSION)

    @agent.answers(f"support.{name}", concurrency=4, ack_wait=2.0, start="start")
    async def serve(message: Memory, board: Blackboard) -> Memory:
        """Answer a customer's message: with a question if there must be one."""
        user = message.user
        if user is None:  # a search without a user would be one through all customers
            raise TerminalError("a message to the desk names its customer: put it with user=")
        await _write_down(message, needs, board, name)
        settled = await _settled(message, needs, board, name)
        known: list[Known] = []
        for fact in needs:
            found = settled.get(fact.name) or await _look_up(fact, user, board)
            if found is None:
                return _question(name, fact, known)
            known.append(found)
        return await _answer(name, errand, known, message)

    return agent


async def _write_down(
    message: Memory, needs: Sequence[Fact], board: Blackboard, department: str
) -> None:
    """Put what the customer says, each sentence a note; the one that was asked for gets its tag."""
    text = str(message.content)
    units = [unit.text for unit in units_of(text)]
    # Even what has no word is written down: it is the write that the look-ups wait for.
    sentences = units[:MAX_NOTES] or [text]
    if len(units) > MAX_NOTES:
        sentences.append(" ".join(units[MAX_NOTES:]))
    asked = next((fact for fact in needs if fact.name == message.tags.get("replies-to")), None)
    telling: set[str] = set()
    if asked is not None:
        # They were asked, so they told; the sign only tells which of several sentences it was.
        telling = {one for one in sentences if asked.sign.search(one)} or set(units)
    for number, sentence in enumerate(sentences):
        tags = {"department": department}
        if asked is not None and sentence in telling:
            tags["fact"] = asked.name
        await board.put(
            f"{SAID}.{department}", sentence, key=f"{message.id}-{number}", tags=tags, now=True
        )


async def _settled(
    message: Memory, needs: Sequence[Fact], board: Blackboard, department: str
) -> dict[str, Known]:
    """What this conversation has settled already: it stands in the reply before, by reference."""
    if message.session is None:
        return {}
    replies = await board.query(
        topic=f"answers.{message.topic}",
        agent=department,
        session=message.session,
        user=message.user,
        limit=1,
    )
    _refuse_stale(replies)
    facts = {fact.name: fact for fact in needs}
    found: dict[str, Known] = {}
    for entry in replies[0].content["known"] if replies else ():
        fact = facts.get(entry["fact"])  # of another version of this program, maybe none
        if fact is not None:
            with suppress(GoneError, HistoryGoneError):  # taken back meanwhile: look again
                found[fact.name] = Known(fact, await board.get(entry["ref"]), entry["how"])
    return found


async def _look_up(fact: Fact, user: str, board: Blackboard) -> Known | None:
    """Find the note that tells a fact: by its tag, or else by what was said, whoever heard it."""
    tagged = await board.query(
        topic=f"{SAID}.>", user=user, tags={"fact": fact.name}, order_by="-stored", limit=1
    )
    _refuse_stale(tagged)
    if tagged:
        return Known(fact, tagged[0], "tag")
    hits = await board.recall(fact.question, topic=f"{SAID}.>", user=user, limit=CANDIDATES)
    _refuse_stale(hits)
    hit = await (await open_clerk()).choose(fact, hits)
    return None if hit is None else Known(fact, hit.memory, "meaning")


def _refuse_stale(found: Hits | Rows) -> None:
    if found.stale:
        raise UnavailableError(
            f"the index is {found.lag} messages behind; better late than asking again", after_s=1.0
        )


def _question(name: str, fact: Fact, known: Sequence[Known]) -> Memory:
    """The reply that asks for a fact."""
    return Memory(
        content={"say": fact.question, "known": [one.entry() for one in known]},
        tags={"department": name, "asks": fact.name},
        sources=tuple(one.note.pinned for one in known),
    )


async def _answer(name: str, errand: str, known: Sequence[Known], message: Memory) -> Memory:
    """The reply that needs no question, with every note it rests on."""
    # What was said in this conversation needs no telling where it is from.
    cited = [one for one in known if one.note.session != message.session]
    here = [one for one in known if one not in cited]
    notes = Hits(Hit(one.note, 1.0) for one in (*cited, *here))
    say = await (await open_clerk()).answer(name, errand, notes)
    if cited:
        names = (f"{one.fact.name} [m{number}]" for number, one in enumerate(cited, 1))
        say = f"{say} I did not have to ask for: {', '.join(names)}."
    return Memory(
        content={
            "say": say,
            "known": [one.entry() for one in known],
            "cites": [_cite(one) for one in cited],
        },
        tags={"department": name},
        sources=tuple(one.note.pinned for one in known),
    )


def _cite(one: Known) -> dict[str, object]:
    return {
        **one.entry(),
        "agent": one.note.agent,
        "stored": one.note.stored,
        "said": one.note.content,
    }
