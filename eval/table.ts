/** The result as Markdown: quality, and cost against the dense run. */
import { QUESTION_SETS, type QuestionSet } from './items.ts';
import type { SettingResult } from './results.ts';
import type { GroupScore } from './scores.ts';

type Column = readonly [title: string, cell: (result: SettingResult) => string];

const NONE = '-';

function percent(share: number): string {
  return (100 * share).toFixed(1);
}

function number(value: number | null | undefined, digits = 2): string {
  return value == null ? NONE : value.toFixed(digits);
}

function exact(score: GroupScore | undefined): string {
  if (score === undefined) return NONE;
  const interval = `${percent(score.exact)} (${(100 * score.low).toFixed(0)}-${(100 * score.high).toFixed(0)})`;
  return score.similarity === undefined ? interval : `${interval}, ${score.similarity.toFixed(3)}`;
}

function markdown(columns: readonly Column[], results: readonly SettingResult[]): string {
  const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [
    row(columns.map(([title]) => title)),
    row(columns.map(() => '---')),
    ...results.map((result) => row(columns.map(([, cell]) => cell(result)))),
  ].join('\n');
}

const NAME: Column = ['setting', ({ name, failure }) => (failure === null ? name : `${name} (failed)`)];

function qualityColumns(results: readonly SettingResult[]): Column[] {
  const groupsOf = (set: QuestionSet): string[] => Object.keys(results[0]?.quality?.[set] ?? {});
  const scores = QUESTION_SETS.flatMap((set) =>
    // The tasks of `copy` differ; lengths are told apart where they are long enough to matter.
    groupsOf(set)
      .filter((group) =>
        set === 'long' ? group !== 'all' : set === 'copy' ? group === 'copy' : group === 'all',
      )
      .map((group): Column => [
        set === 'copy' ? 'copy, similarity' : group === 'all' ? set : `${set} ${group}`,
        ({ quality }) => exact(quality?.[set]?.[group]),
      ]),
  );
  const books: Column[] = [
    ['perplexity', ({ quality }) => number(quality?.books?.perplexity)],
    ['continuation', ({ quality }) => number(quality?.books?.continuation_perplexity)],
  ];
  return [NAME, ...scores, ...(results[0]?.quality?.books === undefined ? [] : books)];
}

function costColumns(length: string): Column[] {
  return [
    NAME,
    ['TTFT ms', ({ cost }) => number(cost[length]?.ttft_ms, 0)],
    ['x', ({ ratios }) => number(ratios.cost[length]?.ttft_speedup)],
    ['prefill tok/s', ({ cost }) => number(cost[length]?.prefill_tokens_per_s, 0)],
    ['decode tok/s', ({ cost }) => number(cost[length]?.decode_tokens_per_s, 1)],
    ['x', ({ ratios }) => number(ratios.cost[length]?.decode_speedup)],
    ['computed', ({ cost }) => number(cost[length]?.computed_share)],
    ['KV end', ({ cost }) => number(cost[length]?.kv_share)],
    ['KV peak', ({ cost }) => number(cost[length]?.kv_peak_share)],
    ['pool end', ({ ratios }) => number(ratios.cost[length]?.pool_end)],
    ['pool peak', ({ ratios }) => number(ratios.cost[length]?.pool_peak)],
  ];
}

/**
 * Exact answers in % with their 95 % interval, perplexities a token; then one table of costs for each length, in which
 * `x` is the speed against dense and memory is a share of dense. `-` = not measured.
 */
export function resultTables(results: readonly SettingResult[]): string {
  const lengths = Object.keys(results[0]?.cost ?? {});
  const costs = lengths.map((length) => {
    const tokens = results[0]?.cost[length]?.prompt_tokens ?? 0;
    return `Cost at ${length} (${tokens.toFixed(0)} prompt tokens)\n\n${markdown(costColumns(length), results)}`;
  });
  const hasQuality = results[0]?.quality != null && Object.keys(results[0].quality).length > 0;
  const quality = hasQuality ? [`Quality\n\n${markdown(qualityColumns(results), results)}`] : [];
  return [...quality, ...costs].join('\n\n');
}
