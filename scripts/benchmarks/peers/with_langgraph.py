"""LangGraph: a graph of a model node and a tool node with its own checkpointers."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from peer import AGENT_ROUNDS, HISTORY, ROUNDS, TEXT, arguments, measure, model_time, tell_versions
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

THREADS = itertools.count()


def graph(saver, rounds, slow=False):
    """Model and tool in turns until the model has called so often."""

    async def model(state):
        if slow:
            await model_time()
        called = 0
        for message in reversed(state["messages"]):
            if message.type == "human":
                break
            called += message.type == "ai"
        if called < rounds:
            call = {"name": "look", "args": {"path": "a.py"}, "id": f"c{called}"}
            return {"messages": [AIMessage("", tool_calls=[call])]}
        return {"messages": [AIMessage("Done.")]}

    async def tools(state):
        call = state["messages"][-1].tool_calls[0]
        return {"messages": [ToolMessage(f"{call['args']['path']}: nothing special", tool_call_id=call["id"])]}

    built = StateGraph(MessagesState)
    built.add_node("model", model)
    built.add_node("tools", tools)
    built.add_edge(START, "model")
    built.add_conditional_edges("model", lambda s: "tools" if s["messages"][-1].tool_calls else END)
    built.add_edge("tools", "model")
    return built.compile(checkpointer=saver)


async def turn(compiled, thread, durability):
    """One turn of a thread."""
    config = {"configurable": {"thread_id": thread}, "recursion_limit": 100}
    out = await compiled.ainvoke({"messages": [HumanMessage("go")]}, config, durability=durability)
    assert out["messages"][-1].content == "Done."


async def main():
    """All rows on all stores."""
    asked = arguments()
    tell_versions("langgraph", "langgraph-checkpoint-postgres", "langgraph-checkpoint-sqlite")
    async with AsyncExitStack() as stack:
        pool = AsyncConnectionPool(
            asked.postgres, max_size=10, kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        )
        await stack.enter_async_context(pool)
        postgres = AsyncPostgresSaver(pool)
        await postgres.setup()
        sqlite = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(f"{asked.folder}/a.db"))
        for store, saver in (("memory", InMemorySaver()), ("sqlite", sqlite), ("postgres", postgres)):
            for durability in ("sync", "async"):
                label = store if store == "memory" else f"{store} {durability}"
                if label == "memory" and durability == "async":
                    continue
                ten = graph(saver, ROUNDS)
                await measure("ten", label, lambda g=ten, d=durability: turn(g, f"t{next(THREADS)}", d), asked.times)
                many = graph(saver, AGENT_ROUNDS, slow=True)

                async def all_of_them(many=many, durability=durability):
                    names = [f"m{next(THREADS)}" for _ in range(asked.agents)]
                    await asyncio.gather(*(turn(many, name, durability) for name in names))

                await measure("agents", label, all_of_them, 1, warm=0)
            long, one = f"long-{store}", graph(saver, 0)
            history = [kind(TEXT) for _ in range(HISTORY // 2) for kind in (HumanMessage, AIMessage)]
            await one.aupdate_state({"configurable": {"thread_id": long}}, {"messages": history}, as_node="model")
            await measure("turn", store, lambda one=one, long=long: turn(one, long, "sync"), asked.times)


asyncio.run(main())
