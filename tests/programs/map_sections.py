"""Summarises sections, each content once on the whole board."""

from blackboard import Agent, Blackboard, Memory

agent = Agent("mapper")


@agent.on("docs.section.>", to="docs.summary")
async def summarize(section: Memory, board: Blackboard) -> Memory:
    return await board.once("summary", section.content, section.content.upper)


if __name__ == "__main__":
    agent.run()
