import { expect, test } from 'vitest';

import { begun, type Turn } from './conversation';
import { decided, preferencePairs, tallies, type Vote, voteOn, wilson } from './votes';

const vote = (left: string, right: string, verdict: Vote['verdict'], texts = ['L', 'R']): Vote => ({
  at: '2026-01-01T00:00:00.000Z', left, right, verdict, prompt: [{ role: 'user', content: 'q' }],
  leftText: texts[0]!, rightText: texts[1]!,
});

// R: prop.test(x, n, correct = FALSE)
test.each([
  [8, 10, 0.4901625, 0.9433178],
  [0, 10, 0, 0.2775328],
  [10, 10, 0.7224672, 1],
  [1, 1, 0.2065493, 1],
  [60, 100, 0.5020026, 0.6905987],
])('%i of %i lie within the Wilson interval', (wins, trials, low, high) => {
  const found = wilson(wins, trials)!;
  expect(found.share).toBe(wins / trials);
  expect(found.low).toBeCloseTo(low, 6);
  expect(found.high).toBeCloseTo(high, 6);
});

test('nothing decided has no interval, and a doubtful one decides nothing', () => {
  expect(wilson(0, 0)).toBeNull();
  expect(decided(wilson(8, 10)!)).toBe(false);
  expect(decided(wilson(60, 100)!)).toBe(true);
  expect(decided(wilson(1, 30)!)).toBe(true);
});

test('a tally does not mind on which side a model stood, and says ties apart', () => {
  const votes = [
    vote('b', 'a', 'left'), vote('a', 'b', 'right'), vote('a', 'b', 'left'), vote('b', 'a', 'tie'), vote('a', 'b', 'bad'),
    vote('a', 'a', 'left'), vote('c', 'a', 'left'),
  ];
  expect(tallies(votes)).toEqual([
    { first: 'a', second: 'b', firstWins: 1, secondWins: 2, ties: 1, bad: 1 },
    { first: 'a', second: 'c', firstWins: 0, secondWins: 1, ties: 0, bad: 0 },
  ]);
});

test('pairs are the decided votes whose answers differ, a line each', () => {
  const votes = [
    vote('a', 'b', 'right', ['worse\n', 'better']), vote('a', 'b', 'tie'), vote('a', 'b', 'left', ['same', 'same']),
    vote('a', 'b', 'left', ['said', ' ']),
  ];
  const text = preferencePairs(votes);
  expect(text.endsWith('\n')).toBe(true);
  expect(text.trim().split('\n').map((line) => JSON.parse(line) as unknown)).toEqual([
    { prompt: [{ role: 'user', content: 'q' }], chosen: 'better', rejected: 'worse\n' },
  ]);
  expect(preferencePairs([])).toBe('');
});

test('a vote is about who spoke, and looking without judging is none', () => {
  const answers = [
    { ...begun({ key: '1', model: 'prod' }), spoke: 'town@3', text: 'x' }, { ...begun({ key: '2', model: 'base' }), text: 'y' },
  ];
  const turn: Turn = { key: 't', prompt: 'q', answers, blind: true, verdict: null };
  const found = voteOn(turn, 'left', [{ role: 'user', content: 'q' }], new Date(0))!;
  expect([found.left, found.right, found.leftText, found.rightText]).toEqual(['town@3', 'base', 'x', 'y']);
  expect(found.at).toBe('1970-01-01T00:00:00.000Z');
  expect(voteOn(turn, 'skipped', [], new Date(0))).toBeNull();
});
