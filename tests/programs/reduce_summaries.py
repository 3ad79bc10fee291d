"""Makes one report of the three summaries of a session."""

from blackboard import Agent, Blackboard, Memory

agent = Agent("reducer")


@agent.gather("docs.summary", until=3, to="docs.report")
async def report(summaries: list[Memory], _: Blackboard) -> str:
    return " ".join(sorted(summary.content for summary in summaries))


if __name__ == "__main__":
    agent.run()
