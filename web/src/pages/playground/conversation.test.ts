import { expect, test } from 'vitest';

import {
  type Answer, begun, bodyOf, messagesFor, restored, speedOf, type Turn, twoByChance, USUAL,
} from './conversation';

const answer = (column: string, text: string, changes: Partial<Answer> = {}): Answer => ({
  ...begun({ key: column, model: column.toUpperCase() }), text, state: 'done', ...changes,
});
const turn = (prompt: string, answers: Answer[], changes: Partial<Turn> = {}): Turn => ({
  key: prompt, prompt, answers, blind: false, verdict: null, ...changes,
});

test('a column is shown its own answers alone, and no turn that it did not answer', () => {
  const turns = [
    turn('one', [answer('a', 'A1'), answer('b', 'B1')]),
    turn('two', [answer('a', ''), answer('b', 'B2')]),
  ];
  const said = messagesFor(turns, 'a', 'three', ' ');
  expect(said.map((message) => message.content)).toEqual(['one', 'A1', 'three']);
  expect(messagesFor(turns, 'b', 'three', 'be kind').map((message) => `${message.role}: ${message.content}`)).toEqual([
    'system: be kind', 'user: one', 'assistant: B1', 'user: two', 'assistant: B2', 'user: three',
  ]);
  expect(messagesFor(turns, 'new', 'three', '')).toHaveLength(1);
});

test('a blind conversation goes on from the preferred answer, for every column', () => {
  const turns = [turn('one', [answer('a', 'A1'), answer('b', 'B1')], { blind: true, verdict: 'right' })];
  for (const column of ['a', 'b', 'c']) {
    expect(messagesFor(turns, column, 'two', '').map((message) => message.content)).toEqual(['one', 'B1', 'two']);
  }
});

test('a body says only what was chosen', () => {
  const empty = { ...USUAL, temperature: '', topP: '', maxTokens: '' } as const;
  expect(bodyOf('m', [], empty)).toEqual({ model: 'm', messages: [] });
  expect(bodyOf('m', [], { ...empty, temperature: 0, seed: 7, topK: 5, repetitionPenalty: 1.1, stop: ['x'] })).toEqual({
    model: 'm', messages: [], temperature: 0, seed: 7, top_k: 5, repetition_penalty: 1.1, stop: ['x'],
  });
});

test('what was being written before a reload is interrupted, what was done stays', () => {
  const before = [turn('one', [answer('a', 'half', { state: 'writing' }), answer('b', '', { state: 'waiting' }), answer('c', 'C')])];
  const [after] = restored(before);
  expect(after!.answers.map((each) => `${each.state} ${each.text}`)).toEqual(['interrupted half', 'interrupted ', 'done C']);
  expect(before[0]!.answers[0]!.state).toBe('writing');
});

test('two are drawn, both of them different, and every order of every two comes up as often', () => {
  const counts = new Map<string, number>();
  for (let first = 0; first < 12; first += 1) {
    for (let second = 0; second < 12; second += 1) {
      const random = [first / 12, second / 12];
      const pair = twoByChance(['a', 'b', 'c'], () => random.pop()!).join('');
      counts.set(pair, (counts.get(pair) ?? 0) + 1);
    }
  }
  expect([...counts].sort()).toEqual([['ab', 24], ['ac', 24], ['ba', 24], ['bc', 24], ['ca', 24], ['cb', 24]]);
});

test('speed is that of writing, or said to be exceeded where all came at once', () => {
  expect(speedOf(answer('a', 'x', { tokens: 11, firstTokenMs: 500, totalMs: 1500 }))).toEqual({ perSecond: 10, exact: true });
  expect(speedOf(answer('a', 'x', { tokens: 10, firstTokenMs: 490, totalMs: 500 }))).toEqual({ perSecond: 20, exact: false });
  expect(speedOf(answer('a', 'x', { tokens: 10, firstTokenMs: 8990, totalMs: 9000 }))).toBeNull();
  expect(speedOf(answer('a', 'x', { tokens: null, firstTokenMs: 490, totalMs: 500 }))).toBeNull();
  expect(speedOf(answer('a', 'x', { tokens: 3, firstTokenMs: 490 }))).toBeNull();
});
