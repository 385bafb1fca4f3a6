"""Ids as people write them: `12`, `12_7`, `12_3-9`, `12_[3-9]`, `3-9`.

A job that is named alone must exist; a range takes what there is of it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from gpud.model.array import IndexSet, parse_indices
from gpud.model.job import NUMBER_MAX, End, JobId, array_of, format_job, index_of, job_id, number_of
from gpud.model.spec import Dependency, Park, When
from gpud.model.units import Timestamp
from gpud.store.reader import Reader
from gpud.store.rows import JobQuery, Standing
from gpud.wire.changes import Selection
from gpud.wire.check import Wrong

STATES = frozenset({"held", "queued", "starting", "running", "stopping", *(end.value for end in End)})
ENDED = frozenset(end.value for end in End)
_MANY = 1_000_000
_FEW = 1_000
_ELEMENTS_MOST = 100_000
_ROWS_MOST = 10_000
_AFTER_MOST = 1_000
_TEXT_MOST = 1 << 20  # characters of all words of one request
SINGLETON = "singleton"
_SYNTAX = "write 12, an element 12_7, elements 12_3-9, or a range of jobs 3-9"


@dataclass(frozen=True, slots=True)
class Named:
    """One word of a selection. `elements` is None for whole jobs; `alone`: it must exist."""

    text: str
    first: int
    last: int
    elements: IndexSet | None
    alone: bool

    @property
    def span(self) -> tuple[JobId, JobId]:
        """Return the keys from and to which the named jobs, their elements included, lie."""
        if self.elements is not None:
            indices = self.elements.ranges
            return job_id(self.first, indices[0][0]), job_id(self.first, indices[-1][-1])
        return job_id(self.first), JobId(job_id(self.last + 1) - 1)

    def names(self, job: JobId) -> bool:
        """Return whether this word means that key: elements only where it speaks of elements."""
        if self.elements is None:
            return array_of(job) == job and job_id(self.first) <= job <= job_id(self.last)
        low = job_id(self.first)
        return array_of(job) == low and job != low and job - low - 1 in self.elements


def no_such_group(name: str) -> Wrong:
    """Return what is wrong with a group in which there is, and was, no job."""
    return Wrong(f"there is no group {name!r}", "see what there is: gpuctl group", "no_such_group")


def no_such_job(word: str) -> Wrong:
    """Return what is wrong with a job that there is not; SLURM_JOB_ID of an element is its key, a large number."""
    hint = "see what there is: gpuctl list --all"
    key = JobId(int(word)) if word.isdigit() else JobId(0)
    if number_of(key) and index_of(key) is not None:
        hint = f"as a SLURM_JOB_ID that is {format_job(key)}"
    return Wrong(f"there is no job {word}", hint, "no_such_job")


def parse_jobs(words: list[str]) -> list[Named]:
    """Return what each word names. Raises Wrong, with what would be understood."""
    if sum(map(len, words)) > _TEXT_MOST:
        raise Wrong("so many jobs cannot be named one by one", "name ranges of them: 3-9, 12_3-9")
    return [_parse(word) for word in words]


def merged(spans: Iterable[tuple[JobId, JobId]]) -> list[tuple[JobId, JobId]]:
    """Return ranges of keys in order, those that overlap as one: whoever names a job twice has it looked at once."""
    apart: list[tuple[JobId, JobId]] = []
    for low, high in sorted(spans):
        if apart and low <= apart[-1][1]:
            apart[-1] = apart[-1][0], max(high, apart[-1][1])
        else:
            apart.append((low, high))
    return apart


def within(job: JobId, spans: Sequence[tuple[JobId, JobId]]) -> bool:
    """Return whether a key lies in one of these ranges, which are `merged`."""
    at = bisect_right(spans, job, key=itemgetter(0)) - 1
    return at >= 0 and job <= spans[at][1]


def parse_job(word: str) -> JobId:
    """Return the one job, array or element that a word names. Raises Wrong for anything else."""
    named = _parse(word)
    if not named.alone:
        raise Wrong(f"{word!r} names more than one job", "name one: 12, or an element 12_7")
    return job_id(named.first, None if named.elements is None else named.elements.first)


def _parse(word: str) -> Named:
    number, underscore, rest = word.strip().partition("_")
    if underscore:
        spec = rest[1:-1] if rest.startswith("[") and rest.endswith("]") else rest
        try:
            elements = parse_indices(spec)
        except ValueError:
            raise Wrong(f"{word!r} is not a job id", _SYNTAX) from None
        first = _number(number, word)
        return Named(word, first, first, elements, alone=spec.isdigit())
    low, dash, high = number.partition("-")
    first = _number(low, word)
    last = _number(high, word) if dash else first
    if last < first:
        raise Wrong(f"{word!r} is not a range of jobs: it ends before it begins", _SYNTAX)
    return Named(word, first, last, None, alone=not dash)


def _number(digits: str, word: str) -> int:
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 15:
        raise Wrong(f"{word!r} is not a job id", _SYNTAX)
    return min(int(digits), NUMBER_MAX - 1)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The jobs that a selection comes to, each with the state it had: all of them exist, and may be changed."""

    states: dict[JobId, str]

    @property
    def jobs(self) -> tuple[JobId, ...]:
        """Return the keys, in order."""
        return tuple(self.states)


def checked_states(words: Iterable[str]) -> frozenset[str]:
    """Return states that people name. Raises Wrong for what is none."""
    for word in words:
        if word not in STATES:
            raise Wrong(f"{word!r} is not a state", f"states are: {', '.join(sorted(STATES))}")
    return frozenset(words)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whoever asks."""

    uid: int
    name: str


def resolve(reader: Reader, select: Selection, me: Owner, *, may_all: bool, ended: bool = False) -> Chosen:
    """Return the jobs of a selection that I may change: my own, or with `may_all` everybody's.

    Raises Wrong: `no_such_job` for one named alone that there is not, `no_such_group`, `not_permitted` for one that is
    another's, or for all that are another's. What else only filters select is narrowed to one's own instead, and has
    not ended, unless `ended` may be meant and a state that is an end is named: then the newest of both, and of an array
    that is named its elements, too.
    """
    words = parse_jobs(list(dict.fromkeys(select.get("jobs", []))))
    states = checked_states(select.get("state", ()))
    mine, user, group = select.get("mine", False), select.get("user"), select.get("group")
    if not words and not states and not mine and user is None and group is None:
        raise Wrong("no jobs are named", "name jobs (12, 12_7, 3-9) or select them: --mine, --user, --state, --group")
    ended = ended and not states.isdisjoint(ENDED)
    if not words:
        own_only = mine or not may_all
        if own_only and user not in {None, me.name}:
            if not mine:
                raise Wrong(f"jobs of {user!r} are not yours", "only their owner may", "not_permitted")
            return Chosen({})
        user = me.name if own_only else user
        limit = _FEW if ended and group is None else _MANY
        query = JobQuery(states=states, user=user, group=group, ended=ended, limit=limit)
        rows, _ = reader.standings(query)
        found = {row.job: row.state for row in rows if not own_only or row.terms.uid == me.uid}
        if not found and group is not None and not reader.groups(group, Timestamp(0)):
            raise no_such_group(group)
        return Chosen(found)
    spans = _spans(words)
    another = None if may_all else reader.anothers(spans, me.uid)  # before so much as one row of others is read
    if another is not None:
        job, owner = another
        raise Wrong(f"job {format_job(job)} is {owner}'s", "only its owner may", "not_permitted")
    found = {}
    meant = [*_meant(words, reader.standings(JobQuery(spans=spans, limit=_MANY))[0])]
    if ended:
        whole = tuple(merged(word.span for word in words if word.elements is None))
        rows = reader.standings(JobQuery(spans=whole, states=states, limit=_MANY))[0]
        meant += [(row, row.job) for row in rows if index_of(row.job) is not None]
    for row, key in meant:
        state = row.state if row.job == key else _state_within(row, key)
        wanted = user in {None, row.terms.user} and not (mine and row.terms.uid != me.uid)
        wanted &= group in {None, row.group}
        if wanted and (not states or state in states):
            found[key] = state
    return Chosen(found)


def outermost(chosen: Chosen) -> tuple[JobId, ...]:
    """Return the chosen jobs that have not ended, without elements of chosen arrays: they go with those."""
    live = {job for job, state in chosen.states.items() if state not in ENDED}
    return tuple(job for job in chosen.states if job in live and (array_of(job) == job or array_of(job) not in live))


@dataclass(frozen=True, slots=True)
class Predecessors:
    """What a job comes after, all of which exist, and how those ended that have."""

    jobs: tuple[Dependency, ...] = ()
    ends: tuple[tuple[JobId, End], ...] = ()


def predecessors(reader: Reader, after: dict[str, list[str]], alike: tuple[str, str] | None = None) -> Predecessors:
    """Return the jobs that a submit names to come after. Raises Wrong for one that there is not.

    `singleton` means all that have not ended of the user and the name that are `alike`.
    """
    found: dict[Dependency, None] = {}
    for word, names in after.items():
        if word == SINGLETON and alike is not None and not names:
            others, _ = reader.standings(JobQuery(user=alike[0], name=alike[1], limit=_MANY))
            found |= {Dependency(array_of(row.job), When.ANY): None for row in others}
            continue
        if word not in set(When):
            raise Wrong(f"{word!r} is no way to end", f"there are: {', '.join(When)}")
        named = parse_jobs(names)
        rows, more = reader.standings(JobQuery(spans=_spans(named), limit=_ROWS_MOST))
        if more:
            raise _too_many_before("many more")
        found |= {Dependency(key, When(word)): None for _, key in _meant(named, rows)}
    if len(found) > _AFTER_MOST:
        raise _too_many_before(str(len(found)))
    if not found and SINGLETON not in after:
        raise Wrong("no job is named to come after", "see what there is: gpuctl list --all", "no_such_job")
    return Predecessors(tuple(found), tuple(reader.ends([each.job for each in found]).items()))


def _state_within(array: Standing, element: JobId) -> str:
    """Return the state of an element without a row: it waits with its array, or was cancelled with it."""
    state, index = array.array_state, index_of(element)
    dropped = state is not None and index is not None and index in state.dropped
    return "cancelled" if dropped else "held" if array.park in {Park.HELD, Park.NEVER} else "queued"


def _too_many_before(count: str) -> Wrong:
    return Wrong(f"{count} jobs are named to come after; {_AFTER_MOST} are the most", "name whole arrays")


def _spans(words: list[Named]) -> tuple[tuple[JobId, JobId], ...]:
    """Return the keys of every row that any of these words may mean, arrays of named elements among them."""
    spans, left = [], _FEW
    for named in words:
        count = named.last - named.first + 1
        if named.elements is not None:
            spans += [named.span, (job_id(named.first), job_id(named.first))]
        elif count <= max(1, left):  # each alone: what lies between them are elements, maybe very many
            left -= count if count > 1 else 0
            spans += [(job_id(number), job_id(number)) for number in range(named.first, named.last + 1)]
        else:
            spans.append(named.span)
    return tuple(merged(spans))


def _meant(words: list[Named], rows: Iterable[Standing]) -> Iterator[tuple[Standing, JobId]]:
    """Yield the keys that words mean, each with its own row, or its array's while it is one of many there."""
    known, left = {row.job: row for row in rows}, _MANY
    keys = sorted(known)
    for named in words:
        low, high = named.span
        inside = keys[bisect_left(keys, low) : bisect_right(keys, high)]
        rest = _without_rows(named, known.get(job_id(named.first)))
        left -= len(inside) + len(rest)
        if left < 0:
            raise Wrong("the same jobs are named very often", "name each of them once")
        found = [(known[key], key) for key in inside if named.names(key)]
        found += [(known[job_id(named.first)], job_id(named.first, index)) for index in rest]
        if named.alone and not found:
            raise no_such_job(named.text)
        yield from found


def _without_rows(named: Named, array: Standing | None) -> IndexSet:
    """Return which of the elements that a word names only their array's row tells of. Raises Wrong for very many."""
    if named.elements is None or array is None or array.array_state is None:
        return IndexSet()
    rest = named.elements & (array.array_state.pending | array.array_state.dropped)
    if len(rest) > _ELEMENTS_MOST:
        raise Wrong(
            f"{named.text} names {len(rest)} elements that wait; {_ELEMENTS_MOST} are the most at once",
            f"name the whole array, {named.first}, or less of it",
        )
    return rest
