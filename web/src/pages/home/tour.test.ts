import { expect, test } from 'vitest';

import type { Samples, Task } from './api';
import { conversationOf, isNew, lastAsked, linePoints, standings, took, tourOf } from './tour';

const samples = (installed: boolean): Samples => ({
  installed, files: [], examples: [], questions: [],
  train: {
    base_model: 'base', dataset_path: 'data/samples/train.jsonl', replay_path: 'data/samples/general.jsonl', replay_share: 0.5,
    num_epochs: 7, batch_size: 16, learning_rate: 1e-3, warmup_ratio: 0, max_length: 128, lora_r: 16, lora_alpha: 32, lora_dropout: 0,
  },
});
const task = (status: Task['status'], dataset = 'data/samples/train.jsonl', id: string = status): Task => ({
  task_id: id, status, progress: 0, current_epoch: 0, total_epochs: 7, current_step: 0, total_steps: 0, loss: null,
  learning_rate: null, tokens_per_second: null, seconds_left: null, seconds_silent: null,
  base_model: 'base', dataset_path: dataset, created_at: '', started_at: null, completed_at: null, output_dir: 'adapters/x',
  error: null,
});
const stand = (installed: boolean, tasks: Task[], answered = false): string =>
  standings(tourOf(samples(installed), tasks), answered).join(' ');

test('each step is told from the record', () => {
  expect(stand(false, [])).toBe('next later later');
  expect(stand(true, [])).toBe('done next later');
  expect(stand(true, [task('queued')])).toBe('done running later');
  expect(stand(true, [task('failed')])).toBe('done next later');
  expect(stand(true, [task('completed')])).toBe('done done next');
  expect(stand(true, [task('running'), task('completed')], true)).toBe('done running done');
  expect(stand(true, [task('completed')], true)).toBe('done done done');
});

test('runs on other data are no part of it, and make nobody new', () => {
  const other = task('completed', 'data/mine.jsonl');
  expect(stand(true, [other])).toBe('done next later');
  expect(isNew(samples(true), [other])).toBe(false);
  expect(isNew(samples(true), [task('completed'), task('failed', 'data/mine.jsonl')])).toBe(true);
});

test('the newest completed run is asked, though a later one failed', () => {
  const tour = tourOf(samples(true), [task('failed'), task('completed'), task('completed', undefined, 'old')]);
  expect([tour.run!.task_id, tour.tuned!.task_id]).toEqual(['failed', 'completed']);
});

test('the question asked last is found again under its run', () => {
  const ids = [conversationOf('r2', 'zz', 'base'), 'mine', conversationOf('r1', 'b7', 'tuned'), conversationOf('r1', 'a1', 'base')];
  expect(lastAsked(ids, 'r1')).toBe('b7');
  expect(lastAsked(ids, 'r')).toBeNull();
});

test('a line is as wide as its box, and has no more points than that', () => {
  expect(linePoints([2, null, 1, 0], 100, 10)).toBe('0.0,0.0 50.0,5.0 100.0,10.0');
  expect(linePoints([1], 100, 10)).toBe('');
  expect(linePoints([1, 1], 100, 10)).toBe('0.0,10.0 100.0,10.0');
  expect(linePoints(Array.from({ length: 100_000 }, (_, at) => at), 300, 60).split(' ').length).toBeLessThanOrEqual(300);
});

test('a run took what lies between its start and its end', () => {
  const ended = { ...task('completed'), started_at: '2026-01-01T00:00:00', completed_at: '2026-01-01T00:01:05' };
  expect(took(ended)).toBe(65);
  expect(took(task('running'))).toBeNull();
});
