/** Finite automata of expressions, by Glushkov's construction: https://en.wikipedia.org/wiki/Glushkov%27s_construction_algorithm */
import { type CodePoints, type Expression, ExpressionError, intersection } from './expression.ts';

/** Most characters, repetitions counted out, and most states of an automaton. */
const MAX_POSITIONS = 4000;
const MAX_STATES = 1000;

/** The places where an expression reads a character. */
interface Positions {
  readonly sets: CodePoints[];
  /** Positions that may come after each. */
  readonly follow: Set<number>[];
}

interface Ends {
  readonly first: readonly number[];
  readonly last: readonly number[];
  readonly isEmptyIn: boolean;
}

/** A state: whether a text may end there, and where it goes on. Sets of one state are apart. */
export interface State {
  readonly isFinal: boolean;
  readonly edges: readonly { readonly points: CodePoints; readonly target: number }[];
}

export interface Automaton {
  /** Whether the expression itself says at each character which one of its own it is. */
  readonly isDeterministic: boolean;
  /** States that need no guessing; the first one is the beginning. @throws ExpressionError if there are too many */
  determinize(): State[];
}

/** @throws ExpressionError for an expression that is too large */
export function automatonOf(expression: Expression): Automaton {
  const positions: Positions = { sets: [], follow: [] };
  const ends = place(expression, positions);
  const { sets, follow } = positions;
  const isApart = (ids: readonly number[]): boolean => areApart(ids.map((id) => sets[id] ?? []));
  return {
    isDeterministic: isApart([...new Set(ends.first)]) && follow.every((next) => isApart([...next])),
    determinize: () => determinize(ends, positions),
  };
}

function areApart(sets: readonly CodePoints[]): boolean {
  const ranges = sets.flat().sort((a, b) => a[0] - b[0]);
  return ranges.every(([first], i) => first > (ranges[i - 1]?.[1] ?? -1));
}

// ---- positions

const EMPTY: Ends = { first: [], last: [], isEmptyIn: true };

function place(expression: Expression, positions: Positions): Ends {
  switch (expression.type) {
    case 'set': {
      const id = positions.sets.push(expression.points) - 1;
      positions.follow.push(new Set());
      if (id >= MAX_POSITIONS)
        throw new ExpressionError(`expected at most ${MAX_POSITIONS} characters, counted out`);
      return { first: [id], last: [id], isEmptyIn: false };
    }
    case 'sequence':
      return expression.parts.reduce((ends, part) => chain(ends, place(part, positions), positions), EMPTY);
    case 'choice': {
      const all = expression.parts.map((part) => place(part, positions));
      return {
        first: all.flatMap(({ first }) => first),
        last: all.flatMap(({ last }) => last),
        isEmptyIn: all.some(({ isEmptyIn }) => isEmptyIn),
      };
    }
    case 'repeat':
      return placeRepeat(expression, positions);
  }
}

function chain(a: Ends, b: Ends, { follow }: Positions): Ends {
  for (const from of a.last) for (const to of b.first) follow[from]?.add(to);
  return {
    first: a.isEmptyIn ? [...a.first, ...b.first] : a.first,
    last: b.isEmptyIn ? [...a.last, ...b.last] : b.last,
    isEmptyIn: a.isEmptyIn && b.isEmptyIn,
  };
}

/** Counted out as x x (x (x)?)?, or x x x*. */
function placeRepeat(
  { part, min, max }: Extract<Expression, { type: 'repeat' }>,
  positions: Positions,
): Ends {
  let ends = EMPTY;
  for (let i = 0; i < min; i++) ends = chain(ends, place(part, positions), positions);
  if (max === null) {
    const again = place(part, positions);
    for (const from of again.last) for (const to of again.first) positions.follow[from]?.add(to);
    return chain(ends, { ...again, isEmptyIn: true }, positions);
  }
  // From the first optional one on, a text may end behind each.
  const last: number[] = [];
  let optional: Ends = EMPTY;
  for (let i = min; i < max; i++) {
    const next = place(part, positions);
    for (const from of optional.last) for (const to of next.first) positions.follow[from]?.add(to);
    optional = { first: i === min ? next.first : optional.first, last: next.last, isEmptyIn: true };
    last.push(...next.last);
  }
  return chain(ends, { ...optional, last }, positions);
}

// ---- states

function determinize(ends: Ends, { sets, follow }: Positions): State[] {
  const states: State[] = [];
  const known = new Map<string, number>();
  const pending: { ids: readonly number[]; isFinal: boolean }[] = [];
  const last = new Set(ends.last);
  const stateOf = (ids: readonly number[]): number => {
    const key = ids.join();
    const state = known.get(key) ?? known.size;
    if (state === known.size) {
      if (state >= MAX_STATES)
        throw new ExpressionError('expected an expression with fewer ways to match a text');
      known.set(key, state);
      pending.push({ ids, isFinal: ids.some((id) => last.has(id)) });
    }
    return state;
  };
  const edgesTo = (next: readonly number[]): State['edges'] => {
    const targets = new Map<number, [number, number][]>();
    for (const [points, ids] of pieces(next, sets)) {
      const target = stateOf(ids);
      targets.set(target, [...(targets.get(target) ?? []), ...points]);
    }
    return [...targets].map(([target, points]) => ({ points, target }));
  };
  // The beginning is no position; nothing leads back to it.
  known.set('', 0);
  states.push({ isFinal: ends.isEmptyIn, edges: edgesTo([...new Set(ends.first)]) });
  for (let state = pending.shift(); state !== undefined; state = pending.shift()) {
    const next = [...new Set(state.ids.flatMap((id) => [...(follow[id] ?? [])]))];
    states.push({ isFinal: state.isFinal, edges: edgesTo(next) });
  }
  return states;
}

/** Cuts the sets of some positions into pieces, and tells the positions that each piece belongs to, ascending. */
function pieces(
  ids: readonly number[],
  sets: readonly CodePoints[],
): (readonly [points: [number, number][], ids: number[]])[] {
  const cuts = new Set<number>();
  for (const id of ids) for (const [first, end] of sets[id] ?? []) cuts.add(first).add(end + 1);
  const sorted = [...cuts].sort((a, b) => a - b);
  const sortedIds = [...ids].sort((a, b) => a - b);
  return sorted.slice(0, -1).flatMap((first, i) => {
    const piece: [number, number] = [first, (sorted[i + 1] ?? first) - 1];
    const inside = sortedIds.filter((id) => intersection(sets[id] ?? [], [piece]).length > 0);
    return inside.length === 0 ? [] : [[[piece], inside] as const];
  });
}
