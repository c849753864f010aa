import type { Body, Parameter, Setting } from './api';
import type { Key } from './words';

/** What the form holds, by the names of `POST /train`; "" and undefined are empty. `name` becomes `output_dir`. */
export type Filled = Record<string, Setting>;

/** What somebody who tunes for the first time may want to set. */
export const MAIN: readonly string[] = ['num_epochs', 'batch_size', 'learning_rate', 'lora_r', 'lora_alpha', 'max_length'];

/** The fields that name something, and what `POST /train` calls them. */
export const OWN_NAMES: Record<string, string> = {
  base: 'base_model', dataset: 'dataset_path', name: 'name', validation: 'validation_path', replay: 'replay_path',
  control: 'control_path',
};
export const PATHS = ['replay', 'control'] as const;

const RECIPE_NAMES: Record<string, string> = {
  epochs: 'num_epochs', rank: 'lora_r', alpha: 'lora_alpha', dropout: 'lora_dropout',
  scheduler: 'lr_scheduler_type', gradient_accumulation: 'gradient_accumulation_steps', evaluate_every: 'eval_steps',
};

/** Settings of a run, or changes of a plan, as the form holds them. */
export function fromRecipe(recipe: Record<string, Setting>): Filled {
  const found: Filled = {};
  for (const [name, value] of Object.entries(recipe)) {
    if (value === null) continue;
    found[RECIPE_NAMES[name] ?? name] = Array.isArray(value) ? value.join(', ') : value;
  }
  return found;
}

const empty = (value: Setting | undefined): boolean => value === undefined || value === null || value === '';

/** What is sent: what was filled in, and the defaults that the form shows for the rest. */
export function bodyOf(filled: Filled, known: Parameter[]): Body {
  const body: Record<string, Setting> = {};
  for (const name of Object.values(OWN_NAMES)) {
    const value = String(filled[name] ?? '').trim();
    if (value && name !== 'name') body[name] = value;
  }
  const name = String(filled['name'] ?? '').trim();
  if (name) body['output_dir'] = `adapters/${name}`;
  for (const each of known) {
    const value = filled[each.name];
    if (each.kind === 'list[str]') {
      const modules = String(value ?? '').split(/[\s,，]+/).filter(Boolean);
      if (modules.length) body[each.name] = modules;
    } else if (value !== undefined && !empty(value)) {
      body[each.name] = value;
    } else if (each.default !== null) {
      body[each.name] = each.default;
    }
  }
  return body as Body; // by the names that the server told; `faults` finds what is missing
}

/** What cannot be sent, by field. */
export function faults(
  filled: Filled,
  known: Parameter[],
  say: (key: Key, values?: Record<string, string | number>) => string,
): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of ['base_model', 'dataset_path']) {
    if (empty(filled[name]) || String(filled[name]).trim() === '') found[name] = say('form.needed');
  }
  for (const { name, kind, minimum, maximum } of known) {
    const value = filled[name];
    if (empty(value) || minimum === null || maximum === null) continue;
    const number = Number(value);
    if (!Number.isFinite(number) || number < minimum || number > maximum || (kind === 'int' && !Number.isInteger(number))) {
      found[name] = say('form.number', { low: minimum, high: maximum });
    }
  }
  return found;
}
