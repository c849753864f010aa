import { expect, it } from 'vitest';

import type { Parameter, Setting } from './api';
import { bodyOf, faults, fromRecipe } from './form';

const parameter = (name: string, kind: string, value: Setting, low: number | null = null, high: number | null = null): Parameter => ({
  name, kind, default: value, minimum: low, maximum: high, choices: [], description: '',
});
const KNOWN = [
  parameter('num_epochs', 'int', 7, 1, 1000),
  parameter('learning_rate', 'float', 0.001, 0, 1),
  parameter('quantization', 'str', null),
  parameter('target_modules', 'list[str]', []),
];
const say = (key: string) => key;

it('sends what was filled in and the shown defaults of the rest', () => {
  const body = bodyOf({ base_model: 'b', dataset_path: ' data/x.jsonl ', name: 'town', learning_rate: 0.1, target_modules: 'q_proj，v_proj' }, KNOWN);
  expect(body).toEqual({
    base_model: 'b', dataset_path: 'data/x.jsonl', output_dir: 'adapters/town', num_epochs: 7, learning_rate: 0.1,
    target_modules: ['q_proj', 'v_proj'],
  });
});

it('finds what cannot be sent before it is', () => {
  expect(Object.keys(faults({ base_model: 'b', dataset_path: ' ', num_epochs: 1.5, learning_rate: 2 }, KNOWN, say))).toEqual(
    ['dataset_path', 'num_epochs', 'learning_rate'],
  );
  expect(faults({ base_model: 'b', dataset_path: 'x' }, KNOWN, say)).toEqual({});
});

it('fills in the settings of a run and the changes of a plan', () => {
  expect(fromRecipe({ rank: 4, max_length: 64, target_modules: ['q_proj'], quantization: null })).toEqual(
    { lora_r: 4, max_length: 64, target_modules: 'q_proj' },
  );
});
