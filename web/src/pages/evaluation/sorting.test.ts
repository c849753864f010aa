import { expect, it } from 'vitest';

import type { Row } from './api';
import { arranged, difference } from './sorting';

const row = (index: number, tuned: number, base?: number): Row => ({
  index, prompt: [{ role: 'user', content: `Question ${index}` }], expected: 'x', output: 'y', scores: { f: tuned },
  ...(base === undefined ? {} : { base: { scores: { f: base }, output: 'z' } }),
});
const order = (rows: Row[]) => rows.map((each) => each.index);

it('sorts by what tuning gained, equal ones in their order', () => {
  const rows = [row(0, 1, 1), row(1, 1, 0), row(2, 0, 1), row(3, 1, 1)];
  expect(order(arranged(rows, 'f', false, 'gain', ''))).toEqual([1, 0, 3, 2]);
  expect(order(arranged(rows, 'f', false, 'loss', ''))).toEqual([2, 0, 3, 1]);
  expect(order(arranged(rows, 'f', true, 'gain', ''))).toEqual([2, 0, 3, 1]);
  expect(difference(rows[1]!, 'f', true)).toBe(-1);
});

it('sorts by the value where nothing is compared, and finds text', () => {
  const rows = [row(0, 1), row(1, 5), row(2, 3)];
  expect(order(arranged(rows, 'f', false, 'best', ''))).toEqual([1, 2, 0]);
  expect(order(arranged(rows, 'f', true, 'best', ''))).toEqual([0, 2, 1]);
  expect(order(arranged(rows, 'f', false, 'order', 'QUESTION 2'))).toEqual([2]);
});

it('sorts a hundred thousand rows', () => {
  const rows = Array.from({ length: 100_000 }, (_, i) => row(i, Math.sin(i), Math.cos(i)));
  const found = arranged(rows, 'f', false, 'gain', '').map((each) => difference(each, 'f', false)!);
  expect(found.length).toBe(100_000);
  expect(found.every((each, i) => i === 0 || each <= found[i - 1]!)).toBe(true);
});
