"""Wrong in what is asked across agents, in being woken, and in what a store says of itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from anyio.lowlevel import checkpoint
from tests.stores.mutants.table import wrong

from kode.core.clock import Clock
from kode.core.store import MemoryStore, Problem, Record
from kode.core.store.layers.watch import Changes
from kode.core.store.support.metrics import Metrics
from kode.core.store.support.questions import Question

MANY = 10**9
Rows = list[tuple[str, Record]]


class Selecting(MemoryStore):
    """It finds all rows and makes an answer of them in its own way."""

    async def select(self, question: Question) -> Rows:
        found = await super().select(self.asked(question))
        return self.answer(question, found)

    def asked(self, question: Question) -> Question:
        return question

    def answer(self, question: Question, found: Rows) -> Rows:
        return found


# ---- questions ---------------------------------------------------------------------------------------------


@wrong("query", "pages_fit_together_where_values_are_the_same")
class PagesByValue(Selecting):
    """A page goes on behind the value of the last one: what else has it is left out."""

    def answer(self, question: Question, found: Rows) -> Rows:
        last = question.after and question.after[0]
        return [each for each in found if question.sort == "agent_id" or question.place(*each)[0] != last]


@wrong("query", "pages_fit_together_where_values_are_the_same")
class LastOneTwice(Selecting):
    """`>=` for `>`: a page begins with the last row of the one before."""

    def asked(self, question: Question) -> Question:
        if question.after is None or question.kind == "header":
            return question
        return replace(question, after=(*question.after[:2], question.after[2][:-1]))


@wrong("query", "the_order_is_exact_both_ways")
class TiesAnyhow(Selecting):
    """`ORDER BY` the column alone: rows of one value come as they were written."""

    def answer(self, question: Question, found: Rows) -> Rows:
        if question.kind == "header":
            return found
        whole = sorted(found, key=lambda each: each[0], reverse=not question.descending)
        return sorted(whole, key=lambda each: question.place(*each)[0] or 0, reverse=question.descending)


@wrong("query", "the_order_is_exact_both_ways")
class NullsLast(Selecting):
    """Null is above all numbers."""

    def answer(self, question: Question, found: Rows) -> Rows:
        if question.sort != "expires_at" or question.limit < len(found) or question.descending:
            return found
        return sorted(found, key=lambda each: each[1].columns["expires_at"] is None)


@wrong("query", "those_of_some_agents")
class TenantsForgotten(Selecting):
    """Messages and calls are asked for without looking at whose they are."""

    def asked(self, question: Question) -> Question:
        tests = tuple(test for test in question.agents if test.column != "tenant" or question.kind == "header")
        return replace(question, agents=tests)


@wrong("query", "all_filters_must_hold")
class AnyFilter(Selecting):
    """The first filter of agents counts, and no other."""

    def asked(self, question: Question) -> Question:
        return replace(question, agents=question.agents[:1])


@wrong("query", "agents_by_each_filter")
class NullIsNoValue(Selecting):
    """`column IN (NULL)` finds nothing."""

    def answer(self, question: Question, found: Rows) -> Rows:
        asked = {test.column for test in question.agents if None in test.values}
        return [each for each in found if not any(each[1].columns.get(name, 0) is None for name in asked)]


@wrong("query", "bounds_of_time_are_half_open")
class UntilInclusive(Selecting):
    """`BETWEEN`."""

    def asked(self, question: Question) -> Question:
        def late(test: Any) -> Any:
            more = test.op == "<" and test.column != "expires_at"
            return replace(test, values=(test.values[0] + 1,)) if more else test

        agents, rows = tuple(map(late, question.agents)), tuple(map(late, question.rows))
        return replace(question, agents=agents, rows=rows)


@wrong("query", "values_are_text_and_never_commands")
class QuotedByHand(Selecting):
    """It doubles quotes and compares what comes of that."""

    def asked(self, question: Question) -> Question:
        def quoted(test: Any) -> Any:
            return replace(test, values=tuple(v.replace("'", "''") if isinstance(v, str) else v for v in test.values))

        return replace(question, agents=tuple(map(quoted, question.agents)), rows=tuple(map(quoted, question.rows)))


@wrong("query", "a_prefix_of_ids_is_no_pattern")
class PrefixAnyCase(Selecting):
    """`LIKE` knows no capitals."""

    def asked(self, question: Question) -> Question:
        return replace(question, prefix=question.prefix.lower())


@wrong("query", "the_answer_is_of_today")
class AnswersOfYesterday(MemoryStore):
    """Answers are kept, and nobody tells them that somebody wrote."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._answers: dict[Question, Rows] = {}

    async def select(self, question: Question) -> Rows:
        if question.kind == "header":
            return await super().select(question)
        if question not in self._answers:
            self._answers[question] = await super().select(question)
        return self._answers[question]


# ---- numbers -----------------------------------------------------------------------------------------------


@wrong("stats", "only_those_asked_for_are_counted")
class CountsEverybody(MemoryStore):
    """A filter chooses the agents, and the runs of all are summed up."""

    async def aggregate_stats(self, **filters: Any) -> Any:
        found = await super().aggregate_stats(**filters)
        if filters and found.agents:
            everybody = await super().aggregate_stats()
            found.runs, found.usage = everybody.runs, everybody.usage
        return found


@wrong("stats", "what_is_gone_is_not_counted")
class NeverCountsDown(MemoryStore):
    """Counters that only rise."""

    async def aggregate_stats(self, **filters: Any) -> Any:
        found = await super().aggregate_stats(**filters)
        found.agents += self.__dict__.get("gone", 0)
        return found

    async def erase(self, agent_id: str, **given: Any) -> str:
        uid = await super().erase(agent_id, **given)
        self.__dict__["gone"] = self.__dict__.get("gone", 0) + 1
        return uid


@wrong("stats", "durations_are_of_what_has_ended")
class CountsTheOpen(MemoryStore):
    """What has no end yet counts with no time."""

    async def aggregate_stats(self, **filters: Any) -> Any:
        found = await super().aggregate_stats(**filters)
        for tool, tally in found.call_seconds.items():
            tally.count = found.calls[tool].total()
        return found


# ---- being woken -------------------------------------------------------------------------------------------


class _Forgetful(Changes):
    async def wait(self) -> None:
        self._bell = type(self._bell)()
        await super().wait()


@wrong("watch", "a_change_before_the_wait_is_not_lost")
class WaitsForTheNext(MemoryStore):
    """Who waits is told of what comes after; what came between looking and waiting is missed."""

    def watch(self, agent_id: str | None = None, **given: Any) -> Changes:
        changes = super().watch(agent_id, **given)
        changes.__class__ = _Forgetful
        return changes


@wrong("watch", "every_change_wakes_its_watchers")
class CommitsOnly(MemoryStore):
    """An item wakes nobody: only what makes a version does."""

    async def enqueue(self, agent_id: str, item: Any, **given: Any) -> Any:
        bells, self._watching = self._watching, []
        try:
            return await super().enqueue(agent_id, item, **given)
        finally:
            self._watching = bells


@wrong("watch", "what_is_of_others_wakes_nobody")
class OneBellForAll(MemoryStore):
    """Everybody is woken by everything."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._changed = self._ring_all  # type: ignore[method-assign]

    def _ring_all(self, agent_id: str) -> None:
        for changes in self._watching:
            changes.ring()


@wrong("watch", "each_watcher_is_woken")
class OneWatcherEach(MemoryStore):
    """A watcher has its place by the agent's id, so the second takes that of the first."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._changed = self._ring_last  # type: ignore[method-assign]

    def _ring_last(self, agent_id: str) -> None:
        for changes in {changes.agent_id: changes for changes in self._watching}.values():
            if changes.agent_id in (None, agent_id):
                changes.ring()


# ---- of itself ---------------------------------------------------------------------------------------------


class Telling(MemoryStore):
    """It tells its metrics in its own way."""

    def told(self, name: str, gauge: Any) -> Any:
        raise NotImplementedError

    def metrics(self) -> Metrics:
        found = super().metrics()
        return replace(found, gauges={name: self.told(name, gauge) for name, gauge in found.gauges.items()})


@wrong("metrics", "each_call_counts_once")
class CountsRepetitionsTwice(MemoryStore):
    """A commit that had landed is asked for once more, and measured again."""

    async def commit(self, commit: Any) -> Any:
        done = await super().commit(commit)
        if done.repeated and "commit" in self._samples:
            self._samples["commit"].append(0.0)
        return done


@wrong("metrics", "what_failed_counts_as_a_call_and_by_its_code")
class CountsSuccessOnly(Telling):
    """A call that raised is no call."""

    def told(self, name: str, gauge: Any) -> Any:
        return replace(gauge, calls=gauge.calls - gauge.errors.total())


@wrong("metrics", "what_failed_counts_as_a_call_and_by_its_code")
class ErrorsByClass(Telling):
    """Errors are counted by their class, all conflicts of whatever code as one."""

    def told(self, name: str, gauge: Any) -> Any:
        return replace(gauge, errors=Counter({code.title(): n for code, n in gauge.errors.items()}))


@wrong("metrics", "times_are_those_of_the_clock")
class MillisecondsForSeconds(Telling):
    """Sums in another unit than the rest."""

    def told(self, name: str, gauge: Any) -> Any:
        return replace(gauge, seconds=gauge.seconds * 1_000)


@wrong("metrics", "what_was_told_is_of_that_moment")
class LiveGauges(MemoryStore):
    """It hands out the very gauges that it counts in."""

    def metrics(self) -> Metrics:
        return replace(super().metrics(), gauges=self._gauges)


@wrong("health", "what_does_not_work_is_said_and_not_raised")
class AlwaysWell(MemoryStore):
    """The process answers, so all is well."""

    async def check_health(self, **given: Any) -> Any:
        found = await super().check_health(**given)
        return replace(found, reachable=True, writable=True, problems=(), read_s=0.0, write_s=0.0)


@wrong("health", "looking_leaves_nothing", also="lifecycle", why="what a look leaves is looked for there, too")
class LeavesItsProbe(MemoryStore):
    """What it wrote to see whether it can stays."""

    async def _probe_only(self, *given: Any) -> None:
        pass

    async def check_health(self, **given: Any) -> Any:
        self._unmark = self._probe_only  # type: ignore[method-assign]
        try:
            return await super().check_health(**given)
        finally:
            del self._unmark


@wrong("health", "its_agents_are_counted")
class CountsThePage(MemoryStore):
    """It counts those of the first page of whoever is due."""

    async def check_health(self, **given: Any) -> Any:
        found = await super().check_health(**given)
        return replace(found, due=found.agents)


@wrong("consistency", "damaged_events_are_named")
class EventsUnchecked(MemoryStore):
    """Events are many, and are not looked at."""

    async def check_consistency(self, agent_id: str) -> Any:
        found = await super().check_consistency(agent_id)
        return replace(found, problems=tuple(p for p in found.problems if not p.record.startswith("events")))


@wrong("consistency", "damaged_messages_are_named")
class MendsWhatItFinds(MemoryStore):
    """A check that removes what it cannot read."""

    async def check_consistency(self, agent_id: str) -> Any:
        found = await super().check_consistency(agent_id)
        for problem in found.problems:
            if (problem.code, problem.record[:8]) == ("unreadable", "message "):
                uid, key = problem.record.split(" ")[1].split("/")
                self._delete("message", uid, key)
        return found


@wrong("consistency", "a_busy_agent_has_no_finding")
class LooksWithoutPatience(MemoryStore):
    """What changes while it is read is told as damage."""

    async def check_consistency(self, agent_id: str) -> Any:
        before = await self.agents(agent_id, "", 1)
        await checkpoint()
        found = await super().check_consistency(agent_id)
        if before != await self.agents(agent_id, "", 1):
            return replace(found, problems=(Problem("gap", "message", "the history has grown meanwhile."),))
        return found
