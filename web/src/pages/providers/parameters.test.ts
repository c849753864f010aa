import { expect, it } from 'vitest';

import type { Parameter } from './api';
import { chosen } from './parameters';

const one = (name: string, type: Parameter['type']): Parameter => ({
  name, type, description: '', optional: true, default: null, min: null, max: null, choices: [],
});

it('sends what was filled in, and in the right type', () => {
  const known = [one('epochs', 'int'), one('learning_rate', 'float'), one('scheduler', 'string'), one('use_dora', 'bool')];
  expect(chosen(known, { epochs: '3', learning_rate: '2e-5', scheduler: 'cosine', use_dora: true })).toEqual({
    epochs: 3, learning_rate: 2e-5, scheduler: 'cosine', use_dora: true,
  });
  expect(chosen(known, { epochs: '', learning_rate: 'much', other: '1' })).toEqual({});
});
