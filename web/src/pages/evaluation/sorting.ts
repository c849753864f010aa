import type { Result, Row } from './api';

export type Order = 'gain' | 'loss' | 'order' | 'best' | 'worst';

/** How much better the answer is than the base's by `figure` (above zero is better); null where there is no base. */
export function difference(row: Row, figure: string, lower: boolean): number | null {
  const tuned = row.scores[figure];
  const base = row.base?.scores[figure];
  if (tuned === undefined || base === undefined) return null;
  return lower ? base - tuned : tuned - base;
}

/** What a row is sorted by: its difference, or its own value where nothing is compared; higher is better. */
export function worth(row: Row, figure: string, lower: boolean): number {
  const own = row.scores[figure] ?? 0;
  return difference(row, figure, lower) ?? (lower ? -own : own);
}

/** `rows` that hold `text`, in `order`; equal ones stay in the order of the questions. */
export function arranged(rows: Row[], figure: string, lower: boolean, order: Order, text: string): Row[] {
  const wanted = text.trim().toLowerCase();
  const found = wanted ? rows.filter((row) => textOf(row).includes(wanted)) : [...rows];
  if (order === 'order') return found;
  const sign = order === 'gain' || order === 'best' ? -1 : 1;
  const keyed = found.map((row) => ({ row, key: sign * worth(row, figure, lower) }));
  return keyed.sort((one, other) => one.key - other.key || one.row.index - other.row.index).map(({ row }) => row);
}

function textOf(row: Row): string {
  const asked = row.prompt.map((turn) => turn.content).join('\n');
  return `${asked}\n${row.expected}\n${row.output ?? ''}\n${row.base?.output ?? ''}`.toLowerCase();
}

const LEADING = ['exact_match', 'rougeL', 'bleu', 'perplexity', 'rouge1', 'rouge2'];

/** The figure that is worth looking at row by row: the leading one of those that differ for sure, else of all. */
export function telling({ metrics, difference: differences }: Result): string {
  const names = Object.keys(metrics).sort((one, other) => LEADING.indexOf(one) - LEADING.indexOf(other));
  return names.find((name) => differences?.[name]?.significant) ?? names.find((name) => name === 'rougeL') ?? names[0] ?? '';
}
